"""The pool of a comparison: scored once, with the columns that strategies rank by, and what each of them cost."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers.utils import logging

from ..digest import digest
from ..files import replacing
from ..rows.encoded import EncodedRow, RowError, rows_digest
from ..rows.formats import RowEncoder
from ..rows.validation import encode_group, row_name
from ..scoring.mismatch import can_calibrate, null_size
from ..scoring.scorer import DIQScorer
from ..selection.duplicates import exact_duplicates
from ..selection.leakage import find_leaks
from ..selection.quadrants import QUADRANTS, QuadrantRule
from ..selection.scores import score_columns
from ..selection.settings import MAX_SIMILARITY
from ..selection.texts import RowTexts
from ..selection.turns import ALIGNMENT
from . import costs
from .results import PoolFacts, Work
from .strategies import Strategy


logger = logging.get_logger(__name__)

# What a strategy may need, and the column that shows that a pool has it.
_COLUMNS = {name: name for name in ("influence", "difficulty", "loss", "mismatch", ALIGNMENT)}
_LEAKS_NAMED = 5


@dataclass(frozen=True)
class Pool:
    """Rows to choose from.

    Args:
        scored ([`~datasets.Dataset`]):
            All columns: the rows' own, scores, `num_trained` and `num_tokens`.
        encoded (`tuple`):
            Each row as it is trained, `None` where it cannot be.
        validation (`dict`):
            Encoded validation rows by group.
        works (`dict`):
            What scores cost, by part: see [`~diq_hf.comparison.costs.pass_works`].
        scoring ([`Scoring`]):
            How it was scored, to do so again.
    """

    scored: Dataset
    encoded: tuple[EncodedRow | None, ...]
    validation: Mapping[str | None, Sequence[EncodedRow]]
    works: Mapping[str, Work]
    scoring: "Scoring"

    @property
    def usable(self) -> np.ndarray:
        """Positions of the rows that can be trained, by every strategy alike."""
        return np.array([i for i, row in enumerate(self.encoded) if row is not None], dtype=np.int64)

    @property
    def num_trained(self) -> np.ndarray:
        """Trained tokens of each row, 0 where it cannot be trained."""
        return np.array([0 if row is None else row.num_trained for row in self.encoded])

    @property
    def num_tokens(self) -> np.ndarray:
        """Tokens of each row, likewise."""
        return np.array([0 if row is None else len(row) for row in self.encoded])

    @property
    def row_columns(self) -> list[str]:
        """The columns that a row's tokens are made of."""
        return [name for name in self.scoring.encoder.columns if name in self.scored.column_names]

    def trainable(self, rows: Iterable[int]) -> Dataset:
        """Some rows as a trainer takes them."""
        return self.scored.select_columns(self.row_columns).select([int(row) for row in rows])

    def digest(self, rows: Iterable[int]) -> str:
        """Names what some rows are, in their order."""
        return rows_digest(self.encoded[row] for row in rows)

    def selecting(self, strategy: Strategy) -> Work:
        """What a strategy must compute before it can choose."""
        needs = [need for need in strategy.passes() if need != "mismatch" or "mismatch" in self.scored.column_names]
        # A difficulty that is a column or a classifier's is no work of this model.
        return costs.selecting(needs, self.works, () if self.scoring.difficulty == "ifd" else ("difficulty",))

    def facts(self, source_column: str | None) -> PoolFacts:
        """What the page tells choices by."""
        names = self.scored.column_names
        quadrants = mismatch = None
        if {"difficulty", "influence"} <= set(names):
            both = score_columns(self.scored, ["difficulty", "influence"])
            codes = QuadrantRule.fit(self.scored).codes(both["difficulty"], both["influence"])
            quadrants = tuple(QUADRANTS[code] if code >= 0 else "" for code in codes)
        if "mismatch" in names:
            found = score_columns(self.scored, ["mismatch"])["mismatch"]
            mismatch = tuple(float(value) if np.isfinite(value) else None for value in found)
        texts, repeats = RowTexts(self.scored), np.full(len(self.scored), -1)
        if texts.columns:
            plain = [" ".join(filter(None, text)) for text in texts(np.arange(len(self.scored)))]
            for first, *others in exact_duplicates(plain):
                repeats[others] = first
        strings = lambda name: tuple(map(str, self.scored[name][:])) if name in names else None  # noqa: E731
        return PoolFacts(
            num_trained=tuple(map(int, self.num_trained)),
            sources=strings(source_column),
            quadrants=quadrants,
            mismatch=mismatch,
            duplicate_of=tuple(map(int, repeats)) if texts.columns else None,
            facts=strings("fact"),
        )


def check_leaks(pool: Any, heldout: Any) -> None:
    """Refuses held-out rows that stand in the pool, whoever would be the better for them.

    Raises:
        `ValueError`: Some do; it names the first.
    """
    leaks = find_leaks(pool, heldout, MAX_SIMILARITY)
    if leaks:
        others = sorted({leak.other_row for leak in leaks})
        shown = "; ".join(
            f"held-out row {leak.other_row} and row {leak.pool_row} of the pool "
            + (f"are {leak.similarity:.0%} alike" if leak.by == "row" else "have one prompt")
            for leak in leaks[:_LEAKS_NAMED]
        )
        raise ValueError(
            f"{len(others)} held-out rows stand in the pool, so that they would measure memory: {shown}. Remove them "
            "from either, or pass `on_leak='drop'` to measure by the others."
        )


