"""The best rows of a pool without scoring all of it, and how many of them were found.

Landmarks, a random slice, are scored. A cheap predictor learns from them; the rows that it thinks most likely to be
chosen are scored, and it learns again, until it expects to have missed next to none or the allowance is spent. The
choice is made from exact scores alone. At last a random slice of what was never scored, and which the predictor never
saw, is scored: how many of its rows would have been chosen says how many were missed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .features import Features


# Shares of the allowance: landmarks, more of them where they tell of the difficulty as well, and the audit's slice.
LANDMARKS, LANDMARKS_BOTH, AUDIT = 0.12, 0.35, 0.04
ROUNDS = 8
# Strength of the ridge, and trees.
RIDGE, TREES = 0.3, 100
# Fewer landmarks teach a predictor nothing.
LEAST = 24


@dataclass(frozen=True)
class Audit:
    """How much of the exact selection was found.

    Args:
        found (`float`):
            Estimated share of the rows that the exact selection, with every row scored, would have taken.
        low (`float`):
            Lower end of its 95 % confidence interval.
        high (`float`):
            Upper end.
        num_rows (`int`):
            Rows of the pool.
        num_scored (`int`):
            Rows that were scored, the audit's own among them.
        num_audited (`int`):
            Rows of the random slice.
        num_missed (`int`):
            Rows of the slice that would have been chosen.
    """

    found: float
    low: float
    high: float
    num_rows: int
    num_scored: int
    num_audited: int
    num_missed: int

    @property
    def cost(self) -> float:
        """Rows scored against scoring every row."""
        return self.num_scored / self.num_rows

    def __str__(self) -> str:
        return (
            f"{self.num_scored} of {self.num_rows} rows scored ({self.cost:.0%}); about {self.found:.0%} of the exact "
            f"selection found (95 % confidence: {self.low:.0%} to {self.high:.0%}, by {self.num_audited} rows at "
            f"random, of which {self.num_missed} had been missed)"
        )


@dataclass(frozen=True)
class Thresholds:
    """Estimates for the whole pool: what a difficulty and an influence must reach, and the standard error of the
    difficulty's percentile, as a share of rows (0 where every difficulty is known)."""

    difficulty: float
    influence: float
    error: float


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
            Rows to choose.
        allowance (`int`):
            Rows that may be scored.
        difficulty (`np.ndarray`, *optional*):
            The difficulty of every row, where it is known.
        worth (`Callable`, *optional*):
            What rows are ranked by, of `(columns, rows)`; their influence by default.
        percentile (`float`, *optional*, defaults to 50):
            The difficulty threshold's percentile.
        influence_percentile (`float`, *optional*, defaults to 50):
            The influence threshold's.
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
    worth: Callable[[Mapping[str, np.ndarray], np.ndarray], np.ndarray] | None = None
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
        allowance = min(self.allowance, size)
        if allowance == size:
            return self._everything(size)
        slices = AUDIT, LANDMARKS if self.difficulty is not None else LANDMARKS_BOTH
        audited, landmarks = (math.ceil(share * allowance) for share in slices)
        if landmarks < LEAST:
            raise ValueError(
                f"{allowance} rows may be scored, {landmarks} of them as landmarks, and a predictor needs {LEAST}. "
                "Raise `max_scored`, or, for a pool this small, score every row: "
                "`select_subset(diq_score.score(ds), ...)`."
            )
        possible = np.ones(size, bool)
        if self.difficulty is not None:
            possible = self.difficulty >= np.nanpercentile(self.difficulty, self.percentile)
        known: dict[str, np.ndarray] = {}
        inside, outside = draw.permutation(np.flatnonzero(possible)), draw.permutation(np.flatnonzero(~possible))
        # Rows that cannot be chosen count for the influence threshold alone.
        beside = min(len(outside), landmarks // 10)
        landmark_rows = np.concatenate([inside[: landmarks - beside], outside[:beside]])
        self._take(landmark_rows, known, size)
        predicted: dict[str, tuple[np.ndarray, float]] = {}
        left = allowance - landmarks - audited
        for number in range(ROUNDS):
            thresholds = self._thresholds(known, landmark_rows, predicted, possible)
            if not number:
                self._check_budget(known, thresholds, landmark_rows[: landmarks - beside], possible.sum())
            unscored = np.flatnonzero(possible & np.isnan(known["influence"]))
            step = min(len(unscored), left // (ROUNDS - number))
            if step < 1:
                break
            chance, predicted = self._chances(known, thresholds)
            if number and chance[unscored].sum() < (1 - self.target) * self.budget:
                break
            self._take(unscored[np.argsort(-chance[unscored], kind="stable")[:step]], known, size)
            left -= step
        unscored = np.flatnonzero(possible & np.isnan(known["influence"]))
        _, predicted = self._chances(known, thresholds)
        sample = draw.permutation(unscored)[:audited]
        self._take(sample, known, size)
        thresholds = self._thresholds(known, landmark_rows, predicted, possible, unscored, sample)
        rows = np.flatnonzero(np.isfinite(known["influence"]))
        if (fits := self.fits(known, rows, thresholds)).sum() < self.budget:
            raise ValueError(self._beyond(fits.sum()))
        audit = self._audit(known, thresholds, len(unscored), sample, len(rows))
        return rows, {name: values[rows] for name, values in known.items()}, thresholds, audit

    def _everything(self, size: int) -> tuple[np.ndarray, dict[str, np.ndarray], Thresholds, Audit]:
        known: dict[str, np.ndarray] = {}
        self._take(np.arange(size), known, size)
        difficulty = known["difficulty"] if self.difficulty is None else self.difficulty
        finite = np.isfinite(difficulty) & np.isfinite(known["influence"])
        thresholds = Thresholds(
            float(np.percentile(difficulty[finite], self.percentile)),
            float(np.percentile(known["influence"][finite], self.influence_percentile)),
            0.0,
        )
        return np.arange(size), known, thresholds, Audit(1.0, 1.0, 1.0, size, size, 0, 0)

    def _take(self, rows: np.ndarray, known: dict[str, np.ndarray], size: int) -> None:
        for name, values in self.score(rows).items():
            known.setdefault(name, np.full(size, np.nan))[rows] = values
        if self.difficulty is not None:
            known.setdefault("difficulty", np.full(size, np.nan))[rows] = self.difficulty[rows]

    def _worth(self, known: Mapping[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
        return known["influence"][rows] if self.worth is None else self.worth(known, rows)

    def fits(self, known: Mapping[str, np.ndarray], rows: np.ndarray, thresholds: Thresholds) -> np.ndarray:
        """Whether scored rows may be chosen."""
        fits = known["difficulty"][rows] >= thresholds.difficulty
        return fits if self.max_mismatch is None else fits & (known["mismatch"][rows] <= self.max_mismatch)

    def _check_budget(
        self, known: Mapping[str, np.ndarray], thresholds: Thresholds, rows: np.ndarray, possible: int
    ) -> None:
        """Refuses a budget that lower quadrants would have to fill, whose rows are not looked for."""
        from scipy.stats import beta

        first = self.fits(known, rows, thresholds) & (known["influence"][rows] >= thresholds.influence)
        # As many as the landmarks allow for at most, by the exact interval of a share.
        most = beta.ppf(0.975, first.sum() + 1, len(rows) - first.sum()) if not first.all() else 1.0
        if most * possible < self.budget:
            raise ValueError(self._beyond(int(most * possible)))

    def _beyond(self, most: int) -> str:
        return (
            f"{self.budget} rows are asked for, and at most about {most} of {len(self.features)} are both difficult "
            "and influential. Lower the budget, or score every row: `select_subset(diq_score.score(ds), ...)`."
        )

    def _cut(self, known: Mapping[str, np.ndarray], thresholds: Thresholds) -> float:
        """The worth of the last row that is chosen of those scored."""
        rows = np.flatnonzero(np.isfinite(known["influence"]))
        worth = np.sort(self._worth(known, rows)[self.fits(known, rows, thresholds)])
        return float(worth[-min(self.budget, len(worth))]) if len(worth) else -math.inf

    def _chances(self, known: Mapping[str, np.ndarray], thresholds: Thresholds) -> tuple[np.ndarray, dict]:
        """How likely each row is to be chosen, by what is scored."""
        rows = np.flatnonzero(np.isfinite(known["influence"]))
        worth, cut = self._worth(known, rows), self._cut(known, thresholds)
        scale = float(np.median(np.abs(worth))) or 1.0
        bend = lambda values: np.sign(values) * np.log1p(np.abs(values) / scale)  # noqa: E731
        chance = _above(*self._by_words(rows, bend(worth)), bend(cut))
        predicted = {}
        if self.difficulty is None:
            predicted["difficulty"] = self._by_words_and_trees(rows, known["difficulty"][rows])
            chance = chance * _above(*predicted["difficulty"], thresholds.difficulty)
        if self.max_mismatch is not None:
            mean, spread = self._by_words_and_trees(rows, known["mismatch"][rows])
            chance = chance * _above(-mean, spread, -self.max_mismatch)
        return chance, predicted

    def _by_words(self, rows: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
        """A ridge's prediction for every row, as if it had not seen that one, and how far it is off."""
        from sklearn.linear_model import Ridge
        from sklearn.model_selection import KFold, cross_val_predict

        words, model = self.features.words, Ridge(alpha=RIDGE)
        unseen = cross_val_predict(model, words[rows], target, cv=KFold(5, shuffle=True, random_state=0))
        mean = model.fit(words[rows], target).predict(words)
        mean[rows] = unseen
        return mean, float(np.std(target - unseen)) + 1e-9

    def _by_words_and_trees(self, rows: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
        """Likewise, with randomised trees beside it: what lies between prompt and answer is not linear."""
        from sklearn.ensemble import ExtraTreesRegressor

        dense, (linear, _) = self.features.dense, self._by_words(rows, target)
        trees = ExtraTreesRegressor(
            TREES, min_samples_leaf=2, max_features=0.5, bootstrap=True, oob_score=True, random_state=self.seed
        ).fit(dense[rows], target)
        mean = trees.predict(dense)
        mean[rows] = trees.oob_prediction_
        mean = (linear + mean) / 2
        return mean, float(np.std(target - mean[rows])) + 1e-9

    def _thresholds(
        self,
        known: Mapping[str, np.ndarray],
        landmarks: np.ndarray,
        predicted: Mapping[str, tuple[np.ndarray, float]],
        possible: np.ndarray,
        unscored: np.ndarray | None = None,
        sample: np.ndarray | None = None,
    ) -> Thresholds:
        # Each stratum's landmarks stand for it.
        weights = np.zeros(len(landmarks))
        for stratum in (possible, ~possible):
            inside = stratum[landmarks]
            weights[inside] = stratum.sum() / max(inside.sum(), 1)
        influence = _weighted_percentile(known["influence"][landmarks], weights, self.influence_percentile)
        if self.difficulty is not None:
            return Thresholds(float(np.nanpercentile(self.difficulty, self.percentile)), influence, 0.0)
        share = self.percentile / 100
        if sample is None or not len(sample):
            found = _weighted_percentile(known["difficulty"][landmarks], weights, self.percentile)
            return Thresholds(found, influence, math.sqrt(share * (1 - share) / len(landmarks)))
        # What is scored is known; of the rest the predictor's word is taken, corrected by how far it is off on rows at
        # random.
        random = np.concatenate([landmarks, sample])
        size, (mean, spread) = len(possible), predicted["difficulty"]
        scored = np.isfinite(known["difficulty"])
        scored[sample] = False
        candidates = np.unique(known["difficulty"][np.isfinite(known["difficulty"])])
        below = np.searchsorted(np.sort(known["difficulty"][scored]), candidates, side="left").astype(float)
        residuals = {}
        low, high = 0, len(candidates) - 1
        while low < high:  # the share below rises with the candidate, but for noise
            middle = (low + high) // 2
            said = 1 - _above(mean[unscored], spread, candidates[middle])
            residual = (known["difficulty"][random] < candidates[middle]) - (
                1 - _above(mean[random], spread, candidates[middle])
            )
            residuals[middle] = residual
            share_below = (below[middle] + said.sum() + len(unscored) * residual.mean()) / size
            low, high = (middle + 1, high) if share_below < share else (low, middle)
        deviation = np.std(residuals[min(residuals, key=lambda m: abs(m - low))]) if residuals else 0.5
        error = len(unscored) / size * deviation / math.sqrt(len(random))
        return Thresholds(float(candidates[low]), influence, float(error))

    def _audit(
        self, known: Mapping[str, np.ndarray], thresholds: Thresholds, unscored: int, sample: np.ndarray, scored: int
    ) -> Audit:
        from scipy.stats import hypergeom

        cut, budget = self._cut(known, thresholds), self.budget
        missed = int((self.fits(known, sample, thresholds) & (self._worth(known, sample) >= cut)).sum())
        rest = unscored - len(sample)
        # How many of the unscored rows may have been as good, for a sample that holds so many: by exact tails.
        totals = np.arange(missed, unscored - len(sample) + missed + 1)
        if len(sample):
            low = totals[hypergeom.sf(missed - 1, unscored, totals, len(sample)) > 0.025].min() - missed
            high = totals[hypergeom.cdf(missed, unscored, totals, len(sample)) > 0.025].max() - missed
        else:
            low, high = 0, rest
        middle = rest * missed / max(len(sample), 1)
        # A threshold that is an estimate moves rows in and out as well.
        slack = [self._moved(known, thresholds, cut, errors * thresholds.error) for errors in (0, 0.8, 1.96)]
        share = lambda left, moved: budget / (budget + left) * (1 - min(moved / budget, 1))  # noqa: E731
        return Audit(
            found=float(share(middle, slack[1])),
            low=float(share(high, slack[2])),
            high=float(share(low / 2, slack[0])),  # rows that were missed may be the last of the selection
            num_rows=len(self.features),
            num_scored=scored,
            num_audited=len(sample),
            num_missed=missed,
        )

    def _moved(self, known: Mapping[str, np.ndarray], thresholds: Thresholds, cut: float, error: float) -> float:
        """Chosen rows that another threshold, so large a share of rows higher or lower, would have changed."""
        if not error:
            return 0.0
        rows = np.flatnonzero(np.isfinite(known["influence"]))
        values = np.sort(known["difficulty"][rows])
        at = np.searchsorted(values, thresholds.difficulty) / len(values)
        lower, higher = np.quantile(values, np.clip([at - error, at + error], 0, 1))
        good = self._worth(known, rows) >= cut
        if self.max_mismatch is not None:
            good &= known["mismatch"][rows] <= self.max_mismatch
        difficulty = known["difficulty"][rows][good]
        rises = ((difficulty >= thresholds.difficulty) & (difficulty < higher)).sum()
        falls = ((difficulty < thresholds.difficulty) & (difficulty >= lower)).sum()
        return float(max(rises, falls))


def _above(mean: np.ndarray, spread: float, bound: float) -> np.ndarray:
    from scipy.special import ndtr

    return ndtr((mean - bound) / spread)


def _weighted_percentile(values: np.ndarray, weights: np.ndarray, percentile: float) -> float:
    fits = np.isfinite(values)
    order = np.argsort(values[fits])
    values, weights = values[fits][order], weights[fits][order]
    at = (np.cumsum(weights) - weights / 2) / weights.sum()
    return float(np.interp(percentile / 100, at, values))
