"""From rows to score columns: encoded, refused where they cannot be scored, scored in one pass each."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from datasets.utils import tqdm
from transformers.utils import logging

from ..difficulty.answers import answer_losses, given_prompt
from ..difficulty.sources import ColumnDifficulty, RowBatch
from ..engine.influence import Direction
from ..rows.encoded import EncodedRow, RowError
from ..rows.validation import row_name
from ..selection.turns import ALIGNMENT
from .alignment import cosines
from .mismatch import MismatchNull, sources_of
from .recipe import projection_column
from .reliability import HALVES


logger = logging.get_logger(__name__)

# Columns that count, and are 0 rather than null where a row is refused.
COUNTS = ("num_tokens", "num_trained")


def score_rows(
    scorer: Any,
    rows: list[dict],
    indices: Sequence[int | None] | None = None,
    difficulties: Mapping[str, np.ndarray] | None = None,
    null: MismatchNull | None = None,
    halves: bool = False,
) -> dict[str, np.ndarray]:
    """A scorer's columns for some rows, NaN where a row was refused.

    Args:
        scorer ([`~diq_hf.DIQScorer`]):
            The scorer.
        rows (`list[dict]`):
            The rows, of the columns that scores depend on.
        indices (`Sequence[int | None]`, *optional*):
            Their positions in the dataset, where they are known.
        difficulties (`dict[str, np.ndarray]`, *optional*):
            What [`reusable_difficulties`] gave for them, where it is known already.
        null ([`~diq_hf.scoring.mismatch.MismatchNull`], *optional*):
            What `mismatch` is held against, if that is one of the columns.
        halves (`bool`, *optional*, defaults to `False`):
            Also give the column [`HALVES`].
    """
    indices = [None] * len(rows) if indices is None else list(indices)
    with scorer.meter.scoring(len(rows)):
        encoded: list[EncodedRow] = []
        prepared: list[Any] = []
        answers: list[EncodedRow] = []
        kept: list[int] = []
        for i, row in enumerate(rows):
            try:
                ready = scorer.encode(row)
                needs = scorer.difficulty.prepare(row, scorer.encoder) if scorer.difficulty else None
                answer = encode_answer(scorer, row) if null is not None else None
            except RowError as error:
                if scorer.on_bad_row == "skip" and all(row.get(name) is None for name in scorer.encoder.columns):
                    continue  # nothing is there, as where a template could not read it and said so; it is counted
                _refuse(scorer, f"{row_name(i, indices[i], row)}: {error}", error)
            else:
                encoded.append(ready)
                prepared.append(needs)
                answers.append(answer)
                kept.append(i)
        difference = scorer.half_difference() if halves else None
        columns = scorer.columns if difference is None else (*scorer.columns, HALVES)
        scores = {name: np.full(len(rows), np.nan) for name in columns}
        scores |= {name: np.zeros(len(rows)) for name in COUNTS}
        if scorer.projection:
            scores[projection_column(scorer)] = np.full((len(rows), scorer.projection.dim), np.nan)
        if ALIGNMENT in columns:
            scores[ALIGNMENT] = np.full((len(rows), sum(map(len, scorer.validation.values()))), np.nan)
        if encoded:
            found = _influences(scorer, encoded, difference)
            for i, influence, loss in zip(kept, found["influence"], found["loss"], strict=True):
                if not (np.isfinite(influence) and np.isfinite(loss)):
                    _refuse(
                        scorer,
                        f"{row_name(i, indices[i], rows[i])}: its loss is {loss} and its influence {influence}. Check "
                        "the row and the model's dtype (fp16 overflows where bf16 and fp32 do not).",
                    )
            forward, losses = (lambda rows: _losses(scorer, rows)), None
            if null is not None:
                given = given_prompt(answers, encoded, found["loss"], forward)
                losses = answer_losses(answers, scorer.encoder, forward, given)
                sources = sources_of([rows[i] for i in kept], scorer.source_column)
                found["mismatch"] = null(losses.gain, losses.surprise, sources)
            if difficulties is not None:
                found |= {name: values[kept] for name, values in difficulties.items()}
            elif scorer.difficulty is not None:
                found |= scorer.difficulty(RowBatch(prepared, encoded, found["loss"], scorer.encoder, forward, losses))
            unscored = ~(np.isfinite(found["influence"]) & np.isfinite(found["loss"]))
            for name, values in found.items():
                values = np.array(values, dtype=float)
                values[unscored] = np.nan
                scores[name] = np.full((len(rows), *values.shape[1:]), np.nan)
                scores[name][kept] = values
            scores["num_tokens"][kept] = [len(row) for row in encoded]
            scores["num_trained"][kept] = [row.num_trained for row in encoded]
    types = dict.fromkeys(columns, np.float32) | dict.fromkeys(COUNTS, np.int32)
    return {name: scores[name].astype(types[name]) for name in columns}


def reusable_difficulties(scorer: Any, rows: list[dict]) -> dict[str, np.ndarray]:
    """Columns of a difficulty source that needs no scoring model, NaN for a row that it cannot read."""
    prepared = {}
    for i, row in enumerate(rows):
        with contextlib.suppress(RowError):
            prepared[i] = scorer.difficulty.prepare(row, scorer.encoder)
    found = scorer.difficulty(RowBatch(list(prepared.values()), None, None, scorer.encoder, None))
    columns = {name: np.full(len(rows), np.nan) for name in found}
    for name, values in found.items():
        columns[name][list(prepared)] = values
    return columns


def encode_answer(scorer: Any, row: Mapping) -> EncodedRow:
    """A row as `mismatch` takes it."""
    try:
        return scorer.encoder.encode_answer(row)
    except RowError as error:
        raise RowError(f"`mismatch` cannot be taken: {error} Or leave it out of `extra_columns`.") from error


def _influences(scorer: Any, rows: Sequence[EncodedRow], difference: Direction | None) -> dict[str, np.ndarray]:
    """What one pass over the model gives."""
    groups = scorer.validation_gradients()
    directions = groups if difference is None else [*groups, difference]
    aligned = scorer.validation_projections() if ALIGNMENT in scorer.columns else None
    with progress("Scoring", rows) as bar:
        if scorer.compared_by:
            projected, influences, loss = scorer.engine.project(rows, directions, scorer.compared_by, bar.update)
        elif len(directions) > 1:
            influences, loss = scorer.engine.score(rows, directions, bar.update)
        else:
            influence, loss = scorer.engine.score(rows, directions[0], bar.update)
            influences = influence[:, None]
    # The mean over all rows: its gradient is the groups', weighted by their rows.
    weights = np.array([direction.num_rows for direction in groups], dtype=float)
    found = {"influence": influences[:, : len(groups)] @ (weights / weights.sum()), "loss": loss}
    found |= {} if difference is None else {HALVES: influences[:, -1]}
    found |= {f"influence_{name}": influences[:, k] for k, name in enumerate(scorer.groups)}
    found |= {} if aligned is None else {ALIGNMENT: cosines(projected, aligned)}
    return found | {projection_column(scorer): projected} if scorer.projection else found


def _losses(scorer: Any, rows: Sequence[EncodedRow]) -> np.ndarray:
    with progress("Difficulty", rows) as bar:
        return scorer.engine.losses(rows, bar.update)


def _refuse(scorer: Any, reason: str, cause: Exception | None = None) -> None:
    if scorer.on_bad_row == "raise":
        raise RowError(f"{reason} Or pass `on_bad_row='skip'` to leave such rows unscored.") from cause
    logger.warning(f"Not scored: {reason}")


def count_unscored(influence: np.ndarray, difficulty: np.ndarray | None = None) -> None:
    """Logs how many rows have no influence, and how many of the others no difficulty."""
    if unscored := int(np.isnan(influence).sum()):
        first = int(np.isnan(influence).argmax())
        logger.warning(f"{unscored} of {len(influence)} rows were not scored, row {first} the first.")
    if difficulty is not None:
        count_missing(np.flatnonzero(~np.isfinite(difficulty) & ~np.isnan(influence)), len(influence))


def count_missing(rows: np.ndarray, size: int) -> None:
    """Logs how many of so many rows have no difficulty."""
    if len(rows):
        logger.warning(
            f"{len(rows)} of {size} rows have no finite difficulty, row {rows[0]} the first. No quadrant holds them."
        )


def check_difficulty(scorer: Any, dataset: Dataset) -> None:
    """Says which rows have no difficulty where a column of the dataset is to give it, before anything is computed.

    Raises:
        `ValueError`: None of them has.
    """
    if isinstance(scorer.difficulty, ColumnDifficulty):
        count_missing(scorer.difficulty.missing(dataset), len(dataset))


def with_columns(dataset: Dataset, columns: Mapping[str, np.ndarray]) -> Dataset:
    """A dataset with score columns, in place of any of the same names."""
    dataset = dataset.remove_columns([name for name in columns if name in dataset.column_names])
    for name, values in columns.items():
        dataset = dataset.add_column(name, values if values.ndim == 1 else list(values))
    return dataset


def progress(phase: str, rows: Sequence[EncodedRow]) -> Any:
    """A progress bar over rows."""
    # One row is a call of `map` without `batched=True`, whose own bar counts the rows; of a launcher's processes one
    # shows its bars.
    hidden = len(rows) < 2 or int(os.environ.get("RANK", 0)) > 0
    return tqdm(total=len(rows), desc=phase, unit=" rows", leave=False, disable=hidden)