@dataclass(frozen=True)
class Scoring:
    """How the pool is scored, by the model before training or by one that is being trained.

    Args:
        validation (`dict`):
            Validation rows by group.
        difficulty (`str` or [`~diq_hf.difficulty.sources.DifficultySource`]):
            See [`DIQScorer`].
        encoder ([`~diq_hf.rows.formats.RowEncoder`]):
            Encodes rows as the trainer does.
    """

    validation: Mapping[str | None, Any]
    difficulty: Any
    encoder: RowEncoder

    def scorer(self, model: Any, rows: Dataset, mismatch: bool = True, alignment: bool = False) -> DIQScorer:
        """A scorer of some rows."""
        more = (ALIGNMENT,) if alignment else ()
        scorer = DIQScorer(
            model,
            self.validation.get(None, self.validation),
            self.encoder.processing_class,
            difficulty=self.difficulty,
            on_bad_row="skip",
            extra_columns=("loss", *more, *(("mismatch",) if mismatch else ())),
            **self.encoder.settings,
        )
        if mismatch and not can_calibrate(scorer, rows):
            scorer.extra_columns = ("loss", *more)
            logger.warning("Without `mismatch`: there are too few answers with other prompts to hold rows against.")
        return scorer


def score_pool(
    rows: Dataset,
    model: Any,
    scoring: Scoring,
    strategies: Sequence[Strategy],
    folder: Path,
) -> Pool:
    """Scores what the strategies need, as far as the rows do not bring it along, and once for all of them.

    Args:
        rows ([`~datasets.Dataset`]):
            The pool, scored or not.
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model before any training.
        scoring ([`Scoring`]):
            How.
        strategies (`Sequence[Strategy]`):
            Who is to choose.
        folder (`Path`):
            For finished chunks.
    """
    encoder, difficulty = scoring.encoder, scoring.difficulty
    encoded_validation = {name: encode_group(group, name, encoder) for name, group in scoring.validation.items()}
    needed = {need for strategy in strategies for need in strategy.passes() if need in _COLUMNS}
    present = {need for need in needed if _COLUMNS[need] in rows.column_names}
    missing = needed - present
    if missing == {"mismatch"}:
        missing = set()  # it comes with other scores, or not at all
    cost = Work()
    if missing:
        if clash := sorted(present & {"influence", "difficulty", "loss"} - {_given(difficulty)}):
            raise ValueError(
                f"The pool has the scores {clash} but not {sorted(missing)}, which would be another model's. Remove "
                "the columns, or score it whole with `diq score`."
            )
        rows, cost = _score(rows, scoring.scorer(model, rows, "mismatch" in needed, ALIGNMENT in needed), folder)
    encoded = _encode(
        rows, encoder, finite=[name for name in ("influence", "difficulty") if name in rows.column_names]
    )
    usable = [row for row in encoded if row is not None]
    if not usable:
        raise ValueError("No row of the pool can be trained on.")
    counts = {"num_trained": [row.num_trained if row else 0 for row in encoded]}
    counts["num_tokens"] = [len(row) if row else 0 for row in encoded]
    for name, values in counts.items():
        if name in rows.column_names:
            found = score_columns(rows, [name])[name]
            if any(row is not None and found[i] != values[i] for i, row in enumerate(encoded)):
                raise ValueError(
                    f"The pool's column {name!r} is not what training by these settings has: it was scored with "
                    "another tokenizer or `max_length`. Pass the same here, or remove its scores."
                )
        rows = rows.remove_columns([name] if name in rows.column_names else []).add_column(name, values)
    tokens, answers = sum(counts["num_tokens"]), sum(count + 1 for count in counts["num_trained"] if count)
    of_validation = sum(len(row) for group in encoded_validation.values() for row in group)
    null = round(null_size(len(usable)) * tokens / len(usable))
    works = costs.pass_works(tokens, answers, of_validation, null)
    # The seconds of one pass over the model, shared out by tokens.
    scored = sum((work for part, work in works.items() if part != "losses"), Work())
    works = {part: replace(work, seconds=cost.seconds * work.passes / scored.passes) for part, work in works.items()}
    return Pool(rows, tuple(encoded), encoded_validation, works, scoring)


def _given(difficulty: Any) -> str | None:
    return difficulty.removeprefix("column:") if isinstance(difficulty, str) else None


def _score(rows: Dataset, scorer: DIQScorer, folder: Path) -> tuple[Dataset, Work]:
    """All scores, and the seconds that they took (kept beside them, for whoever finds them done)."""
    kept = folder / f"seconds-{digest([scorer.fingerprint, rows._fingerprint])}.json"
    started = time.perf_counter()
    scored = scorer.score(rows, cache_dir=folder)
    if scorer.meter.rows:
        seconds = time.perf_counter() - started + (json.loads(kept.read_text()) if kept.is_file() else 0.0)
        with replacing(kept) as unfinished:
            unfinished.write_text(json.dumps(seconds))
    return scored, Work(seconds=json.loads(kept.read_text()) if kept.is_file() else 0.0)


def _encode(rows: Dataset, encoder: RowEncoder, finite: Sequence[str]) -> list[EncodedRow | None]:
    """Each row as it is trained; `None` where it cannot be, or has no scores."""
    scores = score_columns(rows, finite) if finite else {}
    known = np.all([np.isfinite(values) for values in scores.values()], axis=0) if scores else np.full(len(rows), True)
    encoded: list[EncodedRow | None] = []
    read = rows.select_columns([name for name in encoder.columns if name in rows.column_names])
    for i, row in enumerate(read):
        try:
            encoded.append(encoder(row) if known[i] else None)
        except RowError as error:
            logger.warning(f"Left out: {row_name(i, i, row)}: {error}")
            encoded.append(None)
    return encoded
