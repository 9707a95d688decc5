"""`diq select`: a scored dataset and a budget in, the subset out."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from .audited import select_unscored
from .options import MaxMismatch, MaxSimilarity, Overwrite, command_line, share_of
from .outputs import check_folder, load_recipe, save_dataset
from .reading import AS_IT_IS, Reading
from .scoring_options import AS_USUAL, SCORING_OPTIONS, ScoringOptions


# Up to so many parameters the hardest rows are known to do harm.
SMALL = 3e9
TOO_HARD = (
    "1,000 hard rows took a 1.5B model from 54.3 to 45.4 points where they raised strong ones, and models up to 3B "
    "learn less from long reasoning than from short (https://huggingface.co/papers/2502.12143). Compare with "
    "--max-difficulty-percentile 90, or with the default --difficulty-percentile."
)


def select(
    context: typer.Context,
    scored: Annotated[str, typer.Argument(help="A scored dataset, as `diq score` writes it; with --model any pool.")],
    output: Annotated[Path, typer.Option(help="Folder for the subset.")],
    overwrite: Overwrite = False,
    reading: Reading = AS_IT_IS,
    ratio: Annotated[float | None, typer.Option(help="Share of the rows, in (0, 1].")] = None,
    num_rows: Annotated[int | None, typer.Option(help="Number of rows, instead of --ratio.")] = None,
    num_tokens: Annotated[int | None, typer.Option(help="Number of trained tokens, instead of --ratio.")] = None,
    strategy: Annotated[
        str, typer.Option(help="diq, random, influence, difficulty, loss, length or column:NAME.")
    ] = "diq",
    difficulty_percentile: Annotated[float, typer.Option(help="Percentile above which a row is difficult.")] = 50,
    max_difficulty_percentile: Annotated[
        float | None, typer.Option(help="Percentile above which a row is too difficult to be taken.")
    ] = None,
    per: Annotated[
        str,
        typer.Option(help="What an influence counts for: paper, token (batches of equal tokens) or row (equal rows)."),
    ] = "paper",
    max_mismatch: MaxMismatch = "auto",
    max_similarity: MaxSimilarity = "auto",
    text_column: Annotated[
        list[str] | None, typer.Option(help="Column of a row's text, the answer last (repeatable); by its format.")
    ] = None,
    balance: Annotated[str | None, typer.Option(help="Column whose values get equal shares of the budget.")] = None,
    quota: Annotated[
        list[str] | None, typer.Option(help="Share of a value of --balance: medquad=0.3 (repeatable).")
    ] = None,
    order: Annotated[
        str,
        typer.Option(
            help="Who comes first inside a quadrant: the larger influence, a random draw, or by alignment the "
            "validation rows' choices in turn; auto: alignment where it was scored, else random; a search: influence."
        ),
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of whatever is drawn.")] = 0,
    pool_output: Annotated[
        Path | None, typer.Option(help="Also save all rows here, with scores and why each was not taken.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Select from a pool that is not scored: score rows as they are drawn, or those a search finds."
        ),
    ] = None,
    validation: Annotated[str | None, typer.Option(help="Validation rows, with --model.")] = None,
    max_scored: Annotated[
        float | None,
        typer.Option(help="Share of the pool that a search may score, with --model; 0.45, more of a small pool."),
    ] = None,
    scoring: ScoringOptions = AS_USUAL,
) -> None:
    """Pick rows by quadrant (Q1, Q2, Q3, Q4) until the budget is met, and save them.

    With --model and --validation the pool need not be scored: a share of it is, and an audit says how much of the
    selection was found. How rows are scored is said by the same options as with `diq score`.
    """
    for folder in filter(None, (output, pool_output)):
        check_folder(folder, overwrite, [scored, model, validation])
    if pool_output is not None and pool_output.resolve() == output.resolve():
        raise ValueError("`pool_output` and `output` are the same folder. Name two.")
    if quota and balance is None:
        raise ValueError("--quota needs the column of its values: --balance source --quota medquad=0.3.")
    settings = {
        "ratio": ratio,
        "num_rows": num_rows,
        "num_tokens": num_tokens,
        "per": per,
        "seed": seed,
        "difficulty_percentile": difficulty_percentile,
        "order": order,
        "max_mismatch": share_of("--max-mismatch", max_mismatch),
        "max_similarity": share_of("--max-similarity", max_similarity),
        "text_columns": text_column or None,
        "balance": {balance: dict(map(_quota, quota))} if quota else balance,
    }
    if model is not None:
        others = {
            "strategy": strategy != "diq",
            "max_difficulty_percentile": max_difficulty_percentile is not None,
        }
        if given := [name for name, is_given in others.items() if is_given]:
            raise ValueError(f"`{given[0]}=` needs the scores of the whole pool: `diq score` first, then select.")
        if validation is None:
            raise ValueError("`model=` needs `validation=` as well: the rows whose loss is to fall.")
        places = output, pool_output, overwrite
        select_unscored(context, scored, reading, *places, settings, model, validation, max_scored, scoring)
        return
    of_model = ("columns", "prompt", "completion", "system", "validation", "max_scored", *SCORING_OPTIONS)
    if given := [name for name in of_model if context.get_parameter_source(name).name != "DEFAULT"]:
        raise ValueError(f"`{given[0]}=` goes with `model=`, for a pool that is not scored.")
    from ..recipe import Recipe
    from ..selection.proof import derive_selection
    from ..selection.quadrants import QUADRANTS, REASONS
    from ..selection.settings import settings_for

    rows = reading.load(scored)
    settings |= {"strategy": strategy, "max_difficulty_percentile": max_difficulty_percentile}
    pool, subset, selection = derive_selection(rows, settings_for(rows, **settings))
    recipe = load_recipe(scored) or Recipe()
    commands = (*(recipe.commands or ()), command_line(context))
    recipe = replace(recipe, commands=commands, selection=selection, audit=None)  # an audit is of another selection
    save_dataset(subset, output, overwrite, recipe)
    if pool_output is not None:
        save_dataset(pool, pool_output, overwrite, recipe)
    counts = ", ".join(f"{name} {getattr(selection.subset, name)}" for name in QUADRANTS)
    typer.echo(f"{len(subset)} of {len(rows)} rows ({counts}) in {output}")
    parameters = recipe.model and recipe.model.parameters
    if parameters and parameters <= SMALL and (strategy == "difficulty" or difficulty_percentile > 50):
        typer.secho(f"diq: {parameters / 1e9:.2g}B parameters are few. {TOO_HARD}", fg="yellow", err=True)
    if passed_over := [
        f"{count} {reason}" for reason, count in selection.reasons.items() if reason not in REASONS[:2]
    ]:
        typer.echo(f"Passed over: {', '.join(passed_over)}")


def _quota(text: str) -> tuple[str, float]:
    name, _, share = text.rpartition("=")
    try:
        return name, float(share)
    except ValueError:
        raise ValueError(f"--quota is {text!r}; it is a value and its share: medquad=0.3.") from None
