"""`diq select POOL --model …`: a subset of a pool that is not scored as a whole."""

from pathlib import Path
from typing import Any

import typer

from .outputs import is_first_process, save_dataset
from .reading import Reading
from .scoring_options import ScoringOptions


def select_unscored(
    context: typer.Context,
    pool: str,
    reading: Reading,
    output: Path,
    pool_output: Path | None,
    overwrite: bool,
    settings: dict[str, Any],
    model: str,
    validation: str,
    max_scored: float | None,
    scoring: ScoringOptions,
) -> None:
    """Scores a share of the pool, saves the subset with the audit in its recipe, and says what was found.

    Args:
        context (`typer.Context`):
            Of the command.
        pool (`str`):
            Name of the pool.
        reading ([`Reading`]):
            How it is read.
        output (`Path`):
            Folder for the subset.
        pool_output (`Path`, *optional*):
            Folder for the pool with the scores there are.
        overwrite (`bool`):
            Whether folders of an earlier run are replaced.
        settings (`dict`):
            How to select: arguments of [`~diq_hf.DIQScorer.select`].
        model (`str`):
            The model.
        validation (`str`):
            The validation rows.
        max_scored (`float`, *optional*):
            Share of the pool that may be scored.
        scoring ([`ScoringOptions`]):
            How rows are scored.
    """
    rows, validation_rows = scoring.both(pool, reading, validation)
    bound = settings["max_mismatch"]
    # As in `diq score`, the test is on by default where its losses are needed anyway.
    tested = bound is not None and (bound != "auto" or scoring.difficulty == "ifd")
    scorer = scoring.scorer(model, validation_rows, rows, tested)
    places = {"chunk_size": scoring.chunk_size, "cache_dir": scoring.cache_dir}
    subset, audit, known = scorer.select(rows, max_scored=max_scored, return_pool=True, **places, **settings)
    if is_first_process():
        recipe = scoring.recipe(context, scorer, pool, rows, reading, validation, validation_rows)
        save_dataset(subset, output, overwrite, recipe)
        if pool_output is not None:
            save_dataset(known, pool_output, overwrite, recipe)
        typer.echo(f"{len(subset)} of {len(rows)} rows in {output}")
        typer.echo(str(audit))
