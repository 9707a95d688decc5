"""Differences and their intervals, by loops, by another library's bootstrap, and by what they cover."""

from dataclasses import replace

import numpy as np
import pytest
from comparisons import NOISE, made_up
from scipy.stats import bootstrap, t, ttest_rel

from diq_hf.comparison.results import Comparison
from diq_hf.comparison.statistics import Difference, differences, visible


def one(found, strategy="diq", per="token", group=None, **facts):
    (part,) = [
        part
        for part in found
        if (part.strategy, part.per, part.group) == (strategy, per, group)
        and all(getattr(part, name) == value for name, value in facts.items())
    ]
    return part


def test_means_and_differences_by_loops():
    comparison = made_up(ratios=(0.05, 0.1), full=True)
    found, heldout = differences(comparison, samples=50), comparison.heldout
    assert len(found) == 4 * 2 * 2 * 3  # strategies (`full` against both), budgets, per token and row, all and groups
    for part in found:
        mine = [run for run in comparison.runs if (run.strategy, run.ratio) == (part.strategy, part.ratio)]
        others = [run for run in comparison.runs if (run.strategy, run.ratio) == ("random", part.against)]

        def mean(run, part=part):
            total = weights = 0.0
            for loss, tokens, group in zip(run.losses, heldout.tokens, heldout.groups, strict=True):
                if part.group in (None, group):
                    weight = tokens if part.per == "token" else 1
                    total, weights = total + weight * loss, weights + weight
            return total / weights

        means, baseline = [mean(run) for run in mine], [mean(run) for run in others]
        assert part.mean == pytest.approx(sum(means) / 3) and part.baseline == pytest.approx(sum(baseline) / 3)
        assert part.spread == pytest.approx((sum((m - part.mean) ** 2 for m in means) / 2) ** 0.5)
        assert part.baseline_spread == pytest.approx((sum((m - part.baseline) ** 2 for m in baseline) / 2) ** 0.5)
        assert part.count == sum(part.group in (None, group) for group in heldout.groups) and part.seeds == 3
        assert part.reference == (part.strategy == "full")
        if part.strategy == "random":
            assert (part.difference, part.low, part.high, part.significant) == (None, None, None, False)
        else:
            assert part.difference == pytest.approx(part.mean - part.baseline)
            assert part.low < part.difference < part.high


def test_one_seed_is_an_interval_over_rows_without_a_star():
    gains = {"diq": -0.5}
    comparison = made_up(gains=gains, groups=(("medquad", 200),), seeds=(3,))
    found = differences(comparison)
    tokens = np.array(comparison.heldout.tokens)
    losses = {run.strategy: np.array(run.losses) for run in comparison.runs}
    for per, weights in (("token", tokens), ("row", np.ones(200))):
        part = one(found, per=per)
        assert part.high < 0 and not part.significant and not part.better and part.spread is None
        drawn = bootstrap(
            (losses["diq"] - losses["random"], weights),
            lambda gap, weight, axis=-1: (gap * weight).sum(axis) / weight.sum(axis),
            paired=True,
            vectorized=True,
            n_resamples=10_000,
            method="basic",
            rng=np.random.default_rng(1),
        )
        assert (part.low, part.high) == pytest.approx(drawn.confidence_interval, abs=0.1 * (part.high - part.low))
        width = 2 * t.ppf(0.975, 199) * drawn.standard_error
        assert part.high - part.low == pytest.approx(width, rel=0.04)


def test_seeds_alone():
    """Rows that all differ alike leave the paired t-interval of the seeds."""
    comparison = made_up(noise={"rows": 0.0, "seeds": 0.02, "cells": 0.0}, seeds=(0, 1, 2, 3))
    means = {
        name: [np.mean(run.losses) for run in comparison.runs if run.strategy == name] for name in ("diq", "random")
    }
    expected = ttest_rel(means["diq"], means["random"]).confidence_interval(0.95)
    part = one(differences(comparison), per="row")
    assert (part.low, part.high) == pytest.approx(tuple(expected), abs=1e-9)


@pytest.mark.parametrize("sizes", [(40, 20), (2, 8)])
def test_groups_keep_their_shares_when_rows_are_drawn(sizes):
    """Groups that differ much from each other add nothing to the interval of all, were they drawn by chance."""
    gains = {("diq", "medquad"): -1.0, ("diq", "pubmedqa"): 1.0}
    groups = (("medquad", sizes[0]), ("pubmedqa", sizes[1]))
    noise = {"rows": 0.1, "seeds": 0.0, "cells": 0.0}
    comparison = made_up(gains=gains, groups=groups, noise=noise, seeds=(0, 1), seed=5)
    gaps = np.subtract(*(next(r.losses for r in comparison.runs if r.strategy == name) for name in ("diq", "random")))
    groups = np.array(comparison.heldout.groups)
    variance = (
        sum(gaps[groups == name].var(ddof=1) * (groups == name).sum() for name in set(groups)) / len(groups) ** 2
    )
    part = one(differences(comparison), per="row")
    assert (part.high - part.low) / 2 == pytest.approx(t.ppf(0.975, sum(sizes) - 2) * variance**0.5, rel=0.03)


