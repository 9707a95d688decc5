"""A subset of a pool that is not scored as a whole: rows in, the search of `landmarks`, exact scores, a choice."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from transformers.utils import logging

from ..difficulty.sources import ColumnDifficulty, NumTokensDifficulty
from ..rows.encoded import RowError
from ..selection.budgets import row_budget
from ..selection.quadrants import QuadrantRule
from ..selection.select import select_subset
from ..selection.settings import MAX_MISMATCH
from .examples import as_rows, read_columns
from .features import Features, text_features
from .landmarks import Audit, Search


logger = logging.get_logger(__name__)


def select_audited(
    scorer: Any,
    dataset: Dataset,
    ratio: float | None,
    num_rows: int | None,
    max_scored: float,
    max_mismatch: float | str | None,
    seed: int,
    chunk_size: int,
    cache_dir: str | Path | None,
    accelerator: Any,
) -> tuple[Dataset, Audit]:
    """See [`~diq_hf.DIQScorer.select`]."""
    budget = row_budget(len(dataset), ratio, num_rows)
    if scorer.difficulty is None:
        raise ValueError("`select` goes by difficulty and influence, and the scorer has `difficulty=None`. Name one.")
    allowance = math.floor(max_scored * len(dataset))
    if budget > allowance:
        raise ValueError(
            f"{budget} rows are asked for, and {allowance} may be scored. Raise `max_scored`, or lower the budget."
        )
    if max_mismatch == "auto":
        max_mismatch = MAX_MISMATCH if scorer.tests_mismatch else None
    if max_mismatch is not None and not scorer.tests_mismatch:
        raise ValueError("`max_mismatch` needs the column 'mismatch': `extra_columns=['mismatch']`. Or leave it out.")
    if max_mismatch is not None and not (isinstance(max_mismatch, int | float) and 0 < max_mismatch <= 1):
        raise ValueError(f"`max_mismatch` is a share between 0 and 1, 'auto' or None, got {max_mismatch!r}.")
    if "diq_row" in dataset.column_names:
        raise ValueError("The dataset has a column 'diq_row' of its own. Rename or remove it.")
    names = [*scorer.encoder.columns, *scorer.difficulty.columns]
    rows = as_rows(read_columns(dataset[:], names))
    pool, features, num_tokens = _distinct(scorer, rows)
    difficulty = _known_difficulty(scorer, [rows[i] for i in pool], pool, num_tokens)
    if difficulty is not None:
        fits = np.isfinite(difficulty)
        features, pool, difficulty = Features(features.words[fits], features.dense[fits]), pool[fits], difficulty[fits]
    parts: list[Dataset] = []

    def score(positions: np.ndarray) -> dict[str, np.ndarray]:
        part = scorer.score_part(dataset.select(pool[positions]), chunk_size, cache_dir, accelerator)
        parts.append(part.add_column("diq_row", pool[positions]))
        wanted = ["influence", "difficulty", "mismatch"]
        return {name: np.array(part[name][:], dtype=float) for name in wanted if name in scorer.columns}

    search = Search(
        features,
        score,
        budget,
        allowance,
        difficulty,
        max_mismatch=max_mismatch,
        seed=seed,
    )
    given = scorer.calibration
    try:
        if "mismatch" in scorer.columns:
            scorer.share_null(dataset, cache_dir, accelerator)  # of the whole pool, not of each part
        _, _, thresholds, audit = search()
    finally:
        scorer.calibration = given
    scored = concatenate_datasets(parts)
    scored = scored.select(np.argsort(scored["diq_row"][:], kind="stable"))  # ties go to the earlier row of the pool
    if search.max_mismatch is not None:
        mismatch = np.array(scored["mismatch"][:], dtype=float)
        scored = scored.select(np.flatnonzero(mismatch <= max_mismatch))
    rule = QuadrantRule(thresholds.difficulty, thresholds.influence)
    subset = select_subset(scored, num_rows=budget, rule=rule).remove_columns("diq_row")
    scorer.reliability = None  # of one part, and no word on the whole
    audit = replace(audit, num_rows=len(dataset))
    logger.info(str(audit))
    return subset, audit


def _distinct(scorer: Any, rows: Sequence[dict]) -> tuple[np.ndarray, Features, np.ndarray]:
    """Positions of rows that can be scored, the first of each kind, and what is known of them."""
    seen, kept, texts, counts = set(), [], [], []
    for i, row in enumerate(rows):
        key = json.dumps(row, sort_keys=True, default=str)
        if key in seen:
            continue
        seen.add(key)
        try:
            encoded = scorer.encoder(row)
            texts.append(scorer.encoder.texts(row))
        except RowError as error:
            if scorer.on_bad_row == "raise":
                raise RowError(f"Row {i}: {error} Or pass `on_bad_row='skip'` to leave such rows out.") from error
            continue
        kept.append(i)
        counts.append((len(encoded), encoded.num_trained))
    if not kept:
        raise ValueError("No row of the dataset can be scored.")
    prompts, answers = zip(*texts, strict=True)
    tokens, trained = np.array(counts, dtype=float).T
    return np.array(kept), text_features(prompts, answers, tokens, trained), tokens


def _known_difficulty(
    scorer: Any, rows: Sequence[dict], positions: np.ndarray, num_tokens: np.ndarray
) -> np.ndarray | None:
    """The difficulty of every row, where it is to be had without the scoring model."""
    source = scorer.difficulty
    if isinstance(source, ColumnDifficulty):
        found = np.full(len(rows), np.nan)
        for i, row in enumerate(rows):
            try:
                found[i] = source.prepare(row, scorer.encoder)
            except RowError as error:
                if scorer.on_bad_row == "raise":
                    message = f"Row {positions[i]}: {error} Or pass `on_bad_row='skip'` to leave such rows out."
                    raise RowError(message) from error
        return found
    if isinstance(source, NumTokensDifficulty):
        return num_tokens
    if source.reusable:
        return scorer.difficulties({name: [row[name] for row in rows] for name in rows[0]})["difficulty"]
    return None
