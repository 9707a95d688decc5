"""`diq report`: a scored dataset in, a page to look at out."""

from pathlib import Path
from typing import Annotated

import typer

from .inputs import load_rows
from .options import MaxMismatch, MaxSimilarity, Overwrite, TextField, share_of
from .outputs import check_page


def report(
    scored: Annotated[str, typer.Argument(help="A scored dataset, as `diq score` writes it.")],
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
) -> None:
    """Show a scored dataset on one page: quadrants, lengths, duplicates, rows to read and to search."""
    check_page(output, overwrite, [scored])
    from ..reporting.report import write_report
    from ..selection.quadrants import QuadrantRule

    rows = load_rows(scored)
    rule = QuadrantRule.fit(rows, difficulty_percentile=difficulty_percentile)
    write_report(
        rows,
        output,
        ratio,
        num_rows,
        rule,
        title or Path(scored).name,
        dataset_text_field=dataset_text_field,
        max_rows=max_rows,
        max_mismatch=share_of("--max-mismatch", max_mismatch),
        max_similarity=share_of("--max-similarity", max_similarity),
    )
    typer.echo(f"{len(rows)} rows in {output}")
