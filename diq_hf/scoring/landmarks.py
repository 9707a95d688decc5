"""The best rows of a pool without scoring all of it, and how many of them were found.

Landmarks, a random slice, are scored. A cheap predictor learns influence from them; the rows that it thinks most
influential are scored, and it learns again, until it expects to have missed next to none or the allowance is spent.
The choice is made from exact scores alone. At last a random slice of what was never scored, and which the predictor
never saw, is scored: how many of its rows would have been chosen says how many were missed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .audit import Audit, estimate
from .features import Features
from .predictors import by_words, by_words_and_trees


# Shares of the allowance: landmarks, more of them where they tell of the difficulty as well, and the audit's slice.
LANDMARKS, LANDMARKS_BOTH, AUDIT = 0.08, 0.15, 0.04
ROUNDS = 8
# Fewer landmarks teach a predictor nothing; what it finds takes rows as well.
LEAST = 24
LEAST_ALLOWANCE = 3 * LEAST


@dataclass(frozen=True)
class Thresholds:
    """Estimates for the whole pool: what a difficulty and a worth must reach, and the standard error of the
    difficulty's percentile, as a share of rows (0 where every difficulty is known)."""

    difficulty: float
    influence: float
    error: float


class Scored:
    """What is known so far: columns with NaN for rows that were not scored, and the rows that were asked for."""

    def __init__(self, size: int):
        self.columns: dict[str, np.ndarray] = {"influence": np.full(size, np.nan)}
        self.asked = np.zeros(size, dtype=bool)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    @property
    def rows(self) -> np.ndarray:
        """Rows with an influence."""
        return np.flatnonzero(np.isfinite(self["influence"]))

    def add(self, rows: np.ndarray, found: Mapping[str, np.ndarray]) -> None:
        """Takes scores of some rows."""
        self.asked[rows] = True
        for name, values in found.items():
            self.columns.setdefault(name, np.full(len(self.asked), np.nan))[rows] = values


