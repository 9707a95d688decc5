"""`diq select POOL --model …`: a subset of a pool that is not scored as a whole."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from .inputs import load_rows, split_of
from .leaks import warn_of_leaks
from .options import command_line
from .outputs import is_first_process, save_dataset
from .reading import Reading


def select_unscored(
    context: typer.Context,
    pool: str,
    reading: Reading,
    output: Path,
    overwrite: bool,
    ratio: float | None,
    num_rows: int | None,
    max_mismatch: float | str | None,
    seed: int,
    model: str,
    validation: str,
    difficulty: str,
    max_scored: float,
    max_length: int | None,
    dtype: str | None,
    cache_dir: Path | None,
) -> None:
    """Scores a share of the pool, saves the subset with the audit in its recipe, and says what was found."""
    from ..names import public_name
    from ..recipe import SelectionFacts, Source
    from ..scoring.scorer import DIQScorer
    from ..selection.proof import count_quadrants
    from ..selection.settings import MAX_MISMATCH, MAX_SIMILARITY

    rows, validation_rows = reading.rows(pool), reading.beside(load_rows(validation))
    if is_first_process():
        warn_of_leaks(rows, validation_rows)
    # As in `diq score`, the test is on by default where its losses are needed anyway.
    tested = max_mismatch is not None and (max_mismatch != "auto" or difficulty == "ifd")
    scorer = DIQScorer(
        model,
        validation_rows,
        difficulty=difficulty,
        max_length=max_length,
        extra_columns=("loss", "num_tokens", "num_trained", *(("mismatch",) if tested else ())),
        model_init_kwargs={} if dtype is None else {"dtype": dtype},
    )
    if max_mismatch == "auto":
        leave_mismatch_out(scorer, rows)
    settings = {"max_scored": max_scored, "max_mismatch": max_mismatch, "seed": seed}
    subset, audit = scorer.select(rows, ratio, num_rows, cache_dir=cache_dir, **settings)
    bound = MAX_MISMATCH if max_mismatch == "auto" else max_mismatch
    if is_first_process():
        recipe = replace(
            scorer.recipe(),
            pool=reading.source(pool, rows),
            validation_source=Source(**public_name(validation), split=split_of(validation_rows)),
            commands=(command_line(context),),
            selection=SelectionFacts(
                ratio=ratio,
                num_rows=num_rows,
                seed=seed,
                max_mismatch=bound if scorer.tests_mismatch else None,
                max_similarity=MAX_SIMILARITY,
                subset=count_quadrants(subset),
            ),
        )
        save_dataset(subset, output, overwrite, reading.recorded(recipe))
        typer.echo(f"{len(subset)} of {len(rows)} rows in {output}")
        typer.echo(str(audit))


def leave_mismatch_out(scorer: Any, rows: Any) -> None:
    """Of columns that were not asked for: rows that give too few pairs to calibrate `mismatch` are scored without."""
    from ..scoring.mismatch import can_calibrate

    if scorer.tests_mismatch and not can_calibrate(scorer, rows):
        scorer.extra_columns = tuple(name for name in scorer.extra_columns if name != "mismatch")
        if is_first_process():
            typer.secho(
                "Without `mismatch`: there are too few answers with other prompts to hold rows against.", err=True
            )
