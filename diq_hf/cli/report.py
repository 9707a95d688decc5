"""`diq report`: a scored dataset in, a page to look at out."""

from pathlib import Path
from typing import Annotated

import typer

from .inputs import load_rows, repository_of
from .options import (
    HubToken,
    MaxMismatch,
    MaxSimilarity,
    Overwrite,
    Private,
    PushToSpace,
    TextField,
    share_of,
    token_of,
)
from .outputs import check_page, load_recipe


# Options that say how a page is published.
_OF_A_SPACE = ("dataset", "config_name", "private", "token_env")


def report(
    context: typer.Context,
    scored: Annotated[
        str,
        typer.Argument(help="A scored dataset, as `diq score` writes it; or a page to publish, of an earlier run."),
    ],
    output: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    overwrite: Overwrite = False,
    ratio: Annotated[float | None, typer.Option(help="Share of the rows that counts as selected; 0.1.")] = None,
    num_rows: Annotated[int | None, typer.Option(help="Number of selected rows, instead of --ratio.")] = None,
    difficulty_percentile: Annotated[float, typer.Option(help="Percentile above which a row is difficult.")] = 50,
    max_mismatch: MaxMismatch = "auto",
    max_similarity: MaxSimilarity = "auto",
    title: Annotated[str | None, typer.Option(help="Heading; the dataset's name by default.")] = None,
    dataset_text_field: TextField = "text",
    max_rows: Annotated[int, typer.Option(help="Rows whose text the page holds for its search.")] = 2000,
    push_to_space: PushToSpace = None,
    dataset: Annotated[
        str | None, typer.Option(help="Dataset repository of `diq push`, whose card gets a link to the Space.")
    ] = None,
    config_name: Annotated[str | None, typer.Option(help="Configuration there, if it has several.")] = None,
    private: Private = False,
    token_env: HubToken = None,
) -> None:
    """Show a scored dataset on one page: quadrants, lengths, duplicates, rows to read and to search."""
    is_page = scored.endswith(".html") and Path(scored).is_file()
    if is_page:
        _check_page(context, scored)
    else:
        check_page(output, overwrite, [scored])
    space = None
    if push_to_space is not None:
        from ..publishing.space import ReportSpace

        shown, token = () if is_page else _places(scored), token_of(token_env)
        space = ReportSpace(push_to_space, dataset, config_name, private=private or None, token=token, shown=shown)
    elif given := next((name for name in _OF_A_SPACE if context.params[name]), None):
        raise ValueError(f"--{given.replace('_', '-')} goes with --push-to-space.")
    if not is_page:
        from ..reporting.report import write_report
        from ..selection.quadrants import QuadrantRule

        rows = load_rows(scored)
        write_report(
            rows,
            output,
            ratio,
            num_rows,
            QuadrantRule.fit(rows, difficulty_percentile=difficulty_percentile),
            title or Path(scored).name,
            dataset_text_field=dataset_text_field,
            max_rows=max_rows,
            max_mismatch=share_of("--max-mismatch", max_mismatch),
            max_similarity=share_of("--max-similarity", max_similarity),
        )
        typer.echo(f"{len(rows)} rows in {output}")
    if space is not None:
        typer.echo(space.push(scored if is_page else output))


def _places(scored: str) -> list[str]:
    """Where on the Hub the rows are from: they are read from there, or the recipe beside a local copy says so."""
    recipe = load_recipe(scored)
    source = recipe.pool.name if recipe is not None and recipe.pool and recipe.pool.on_hub else None
    return [place for place in (repository_of(scored), source) if place is not None]


def _check_page(context: typer.Context, page: str) -> None:
    """A page is published as it is."""
    from ..publishing.space import read_page

    read_page(page)
    known = ("scored", "push_to_space", *_OF_A_SPACE, "config", "debug")
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name)
        if parameter.name not in known and given is not None and given.name != "DEFAULT":
            raise ValueError(f"A page is published as it is: leave out {parameter.opts[0]}, or name a scored dataset.")
    if context.params["push_to_space"] is None:
        raise ValueError(f"{page} is a page already. Publish it with --push-to-space, or name a scored dataset.")
