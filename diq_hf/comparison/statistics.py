"""Whether the differences between runs are real: paired by seed and by held-out row, with intervals over both.

A difference has two kinds of noise. *Rows*: other held-out rows would have given another mean. They are drawn anew
within their groups, one fewer than there are, which leaves the variance of few rows unbiased (Rao and Wu 1988, JASA
83, 231). *Seeds*: other trainings would have given other models. S - 1 of S seeds, drawn anew, vary just as the
standard error of their mean says, so that is computed. But three seeds say little of their own variance, and the
percentiles of a bootstrap take it for known: simulated, with more noise of three seeds than of rows, they covered 83 %
where they said 95 %. So each kind gets Student's quantile for its own degrees of freedom, and the two margins are
added as squares (Howe 1974, JASA 69, 789): with 2, 3 and 5 seeds that covers 95 % or more, whichever prevails. The
price is width, which five seeds lower much.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..facts import Facts
from .results import Comparison, RunFacts


LEVEL = 0.95
BASELINE = "random"
_AT_ONCE = 1000  # samples


@dataclass(frozen=True, kw_only=True)
class Difference(Facts):
    """One strategy at one budget by one measure, held against the baseline.

    Args:
        strategy (`str`):
            The strategy.
        ratio (`float`, *optional*):
            Its budget; `None` for all rows.
        against (`float`, *optional*):
            The baseline's budget.
        metric (`str`):
            `"loss"`, `"accuracy"`, or the name of a task.
        per (`str`):
            What the mean is over: each `"token"`, `"row"` or `"question"`, or a whole `"task"`.
        group (`str`, *optional*):
            Of the held-out rows; `None` for all of them.
        count (`int`, *optional*):
            Held-out rows or questions; `None` for a task.
        seeds (`int`):
            Seeds that both were trained with.
        mean (`float`):
            The strategy's mean over its seeds.
        spread (`float`, *optional*):
            Standard deviation of that mean between its seeds; `None` of a single one.
        baseline (`float`, *optional*), baseline_spread (`float`, *optional*):
            The same of the baseline.
        difference (`float`, *optional*):
            Strategy less baseline by the seeds that both have; `None` for the baseline itself or without such a seed.
        low (`float`, *optional*), high (`float`, *optional*):
            The 95 % interval of the difference. With a single seed it is over rows alone: the noise of training is
            not in it. `None` where nothing can be said.
        significant (`bool`):
            Whether the interval excludes zero; never with a single seed.
        reference (`bool`):
            Whether the two had different budgets, as all rows and some.
    """

    strategy: str
    ratio: float | None = None
    against: float | None = None
    metric: str
    per: str
    group: str | None = None
    count: int | None = None
    seeds: int
    mean: float
    spread: float | None = None
    baseline: float | None = None
    baseline_spread: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    significant: bool = False
    reference: bool = False

    @property
    def better(self) -> bool:
        """Whether it is a real gain: less loss, or more answers that are right."""
        return self.significant and (self.difference < 0) == (self.metric == "loss")


def differences(
    comparison: Comparison, baseline: str = BASELINE, samples: int = 10_000, seed: int = 0
) -> list[Difference]:
    """Holds each strategy against a baseline, seed by seed and row by row.

    Args:
        comparison ([`Comparison`]):
            The runs; those that are still missing are left out.
        baseline (`str`, *optional*, defaults to `"random"`):
            The strategy that the others are held against, at the same budget. All rows are held against each budget's.
        samples (`int`, *optional*, defaults to `10_000`):
            How often the held-out rows are drawn anew.
        seed (`int`, *optional*, defaults to `0`):
            For those draws.

    Returns:
        `list[Difference]`: By strategy and budget as the comparison has them: the loss per token and per row, of all
        held-out rows and of each group where there are several; then the same for questions, then the tasks.

    Raises:
        `ValueError`: The baseline is none of the strategies, or a run was not judged by the rows that are stated.
    """
    if baseline not in comparison.strategies:
        raise ValueError(f"Without {baseline!r} there is nothing to compare with: add it to `strategies`.")
    pairs, heldout = _Pairs(comparison, baseline), comparison.heldout
    ones = np.ones(len(heldout.groups))
    weights = {"token": np.array(heldout.tokens, dtype=float), "row": ones}
    found = [*_by_rows(pairs, "loss", lambda run: run.losses, heldout.groups, weights, samples, seed)]
    if heldout.question_groups:
        weights = {"question": np.ones(len(heldout.question_groups))}
        groups = heldout.question_groups
        found += _by_rows(pairs, "accuracy", lambda run: run.correct, groups, weights, samples, seed)
    return [*found, *_by_task(pairs)]


def visible(comparison: Comparison, found: Sequence[Difference] | None = None, per: str = "token") -> float | None:
    """How large a difference must be to be seen with these rows and seeds: the usual half width of an interval.

    Args:
        comparison ([`Comparison`]):
            The runs.
        found (`Sequence[Difference]`, *optional*):
            What [`differences`] gives, where it is known already.
        per (`str`, *optional*, defaults to `"token"`):
            What the mean is over.

    Returns:
        `float`: The median over strategies and budgets, of all held-out rows; `None` where there is no interval. With
        a single seed the noise of training is not in it.
    """
    widths = [
        (part.high - part.low) / 2
        for part in (differences(comparison) if found is None else found)
        if part.per == per and part.group is None and part.high is not None and not part.reference
    ]
    return float(np.median(widths)) if widths else None


class _Pairs:
    """Each strategy and budget beside the baseline that it is held against."""

    def __init__(self, comparison: Comparison, baseline: str):
        self.runs, self.baseline = comparison.by_strategy(), baseline
        self.ratios = comparison.ratios

    def __iter__(self) -> Iterator[tuple[str, float | None, float | None]]:
        for strategy, ratio in self.runs:
            for against in self.ratios if ratio is None else (ratio,):
                yield strategy, ratio, against

    def values(self, strategy: str, ratio: float | None, value: Callable[[RunFacts], Any]) -> dict[int, Any]:
        """By seed, where it is known."""
        runs = self.runs.get((strategy, ratio), {})
        return {seed: value(run) for seed, run in runs.items() if value(run) is not None}

    def compared(
        self,
        pair: tuple[str, float | None, float | None],
        means: Mapping[int, float],
        others: Mapping[int, float],
        row_margin: float | None = 0.0,
        **facts: Any,
    ) -> Difference:
        """A difference by the means of each seed, and by how far rows alone may move it."""
        strategy, ratio, against = pair
        common = [] if strategy == self.baseline else [seed for seed in means if seed in others]
        gaps = np.array([means[seed] - others[seed] for seed in common])
        difference = margin = None
        if common:
            difference = float(gaps.mean())
        if len(common) > 1 and row_margin is not None:
            seed_margin = _quantile(len(gaps) - 1) * gaps.std(ddof=1) / math.sqrt(len(gaps))
            margin = math.hypot(seed_margin, row_margin)
        elif common and row_margin:
            margin = row_margin
        low, high = (None, None) if margin is None else (float(difference - margin), float(difference + margin))
        return Difference(
            strategy=strategy,
            ratio=ratio,
            against=against,
            seeds=len(common) or len(means),
            mean=float(np.mean([*means.values()])),
            spread=_spread(means),
            baseline=float(np.mean([*others.values()])) if others else None,
            baseline_spread=_spread(others),
            difference=difference,
            low=low,
            high=high,
            significant=len(common) > 1 and low is not None and (low > 0 or high < 0),
            reference=ratio != against,
            **facts,
        )


def _by_rows(
    pairs: _Pairs,
    metric: str,
    value: Callable[[RunFacts], Any],
    groups: Sequence[str],
    weights: Mapping[str, np.ndarray],
    samples: int,
    seed: int,
) -> Iterator[Difference]:
    """Differences of weighted means of rows."""
    names = list(dict.fromkeys(groups))
    members = [np.flatnonzero(np.array(groups) == name) for name in names]

    def values(strategy: str, ratio: float | None) -> dict[int, np.ndarray]:
        by_seed = pairs.values(strategy, ratio, value)
        for at, row_values in by_seed.items():
            if len(row_values) != len(groups) or not np.isfinite(row_values).all():
                raise ValueError(
                    f"The run of {strategy!r} with seed {at} has {np.isfinite(row_values).sum()} finite values of its "
                    f"{metric} for {len(groups)} held-out rows: it was judged by others, or its training diverged "
                    "(lower the learning rate). Remove the run's file and run it again."
                )
        return {at: np.asarray(row_values, dtype=float) for at, row_values in by_seed.items()}

    known = [(pair, mine, values(pairs.baseline, pair[2])) for pair in pairs if (mine := values(*pair[:2]))]
    gaps = np.zeros((len(groups), len(known)))  # mean over the common seeds, of each row
    for column, (_, mine, others) in enumerate(known):
        common = [at for at in mine if at in others]
        if common:
            gaps[:, column] = np.mean([mine[at] - others[at] for at in common], axis=0)
    parts: dict[str | None, np.ndarray] = {None: np.arange(len(groups))}
    freedom: dict[str | None, int] = {None: len(groups) - len(names)}
    if len(names) > 1:
        parts |= dict(zip(names, members, strict=True))
        freedom |= {name: len(rows) - 1 for name, rows in parts.items() if name is not None}
    errors = {per: _row_errors(gaps, members, weight, samples, seed) for per, weight in weights.items()}
    for column, (pair, mine, others) in enumerate(known):
        for per, weight in weights.items():
            for (group, rows), of_group in zip(parts.items(), errors[per], strict=False):
                means, other_means = (
                    {at: float(np.average(part[rows], weights=weight[rows])) for at, part in by_seed.items()}
                    for by_seed in (mine, others)
                )
                margin = _quantile(freedom[group]) * float(of_group[column]) if freedom[group] else None
                facts = {"metric": metric, "per": per, "group": group, "count": len(rows)}
                yield pairs.compared(pair, means, other_means, margin, **facts)


def _row_errors(
    gaps: np.ndarray, members: Sequence[np.ndarray], weight: np.ndarray, samples: int, seed: int
) -> np.ndarray:
    """Standard errors of the weighted mean of each column, over rows that are drawn anew within their groups.

    Returns:
        `np.ndarray`: Of all rows, then of each group; of shape `(1 + groups, columns)`.
    """
    rng = np.random.default_rng(seed)
    values = np.column_stack([gaps * weight[:, None], weight])
    draws = []
    for start in range(0, samples, _AT_ONCE):
        sums = np.stack([_drawn(rng, min(_AT_ONCE, samples - start), len(rows)) @ values[rows] for rows in members])
        sums = np.concatenate([sums.sum(axis=0, keepdims=True), sums])
        draws.append(sums[..., :-1] / sums[..., -1:])
    return np.concatenate(draws, axis=1).std(axis=1, ddof=1)


def _drawn(rng: np.random.Generator, samples: int, rows: int) -> np.ndarray:
    """How often each of a group's rows counts in each sample: one fewer are drawn than there are."""
    if rows == 1:  # its noise cannot be known
        return np.ones((samples, 1))
    return rng.multinomial(rows - 1, np.full(rows, 1 / rows), size=samples) * (rows / (rows - 1))


def _by_task(pairs: _Pairs) -> Iterator[Difference]:
    """Differences of tasks, of which only means are known: by seeds alone."""
    names = dict.fromkeys(name for runs in pairs.runs.values() for run in runs.values() for name in run.tasks or ())
    for pair in pairs:
        for name in names:

            def value(run: RunFacts, name: str = name) -> float | None:
                return (run.tasks or {}).get(name)

            means, others = pairs.values(*pair[:2], value), pairs.values(pairs.baseline, pair[2], value)
            if means:
                yield pairs.compared(pair, means, others, metric=name, per="task")


def _spread(means: Mapping[int, float]) -> float | None:
    return float(np.std([*means.values()], ddof=1)) if len(means) > 1 else None


def _quantile(freedom: int) -> float:
    """Of Student's distribution: so many standard errors wide is each side of an interval."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))
