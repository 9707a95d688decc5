"""Columns that other people's strategies rank by, computed when one of them is asked for, and kept."""

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from ..digest import digest, model_digest
from ..files import replacing
from ..rows.encoded import rows_digest
from .batches import TokenBatches
from .less import LessCheckpoint, moments
from .less import rank as less_rank
from .pool import Pool
from .rds import rank as rds_rank
from .results import Work
from .strategies import Strategy
from .training import Training


# Of the pool's trained tokens, those that LESS warms up on.
WARMUP = 0.05


def add_rankings(
    pool: Pool, strategies: Sequence[Strategy], training: Training, loaded: tuple[Any, Any], folder: Path
) -> Pool:
    """The pool with a column for each strategy that ranks by one of ours, and what it cost.

    Args:
        pool ([`Pool`]):
            The rows.
        strategies (`Sequence[Strategy]`):
            Who is to choose.
        training ([`Training`]):
            How LESS warms up.
        loaded (`tuple`):
            The model before any training, and its tokenizer.
        folder (`Path`):
            For finished rankings.
    """
    usable, validation = pool.usable, [row for rows in pool.validation.values() for row in rows]
    encoded = [pool.encoded[row] for row in usable]
    tokens = int(pool.num_tokens.sum()) + sum(map(len, validation))

    def less() -> tuple[np.ndarray, Work]:
        checkpoint, warmup = _warm_up(pool, training)
        scores = less_rank([checkpoint], encoded, pool.validation)
        return scores, warmup + Work(forward=tokens, backward=tokens)

    def rds() -> tuple[np.ndarray, Work]:
        return _places(rds_rank(loaded[0], encoded, validation)), Work(forward=tokens)

    def bm25() -> tuple[np.ndarray, Work]:
        from .bm25 import rank as bm25_rank  # of an extra

        def said(rows: Iterable[Mapping]) -> list[str]:
            # The rows' own words: those of a chat template would be rare ones.
            return [" ".join(filter(None, pool.scoring.encoder.texts(row))) for row in rows]

        wanted = {name: said(rows) for name, rows in pool.scoring.validation.items()}
        return bm25_rank(said(pool.trainable(usable)), wanted), Work()

    scored, works = pool.scored, dict(pool.works)
    rankings: Mapping[str, Callable[[], tuple[np.ndarray, Work]]] = {"less": less, "rds": rds, "bm25": bm25}
    made_by = [model_digest(loaded[0]), pool.digest(usable), rows_digest(validation), [*map(str, pool.validation)]]
    for name in dict.fromkeys(strategy.column for strategy in strategies if strategy.column):
        own = [*made_by, name, training.settings if name == "less" else None]
        path = folder / f"{name}-{digest(own)}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # of several processes one computes it, and the others wait
            if not path.is_file():
                started = time.perf_counter()
                found, work = rankings[name]()
                work = replace(work, seconds=time.perf_counter() - started)
                with replacing(path) as unfinished, unfinished.open("wb") as file:
                    np.savez(file, found=found, work=[work.forward, work.backward, work.seconds])
        with np.load(path) as kept:
            values = np.full(len(scored), np.nan)
            values[usable] = kept["found"]
            forward, backward, seconds = kept["work"].tolist()
        works[name] = Work(forward=int(forward), backward=int(backward), seconds=seconds)
        scored = scored.remove_columns([name] if name in scored.column_names else []).add_column(name, values)
    return replace(pool, scored=scored, works=works)


def _places(order: np.ndarray) -> np.ndarray:
    """An order as values, the largest first."""
    values = np.empty(len(order))
    values[order] = -np.arange(len(order), dtype=float)
    return values


def _warm_up(pool: Pool, training: Training) -> tuple[LessCheckpoint, Work]:
    """A short training on rows at random, for the optimizer's second moments."""
    budget = WARMUP * pool.num_trained.sum()
    order = np.random.default_rng(0).permutation(pool.usable)
    rows = order[: 1 + int(np.searchsorted(np.cumsum(pool.num_trained[order]), budget))]
    num_trained = pool.num_trained[rows]
    mean = pool.num_trained.sum() / len(pool.usable)
    cuts = training.arguments.gradient_accumulation_steps
    steps = min(training.num_steps(int(num_trained.sum()), mean), len(rows) // cuts)
    batches = TokenBatches(num_trained, steps * cuts, training.num_epochs, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = training.run(pool.trainable(rows), lambda _: batches, steps, 0, folder)
        checkpoint = LessCheckpoint(trainer.model, moments(trainer), training.arguments.learning_rate)
    return checkpoint, training.work(int(pool.num_tokens[rows].sum()) * training.num_epochs)