@pytest.mark.parametrize("prevailing", [{"rows": 0.2}, {"seeds": 0.03}, {"seeds": 0.008}, {}])
def test_coverage(prevailing):
    """A true difference lies in its interval in 95 % of comparisons or a little more, whichever noise prevails."""
    covered = []
    for number in range(150):
        comparison = made_up(
            strategies=("random", "diq"),
            gains={"diq": -0.1},
            noise=NOISE | prevailing,
            pool_rows=10,
            seed=number,
        )
        part = one(differences(comparison, samples=200))
        covered.append(part.low <= -0.1 <= part.high)
    assert np.mean(covered) > 0.93, np.mean(covered)


def test_what_equals_the_baseline_gets_no_star():
    comparison = made_up()
    others = [run for run in comparison.runs if run.strategy == "random"]
    same = tuple(replace(run, strategy="diq") for run in others)
    found = differences(replace(comparison, runs=(*others, *same), strategies=("random", "diq")))
    assert {(part.difference, part.low, part.high, part.significant) for part in found if part.strategy == "diq"} == {
        (0.0, 0.0, 0.0, False)
    }


def test_stars():
    found = differences(made_up(gains={"diq": -0.3, "influence": 0.3}, questions=50, tasks=("mmlu",)))
    assert one(found).significant and one(found).better
    assert one(found, "influence").significant and not one(found, "influence").better
    right = Difference(strategy="diq", metric="accuracy", per="question", seeds=3, mean=0.5, difference=0.1)
    assert replace(right, significant=True).better and not right.better


def test_questions_and_tasks():
    comparison = made_up(questions=300, tasks=("mmlu", "arc"))
    found = differences(comparison)
    part = one(found, per="question", metric="accuracy")
    correct = {(run.strategy, run.seed): np.array(run.correct) for run in comparison.runs}
    assert part.mean == pytest.approx(np.mean([correct["diq", seed] for seed in range(3)])) and part.count == 300
    assert part.low < part.difference < part.high
    task = one(found, per="task", metric="arc")
    values = {(run.strategy, run.seed): run.tasks["arc"] for run in comparison.runs}
    pairs = [[values[name, seed] for seed in range(3)] for name in ("diq", "random")]
    assert (task.low, task.high) == pytest.approx(tuple(ttest_rel(*pairs).confidence_interval(0.95)))
    alone = one(differences(made_up(tasks=("arc",), seeds=(0,))), per="task")
    assert alone.difference is not None and (alone.low, alone.high) == (None, None)


def test_what_has_not_run_yet():
    comparison = made_up(seeds=(0, 1, 2))
    runs = [run for run in comparison.runs if (run.strategy, run.seed) not in (("random", 2), ("diq", 0))]
    found = differences(replace(comparison, runs=tuple(runs)))
    part = one(found, per="row")
    common = [
        np.mean(next(run.losses for run in runs if (run.strategy, run.seed) == (name, 1)))
        for name in ("diq", "random")
    ]
    assert part.seeds == 1 and part.difference == pytest.approx(common[0] - common[1]) and not part.significant
    without = tuple(run for run in runs if run.strategy != "random")
    assert one(differences(replace(comparison, runs=without))).difference is None
    assert visible(replace(comparison, runs=without)) is None


def test_what_is_visible():
    few, many = (made_up(groups=(("medquad", count),)) for count in (20, 400))
    found = differences(few)
    widths = [(part.high - part.low) / 2 for part in found if part.per == "token" and part.strategy != "random"]
    assert visible(few) == visible(few, found) == pytest.approx(np.mean(widths)) and visible(many) < visible(few) / 2


def test_refusals():
    comparison = made_up()
    with pytest.raises(ValueError, match="Without 'bm25' there is nothing to compare with"):
        differences(comparison, baseline="bm25")
    torn = replace(comparison.runs[0], losses=(float("nan"), *comparison.runs[0].losses[1:]))
    with pytest.raises(ValueError, match="'random' with seed 0 has 59 finite values of its loss for 60 held-out rows"):
        differences(replace(comparison, runs=(torn, *comparison.runs[1:])))


def test_it_is_json_and_the_same_again():
    comparison = made_up(full=True, questions=20, tasks=("mmlu",))
    assert Comparison.from_json(comparison.to_json()) == comparison
    found = differences(comparison)
    assert found == differences(comparison) and [Difference.from_json(part.to_json()) for part in found] == found