@dataclass(frozen=True)
class Search:
    """Looks for the best rows of a pool.

    Args:
        features ([`~diq_hf.scoring.features.Features`]):
            What is known of every row.
        score (`Callable`):
            Exact columns of rows, by position: `influence`, `difficulty` unless it is known, and `mismatch` where it
            counts.
        budget (`int`):
            Rows to choose, or with `costs` what they may cost.
        allowance (`int`):
            Rows that may be scored.
        difficulty (`np.ndarray`, *optional*):
            The difficulty of every row, where it is known.
        worth (`Callable`, *optional*):
            What rows are ranked by, given their influences and how rows that may be chosen are ordered by such
            values; the influences by default.
        costs (`np.ndarray`, *optional*):
            What each row takes of the budget; 1 by default.
        fill (`Callable`, *optional*):
            The rows that the budget takes of some in their order; by default as many as there is budget for.
        sources (`np.ndarray`, *optional*):
            The source of each row, a number, where `fill` gives each a share.
        percentile (`float`, *optional*, defaults to 50):
            The difficulty threshold's percentile.
        influence_percentile (`float`, *optional*, defaults to 50):
            The worth threshold's.
        max_mismatch (`float`, *optional*):
            Rows above it are passed over.
        target (`float`, *optional*, defaults to 0.97):
            Share of the exact selection at which the predictor may stop.
        seed (`int`, *optional*, defaults to 0):
            Of everything that is drawn.
    """

    features: Features
    score: Callable[[np.ndarray], Mapping[str, np.ndarray]]
    budget: int
    allowance: int
    difficulty: np.ndarray | None = None
    worth: Callable[[np.ndarray, Callable], np.ndarray] | None = None
    costs: np.ndarray | None = None
    fill: Callable[[np.ndarray], np.ndarray] | None = None
    sources: np.ndarray | None = None
    percentile: float = 50
    influence_percentile: float = 50
    max_mismatch: float | None = None
    target: float = 0.97
    seed: int = 0

    def __call__(self) -> tuple[np.ndarray, dict[str, np.ndarray], Thresholds, Audit]:
        """The scored rows, their columns, thresholds for the whole pool and the audit.

        Raises:
            `ValueError`: The allowance is too small for landmarks, or the budget is beyond the rows that are both
                difficult and influential.
        """
        size, draw = len(self.features), np.random.default_rng(self.seed)
        known, allowance = Scored(size), min(self.allowance, size)
        if self.allowance < LEAST_ALLOWANCE:
            raise ValueError(
                f"{self.allowance} rows may be scored, and to learn and to choose takes {LEAST_ALLOWANCE}. Raise "
                "`max_scored`, or leave it out: of a small pool a larger share is scored then."
            )
        share = LANDMARKS if self.difficulty is not None else LANDMARKS_BOTH
        audited, landmarks = math.ceil(AUDIT * allowance), max(math.ceil(share * allowance), LEAST)
        possible = np.ones(size, bool)
        if self.difficulty is not None:
            possible = self.difficulty >= np.nanpercentile(self.difficulty, self.percentile)
        inside, outside = draw.permutation(np.flatnonzero(possible)), draw.permutation(np.flatnonzero(~possible))
        # Rows that cannot be chosen count for the influence threshold alone.
        beside = min(len(outside), landmarks // 10)
        landmark_rows = np.concatenate([inside[: landmarks - beside], outside[:beside]])
        self._take(landmark_rows, known)
        weights = _weights(landmark_rows, possible)
        left = allowance - landmarks - audited
        difficult = self._first_threshold(known, landmark_rows, weights)
        self._check_budget(known, difficult, landmark_rows, weights, possible)
        for number in range(ROUNDS):
            unscored = np.flatnonzero(possible & ~known.asked)
            step = min(len(unscored), left // (ROUNDS - number))
            if step < 1:
                break
            chance = self._chances(known, difficult, possible)
            expected = (chance * self._costs())[unscored].sum()
            if number and expected < (1 - self.target) * self.budget:
                break
            self._take(unscored[np.argsort(-chance[unscored], kind="stable")[:step]], known)
            left -= step
        unscored = np.flatnonzero(possible & ~known.asked)
        sample = draw.permutation(unscored)[:audited]
        self._take(sample, known)
        difficult, error = self._threshold(known)
        fitting = self._fitting(known, difficult)
        if (most := self._costs()[fitting].sum()) < self.budget:
            raise ValueError(self._beyond(most))
        worths = self._worths(known, difficult)
        middle = _weighted_percentile(worths[landmark_rows], weights, self.influence_percentile)
        thresholds = Thresholds(difficult, middle, error)
        audit = self._audit(known, worths, thresholds, len(unscored), sample)
        rows = known.rows
        return rows, {name: values[rows] for name, values in known.columns.items()}, thresholds, audit

    def _take(self, rows: np.ndarray, known: Scored) -> None:
        known.add(rows, self.score(rows))
        if self.difficulty is not None:
            known.add(rows, {"difficulty": self.difficulty[rows]})

    def _costs(self) -> np.ndarray:
        return np.ones(len(self.features)) if self.costs is None else self.costs

    def _fitting(self, known: Scored, difficult: float) -> np.ndarray:
        """Scored rows that may be chosen."""
        rows = known.rows
        rows = rows[known["difficulty"][rows] >= difficult]
        return rows if self.max_mismatch is None else rows[~(known["mismatch"][rows] > self.max_mismatch)]

    def _worths(self, known: Scored, difficult: float) -> np.ndarray:
        if self.worth is None:
            return known["influence"]
        fitting = self._fitting(known, difficult)
        return self.worth(known["influence"], lambda values: _descending(fitting, values))

    def _cuts(self, known: Scored, worths: np.ndarray, difficult: float, last: bool = False) -> tuple[np.ndarray, int]:
        """For each row the worth of the last row that is chosen, of its source, and how many are chosen.

        `last` says that no more rows will be scored: any row is chosen whose source has a share left.
        """
        order = _descending(self._fitting(known, difficult), worths)
        taken = order[: self.budget] if self.fill is None else self.fill(order)
        least = float(worths[taken].min()) if len(taken) else -math.inf
        cuts = np.full(len(worths), least)
        for source in () if self.sources is None else np.unique(self.sources):
            inside = self.sources == source
            chosen = taken[inside[taken]]
            if last and len(chosen) == inside[order].sum():
                cuts[inside] = -math.inf
            elif len(chosen):
                cuts[inside] = worths[chosen].min()
        return cuts, len(taken)

    def _check_budget(
        self, known: Scored, difficult: float, landmarks: np.ndarray, weights: np.ndarray, possible: np.ndarray
    ) -> None:
        """Refuses a budget that lower quadrants would have to fill, whose rows are not looked for."""
        from scipy.stats import beta

        worths, fits = self._worths(known, difficult), np.zeros(len(possible), bool)
        fits[self._fitting(known, difficult)] = True
        middle = _weighted_percentile(worths[landmarks], weights, self.influence_percentile)
        rows = landmarks[possible[landmarks]]
        first = fits[rows] & (worths[rows] >= middle)
        # As many as the landmarks allow for at most, by the exact interval of a share.
        most = beta.ppf(0.975, first.sum() + 1, len(rows) - first.sum()) if not first.all() else 1.0
        most *= self._costs()[possible].sum()
        if most < self.budget:
            raise ValueError(self._beyond(most))

    def _beyond(self, most: float) -> str:
        unit, those = "rows", f"of {len(self.features)} are"
        if self.costs is not None:
            unit, those = "trained tokens", "are those of rows that are"
        return (
            f"{self.budget} {unit} are asked for, and at most about {int(most)} {those} both difficult and "
            "influential. Lower the budget, or score every row: `select_subset(diq_score.score(ds), ...)`."
        )

    def _chances(self, known: Scored, difficult: float, possible: np.ndarray) -> np.ndarray:
        """How likely each row is to be chosen: by its words it may be influential enough, and of such rows so many are
        difficult enough and not passed over. Guesses at a row's own difficulty would be too poor: they keep good rows
        out."""
        rows, worths = known.rows, self._worths(known, difficult)
        cuts, _ = self._cuts(known, worths, difficult)
        scale = float(np.median(np.abs(worths[rows]))) or 1.0
        bend = lambda values: np.sign(values) * np.log1p(np.abs(values) / scale)  # noqa: E731
        good = rows[possible[rows] & (worths[rows] >= cuts[rows])]
        fits = (np.isin(good, self._fitting(known, difficult)).sum() + 1) / (len(good) + 1)
        return fits * _above(*by_words(self.features, rows, bend(worths[rows])), bend(cuts))

    def _first_threshold(self, known: Scored, landmarks: np.ndarray, weights: np.ndarray) -> float:
        """The difficulty's threshold, by landmarks alone where difficulties are not known."""
        if self.difficulty is not None:
            return float(np.nanpercentile(self.difficulty, self.percentile))
        return _weighted_percentile(known["difficulty"][landmarks], weights, self.percentile)

    def _threshold(self, known: Scored) -> tuple[float, float]:
        """The difficulty's threshold, and the standard error of its percentile."""
        if self.difficulty is not None:
            return float(np.nanpercentile(self.difficulty, self.percentile)), 0.0
        # What is scored is known; of the rest a predictor's word is taken, corrected by how far it is off on rows that
        # it had not seen: some came at random, some for their influence, which says little of difficulty.
        rows, unscored = np.flatnonzero(np.isfinite(known["difficulty"])), np.flatnonzero(~known.asked)
        difficulty, size = known["difficulty"][rows], len(rows) + len(unscored)
        mean, spread = by_words_and_trees(self.features, rows, difficulty, self.seed)
        candidates, residual = np.unique(difficulty), np.full(len(rows), 0.5)
        low, high = 0, len(candidates) - 1
        while low < high:  # the share below rises with the candidate, but for noise
            middle = (low + high) // 2
            said = 1 - _above(mean, spread, candidates[middle])
            below = difficulty < candidates[middle]
            residual = below - said[rows]
            share = (below.sum() + said[unscored].sum() + len(unscored) * residual.mean()) / size
            low, high = (middle + 1, high) if share < self.percentile / 100 else (low, middle)
        # Those that are left stray from what is expected of them as well.
        deviation = np.std(residual) * math.sqrt(1 / len(rows) + 1 / max(len(unscored), 1))
        return float(candidates[low]), float(len(unscored) / size * deviation)

    def _audit(
        self, known: Scored, worths: np.ndarray, thresholds: Thresholds, unscored: int, sample: np.ndarray
    ) -> Audit:
        cuts, chosen = self._cuts(known, worths, thresholds.difficulty, last=True)
        fitting = self._fitting(known, thresholds.difficulty)
        missed = int((np.isin(sample, fitting) & (worths[sample] >= cuts[sample])).sum())
        # A threshold that is an estimate moves rows in and out as well.
        moved = tuple(self._moved(known, worths, thresholds, cuts, errors) for errors in (0, 0.8, 1.96))
        found, low, high = estimate(chosen, unscored, len(sample), missed, moved)
        return Audit(found, low, high, len(self.features), len(known.rows), len(sample), missed)

    def _moved(
        self, known: Scored, worths: np.ndarray, thresholds: Thresholds, cuts: np.ndarray, errors: float
    ) -> float:
        """Chosen rows that another threshold, so many standard errors higher or lower, would have changed."""
        error, difficult = errors * thresholds.error, thresholds.difficulty
        if not error:
            return 0.0
        rows = known.rows
        values = np.sort(known["difficulty"][rows])
        at = np.searchsorted(values, difficult) / len(values)
        lower, higher = np.quantile(values, np.clip([at - error, at + error], 0, 1))
        good = worths[rows] >= cuts[rows]
        if self.max_mismatch is not None:
            good &= ~(known["mismatch"][rows] > self.max_mismatch)
        difficulty = known["difficulty"][rows][good]
        rises = ((difficulty >= difficult) & (difficulty < higher)).sum()
        falls = ((difficulty < difficult) & (difficulty >= lower)).sum()
        return float(max(rises, falls))


def _descending(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    return rows[np.argsort(-values[rows], kind="stable")]


def _above(mean: np.ndarray, spread: float, bound: float | np.ndarray) -> np.ndarray:
    from scipy.special import ndtr

    return ndtr((mean - bound) / spread)


def _weights(landmarks: np.ndarray, possible: np.ndarray) -> np.ndarray:
    """Each stratum's landmarks stand for it."""
    weights = np.zeros(len(landmarks))
    for stratum in (possible, ~possible):
        inside = stratum[landmarks]
        weights[inside] = stratum.sum() / max(inside.sum(), 1)
    return weights


def _weighted_percentile(values: np.ndarray, weights: np.ndarray, percentile: float) -> float:
    fits = np.isfinite(values)
    order = np.argsort(values[fits])
    values, weights = values[fits][order], weights[fits][order]
    at = (np.cumsum(weights) - weights / 2) / weights.sum()
    return float(np.interp(percentile / 100, at, values))
