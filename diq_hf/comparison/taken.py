"""What each strategy took, told by what is known of the pool's rows."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from .results import ChoiceFacts, Comparison, PoolFacts


MISMATCHED = 0.2
SHOWN = 6  # sources, or facts, that get a column


class Taken:
    """The pool's columns, and what of them a choice holds.

    Args:
        pool ([`PoolFacts`]):
            The pool.
    """

    def __init__(self, pool: PoolFacts):
        self.pool, self.tokens = pool, np.array(pool.num_trained)
        self.sources, self.quadrants, self.facts = map(_Kinds, (pool.sources, pool.quadrants, pool.facts))
        self.mismatch = None
        if pool.mismatch is not None:
            self.mismatch = np.array([np.nan if value is None else value for value in pool.mismatch])
        self.original = None if pool.duplicate_of is None else _originals(pool.duplicate_of)

    def describe(self, rows: Sequence[int]) -> dict[str, Any]:
        """Counts and shares of these rows; `None` where it is not known of the pool."""
        rows = np.asarray(rows, dtype=int)
        repeated = known = None
        if self.original is not None:
            repeated = 1 - len(np.unique(self.original[rows])) / max(1, len(rows))
        if self.mismatch is not None and np.isfinite(self.mismatch[rows]).any():
            known = float((self.mismatch[rows][np.isfinite(self.mismatch[rows])] > MISMATCHED).mean())
        return {
            "rows": len(rows),
            "tokens": int(self.tokens[rows].sum()),
            "length": float(self.tokens[rows].mean()) if len(rows) else None,
            "sources": self.sources.shares(rows),
            "quadrants": self.quadrants.shares(rows),
            "facts": self.facts.shares(rows),
            "repeated": repeated,
            "mismatched": known,
        }

    def overlaps(self, choices: Sequence[Sequence[int]]) -> list[list[float]]:
        """Share of the trained tokens of one (line) that another (column) took as well."""
        sets = [np.unique(np.asarray(rows, dtype=int)) for rows in choices]
        return [
            [float(self.tokens[np.intersect1d(one, other)].sum() / max(1, self.tokens[one].sum())) for other in sets]
            for one in sets
        ]


class _Kinds:
    """A column of names: the most common ones, and the rest together."""

    def __init__(self, column: Sequence[str] | None):
        counts = Counter(column or ())
        common = [name for name, _ in counts.most_common(SHOWN if len(counts) > SHOWN + 1 else None)]
        self.names = [*sorted(common), *(["others"] if len(common) < len(counts) else [])]
        position = {name: i for i, name in enumerate(sorted(common))}
        self.codes = np.array([position.get(name, len(position)) for name in column or ()], dtype=int)

    def shares(self, rows: np.ndarray) -> list[float]:
        if not self.names:
            return []
        return list(map(float, np.bincount(self.codes[rows], minlength=len(self.names)) / max(1, len(rows))))


def rows_of(choice: ChoiceFacts | None, comparison: Comparison) -> Sequence[int]:
    """The rows of a choice; of none, all that the pool has."""
    return range(len(comparison.pool.num_trained)) if choice is None else choice.rows


def _originals(duplicate_of: Sequence[int]) -> np.ndarray:
    """The row that each row repeats in the end, or itself."""
    original = np.where(np.array(duplicate_of) < 0, np.arange(len(duplicate_of)), duplicate_of)
    for _ in range(len(original).bit_length()):  # each time twice as far
        original = original[original]
    return original
