"""A draw from the rows that are hard and influential, scored as they are drawn.

Rows come up in the order of the draw and are scored until enough of them are in the first quadrant; what was scored is
a random sample, so it tells the thresholds as well. There is nothing to predict: a choice of 1 % takes the scores of
about 5 % of the rows. How far the choice is the exact one hangs on the thresholds alone, and is told by resampling.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .audit import Audit


# Rows that are scored at least, for the thresholds: their percentiles are known to three points then.
LEAST = 256
# More rows than the budget takes, for those that turn out to be near copies of others.
SPARE = 1.1
# Resampled thresholds.
SAMPLES = 400


@dataclass(frozen=True)
class Draw:
    """Scores rows in the order of a draw.

    Args:
        order (`np.ndarray`):
            Rows in the order of the draw.
        score (`Callable`):
            Exact columns of rows, by position: `influence`, `difficulty` unless it is known, and `mismatch` where it
            counts.
        budget (`int`):
            What the chosen rows may cost.
        costs (`np.ndarray`):
            What each row costs.
        allowance (`int`):
            Rows that may be scored.
        difficulty (`np.ndarray`, *optional*):
            The difficulty of every row, where it is known: easy rows are only scored as far as the threshold of
            influence needs them.
        worth (`Callable`, *optional*):
            What the threshold of influence is one of, given influences by row (NaN where there are none).
        percentiles (`tuple[float, float]`, *optional*, defaults to `(50, 50)`):
            Of the thresholds.
        max_mismatch (`float`, *optional*):
            Rows above it are passed over.
    """

    order: np.ndarray
    score: Callable[[np.ndarray], Mapping[str, np.ndarray]]
    budget: int
    costs: np.ndarray
    allowance: int
    difficulty: np.ndarray | None = None
    worth: Callable[[np.ndarray], np.ndarray] | None = None
    percentiles: tuple[float, float] = (50, 50)
    max_mismatch: float | None = None

    def __call__(self) -> tuple[tuple[float, float], Audit]:
        """Thresholds of difficulty and of influence, and the audit.

        Raises:
            `ValueError`: The allowance is spent before the budget is met.
        """
        names = ("influence", "difficulty", "mismatch")
        known = {name: np.full(len(self.costs), np.nan) for name in names}
        if self.difficulty is not None:
            known["difficulty"] = np.array(self.difficulty, dtype=float)
        waiting, asked, sample = self.order, 0, self.order[: min(LEAST, self.allowance)]
        rows = sample
        while True:
            found = self.score(np.sort(rows))
            for name, values in found.items():
                known[name][np.sort(rows)] = values
            asked += len(rows)
            waiting = waiting[~np.isin(waiting, rows)]
            thresholds = self._thresholds(known, sample)
            chosen = self._chosen(known, thresholds)
            reached = float(self.costs[chosen].sum())
            if reached >= SPARE * self.budget or not len(waiting):
                break
            if asked >= self.allowance:
                if reached >= self.budget:
                    break
                raise ValueError(
                    f"{asked} rows were scored, and those of them that are hard and influential make {reached:g} of "
                    f"{self.budget}. Raise `max_scored`, or lower the budget."
                )
            if self.difficulty is not None:
                waiting = waiting[self.difficulty[waiting] >= thresholds[0]]
            each = reached / max(asked, 1)
            more = np.ceil(1.1 * (SPARE * self.budget - reached) / each) if each else asked
            rows = waiting[: int(min(max(more, LEAST // 4), self.allowance - asked))]
            if self.difficulty is None:
                sample = np.concatenate([sample, rows])
            if not len(rows):
                break
        if reached < self.budget and asked < len(self.order):  # of a known difficulty only the hard rows are looked at
            raise ValueError(
                f"All difficult rows were scored, and those of them that are influential make {reached:g} of "
                f"{self.budget}: the rest would be easier rows. Lower the budget, or score the whole pool "
                "(`diq_score.score`) and use `select_subset`."
            )
        return thresholds, self._audit(known, sample, thresholds, asked)

    def _thresholds(self, known: Mapping[str, np.ndarray], sample: np.ndarray) -> tuple[float, float]:
        """By the rows of the sample; a known difficulty's by all rows."""
        worth = self._worth(known)
        of = sample[np.isfinite(worth[sample]) & np.isfinite(known["difficulty"][sample])]
        hard = known["difficulty"][of]
        if self.difficulty is not None:
            hard = self.difficulty[np.isfinite(self.difficulty)]
        if not len(of) or not len(hard):
            raise ValueError("No row could be scored, so there is nothing to choose from.")
        return float(np.percentile(hard, self.percentiles[0])), float(np.percentile(worth[of], self.percentiles[1]))

    def _chosen(self, known: Mapping[str, np.ndarray], thresholds: tuple[float, float]) -> np.ndarray:
        """Rows of the first quadrant that may be taken, in the order of the draw."""
        good = (known["difficulty"] >= thresholds[0]) & (self._worth(known) >= thresholds[1])
        if self.max_mismatch is not None:
            good &= ~(known["mismatch"] > self.max_mismatch)
        return self.order[good[self.order]]

    def _worth(self, known: Mapping[str, np.ndarray]) -> np.ndarray:
        return known["influence"] if self.worth is None else self.worth(known["influence"])

    def _first(self, rows: np.ndarray) -> np.ndarray:
        """Those of some rows that the budget takes."""
        return rows[np.cumsum(self.costs[rows]) <= self.budget]

    def _audit(
        self, known: Mapping[str, np.ndarray], sample: np.ndarray, thresholds: tuple[float, float], asked: int
    ) -> Audit:
        """How much of the choice stays as it is when the sample is drawn again."""
        if asked >= len(self.order):
            return Audit(1.0, 1.0, 1.0, len(self.order), asked, 0, 0)
        taken, rng, shares = self._first(self._chosen(known, thresholds)), np.random.default_rng(0), []
        for _ in range(SAMPLES):
            again = self._first(self._chosen(known, self._thresholds(known, rng.choice(sample, len(sample)))))
            shares.append(np.isin(again, taken).mean() if len(again) else 0.0)
        low, high = np.percentile(shares, (2.5, 97.5))
        return Audit(float(np.mean(shares)), float(low), float(high), len(self.order), asked, 0, 0)
