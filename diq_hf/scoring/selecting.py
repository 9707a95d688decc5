"""A subset of a pool that is not scored as a whole: a draw or the search of `landmarks`, exact scores, a choice."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list
from datasets import Dataset, concatenate_datasets
from transformers.utils import logging

from ..difficulty.sources import ColumnDifficulty, NumTokensDifficulty
from ..recipe import SelectionFacts, SelectionSettings
from ..rows.encoded import RowError
from ..selection.budgets import mean_reached, row_budget, worth
from ..selection.proof import derive_selection
from ..selection.quotas import Quotas, column_sources
from ..selection.select import BEYOND, Filling
from .audit import Audit
from .chunks import launched_state, reusable_difficulty
from .columns import count_unscored
from .drawing import Draw
from .examples import as_rows, read_columns
from .features import text_features
from .landmarks import LEAST_ALLOWANCE, Search


logger = logging.get_logger(__name__)

# Share of a pool that may be scored, unless it is given; of a small pool more, as much as there is to learn from.
MAX_SCORED = 0.45


@dataclass(frozen=True)
class Found:
    """What a search comes to: the thresholds it estimated (`None` where every row was scored), the audit, and the
    trained tokens of rows, by their positions in the pool."""

    thresholds: tuple[float, float] | None
    audit: Audit
    rows: np.ndarray
    num_trained: np.ndarray


def select_audited(
    scorer: Any,
    dataset: Dataset,
    settings: SelectionSettings,
    max_scored: float | None,
    chunk_size: int,
    cache_dir: str | Path | None,
    accelerator: Any,
) -> tuple[Dataset, Dataset, SelectionFacts, Audit]:
    """See [`~diq_hf.DIQScorer.select`]: the subset, the pool with its scores, the selection and the audit."""
    counts_tokens = settings.per is not None or settings.num_tokens is not None
    adds_tokens = counts_tokens and "num_trained" not in scorer.columns
    if adds_tokens and "num_trained" in dataset.column_names:
        raise ValueError("The dataset has a column 'num_trained' of its own. Rename or remove it.")
    state = launched_state(scorer.engine.device, accelerator)
    parts: list[Dataset] = []
    places = chunk_size, cache_dir

    def score(rows: np.ndarray) -> dict[str, np.ndarray]:
        part = scorer.score_part(dataset.select(rows), *places, accelerator)
        parts.append(part.select_columns(list(scorer.columns)).add_column("diq_row", rows))
        return {name: np.array(part[name][:], dtype=float) for name in _WANTED & set(scorer.columns)}

    given = scorer.calibration
    try:
        if scorer.tests_mismatch:
            scorer.share_null(dataset, cache_dir, accelerator)  # of the whole pool, not of each part
        look = lambda score: _look(scorer, dataset, settings, max_scored, places, score)  # noqa: E731
        found = _led(look, score, state)
    finally:
        scorer.calibration = given
    scorer.reliability = None  # of one part, and no word on the whole
    scored = concatenate_datasets(parts)
    count_unscored(np.array(scored["influence"][:], dtype=float))
    if adds_tokens:
        trained = np.zeros(len(dataset), dtype=np.int32)
        trained[found.rows] = found.num_trained
        scored = scored.add_column("num_trained", trained[np.array(scored["diq_row"][:])])
    settings = replace(settings, thresholds=found.thresholds)
    pool, subset, facts = derive_selection(_beside(dataset, scored), settings)
    logger.info(str(found.audit))
    return subset, pool, facts, found.audit


_WANTED = {"influence", "difficulty", "mismatch"}


def _led(look: Callable[[Callable], Found], score: Callable[[np.ndarray], dict], state: Any) -> Found:
    """The search on all processes: the first looks and tells the others what to score, so that no two differ."""
    if state is None or state.num_processes == 1:
        return look(score)
    tell = lambda word: broadcast_object_list([word], from_process=0)[0]  # noqa: E731
    if state.process_index > 0:
        while isinstance(word := tell(None), np.ndarray):
            score(word)
        if isinstance(word, Exception):
            raise word
        return word
    waiting = True  # the others, for a word

    def lead(rows: np.ndarray) -> dict:
        nonlocal waiting
        tell(rows)
        waiting = False
        columns = score(rows)
        waiting = True
        return columns

    try:
        found = look(lead)
    except Exception as error:
        if waiting:  # an error of scoring is the launcher's to notice, as in `score`
            tell(error)
        raise
    return tell(found)


def _look(
    scorer: Any,
    dataset: Dataset,
    settings: SelectionSettings,
    max_scored: float | None,
    places: tuple,
    score: Callable,
) -> Found:
    """Scores some rows of a dataset, by a [`Draw`] or a [`Search`]."""
    source = scorer.difficulty
    rows = as_rows(read_columns(scorer.readable(dataset)[:], [*scorer.encoder.columns, *source.columns]))
    pool, texts, num_tokens, num_trained = _distinct(scorer, rows)
    budget = settings.num_tokens or row_budget(len(dataset), settings.ratio, settings.num_rows)
    for_nothing = isinstance(source, ColumnDifficulty | NumTokensDifficulty)
    known, difficulty = for_nothing or source.reusable, None
    drawn = settings.order == "random"
    if drawn and settings.balance:
        raise ValueError(
            "`order='random'` draws from the whole pool, and `balance` gives each source a share. Leave one of them "
            "out, or score the pool and use `select_subset`."
        )
    allowance, size = len(dataset), None if settings.num_tokens else budget
    if not drawn or max_scored is not None:
        allowance = _allowance(len(dataset), max_scored, size)
    whole = allowance >= len(pool) and not drawn
    if for_nothing or (known and not whole):
        difficulty = _difficulty(scorer, dataset, places, pool, [rows[i] for i in pool], num_tokens)
        fits = np.isfinite(difficulty)
        texts = [text for text, kept in zip(texts, fits, strict=True) if kept]
        values = pool, difficulty, num_tokens, num_trained
        pool, difficulty, num_tokens, num_trained = (some[fits] for some in values)
    if whole:
        influence = score(pool)["influence"]
        audit = Audit(1.0, 1.0, 1.0, len(dataset), int(np.isfinite(influence).sum()), 0, 0)
        return Found(None, audit, pool, num_trained)
    if drawn:
        places_of = np.random.default_rng(settings.seed).permutation(len(dataset))[pool]  # as `select_rows` draws
        draw = Draw(
            np.argsort(places_of),
            lambda positions: score(pool[positions]),
            budget,
            np.ones(len(pool)) if settings.num_tokens is None else num_trained,
            allowance,
            difficulty,
            lambda influence: worth(influence, num_trained, settings.per, settings.num_tokens is not None),
            (settings.difficulty_percentile, settings.influence_percentile),
            settings.max_mismatch,
        )
        thresholds, audit = draw()
        return Found(thresholds, replace(audit, num_rows=len(dataset)), pool, num_trained)
    features = text_features(*zip(*texts, strict=True), num_tokens, num_trained)
    search = Search(
        features,
        lambda positions: score(pool[positions]),
        budget,
        allowance,
        difficulty,
        worth=_worth(settings, num_trained, budget),
        percentile=settings.difficulty_percentile,
        max_mismatch=settings.max_mismatch,
        seed=settings.seed,
        **_shares(dataset, settings, pool, num_trained, budget),
    )
    _, _, thresholds, audit = search()
    # Of all rows, those that are there twice among them.
    audit = replace(audit, num_rows=len(dataset))
    return Found((thresholds.difficulty, thresholds.influence), audit, pool, num_trained)


def _allowance(size: int, max_scored: float | None, budget: int | None) -> int:
    """Rows that may be scored."""
    allowance = math.floor((MAX_SCORED if max_scored is None else max_scored) * size)
    if max_scored is None:
        wanted = max(allowance, LEAST_ALLOWANCE)
        wanted = size if budget is not None and budget > wanted else min(wanted, size)
        if wanted > allowance:
            share = "All" if wanted == size else f"Up to {wanted}"
            logger.warning(f"{share} of the {size} rows are scored: fewer would be too few to learn or choose from.")
        return wanted
    if budget is not None and budget > allowance:
        raise ValueError(
            f"{budget} rows are asked for, and {allowance} may be scored. Raise `max_scored`, or lower the budget."
        )
    return allowance


def _worth(settings: SelectionSettings, num_trained: np.ndarray, budget: int) -> Callable | None:
    """What rows are ranked by, as [`Search`] takes it."""
    if settings.per is None:
        return None

    def values(influence: np.ndarray, order: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        mean = 0.0
        if settings.per == "row" and len(order(influence)):
            mean = mean_reached(influence, num_trained, budget, order)
        return worth(influence, num_trained, settings.per, settings.num_tokens is not None, mean)

    return values


def _shares(
    dataset: Dataset, settings: SelectionSettings, pool: np.ndarray, num_trained: np.ndarray, budget: int
) -> dict[str, Any]:
    """How a budget in tokens, or one with a share for each source, is filled: arguments of [`Search`]."""
    costs = None if settings.num_tokens is None else num_trained
    if costs is None and not settings.balance:
        return {}
    amounts, make = (np.ones(len(pool)) if costs is None else costs).tolist(), lambda: None
    found: dict[str, Any] = {"costs": costs}
    for column, shares in (settings.balance or {}).items():
        sources, names = column_sources(dataset, column)
        make = lambda: Quotas(sources[pool], names, shares, budget)  # noqa: E731, B023
        found["sources"] = make().pots

    def fill(order: np.ndarray) -> np.ndarray:
        filling = Filling(budget, amounts, make(), None, np.full(len(pool), BEYOND))
        filling.take(order)
        return np.array(filling.taken, dtype=np.int64)

    return found | {"fill": fill}


def _distinct(scorer: Any, rows: Sequence[dict]) -> tuple[np.ndarray, list[tuple[str, str]], np.ndarray, np.ndarray]:
    """Positions of rows that can be scored, the first of each kind, their texts, and tokens: all, and trained ones."""
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
    return np.array(kept), texts, *np.array(counts, dtype=float).T


def _difficulty(
    scorer: Any, dataset: Dataset, places: tuple, pool: np.ndarray, rows: Sequence[dict], num_tokens: np.ndarray
) -> np.ndarray:
    """The difficulty of every row, from a source that needs no scoring model."""
    source = scorer.difficulty
    if isinstance(source, ColumnDifficulty):
        found = np.full(len(rows), np.nan)
        for i, row in enumerate(rows):
            try:
                found[i] = source.prepare(row, scorer.encoder)
            except RowError as error:
                if scorer.on_bad_row == "raise":
                    message = f"Row {pool[i]}: {error} Or pass `on_bad_row='skip'` to leave such rows out."
                    raise RowError(message) from error
    elif isinstance(source, NumTokensDifficulty):
        found = num_tokens
    else:
        found = reusable_difficulty(scorer, scorer.readable(dataset), *places)[pool]
    # As the column will hold it, so that a threshold means the same there.
    return found if "difficulty" in source.columns else found.astype(np.float32).astype(float)


def _beside(dataset: Dataset, scored: Dataset) -> Dataset:
    """A dataset with the columns of those rows that were scored, null for all others."""
    rows = np.array(scored["diq_row"][:])
    scored = scored.remove_columns("diq_row")
    nothing = Dataset.from_dict({name: [None] for name in scored.column_names}, features=scored.features)
    places = np.full(len(dataset), len(scored))
    places[rows] = np.arange(len(scored))
    columns = concatenate_datasets([scored, nothing]).select(places)
    replaced = [name for name in scored.column_names if name in dataset.column_names]
    return concatenate_datasets([dataset.remove_columns(replaced), columns], axis=1)
