"""The rule, against the paper's definition written out case by case and against the laws it must keep."""

from functools import partial

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from diq_hf import QuadrantRule
from diq_hf import select_subset as select_by_default


# In the paper's order; the default one is of tests/selection/test_order.py.
select_subset = partial(select_by_default, order="influence")


scores = st.one_of(
    st.none(),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 0.0, 1.0, 1.0]),
    st.floats(-100, 100, width=32),
)
pools = st.lists(st.tuples(scores, scores), min_size=1, max_size=40)


def dataset(pairs):
    return Dataset.from_dict(
        {
            "row": list(range(len(pairs))),
            "difficulty": [difficulty for difficulty, _ in pairs],
            "influence": [influence for _, influence in pairs],
        }
    )


def is_scored(pair):
    return all(value is not None and np.isfinite(value) for value in pair)


@pytest.fixture
def scored():
    return dataset([(4.0, 0.9), (1.0, 0.8), (5.0, 0.1), (2.0, 0.2), (None, 0.9), (4.0, float("nan"))])


def test_thresholds_and_quadrants(scored):
    rule = QuadrantRule.fit(scored)
    assert (rule.difficulty_threshold, rule.influence_threshold) == (3.0, 0.5)
    assert rule.quadrants(scored["difficulty"], scored["influence"]) == ["Q1", "Q2", "Q3", "Q4", None, None]
    # High means at the threshold or above it.
    assert QuadrantRule(3.0, 0.5).quadrants([3.0], [0.5]) == ["Q1"]
    assert QuadrantRule.fit(scored, difficulty_percentile=100).difficulty_threshold == 5.0
    # Linear interpolation: a quarter of the way through 1, 2, 4, 5.
    assert QuadrantRule.fit(scored, difficulty_percentile=25).difficulty_threshold == 1.75


def test_filter_in_every_form(scored):
    rule = QuadrantRule.fit(scored)
    columns = ["difficulty", "influence"]
    for kept in (
        scored.filter(rule),
        scored.filter(rule, batched=True),
        scored.filter(rule, batched=True, input_columns=columns),
        scored.filter(rule, input_columns=columns),
        scored.filter(rule, num_proc=2),
        scored.with_format("torch").filter(rule),
        scored.with_format("numpy").filter(rule, batched=True),
        DatasetDict(train=scored).filter(rule)["train"],
        scored.to_iterable_dataset().filter(rule),
        scored.to_iterable_dataset().filter(rule, batched=True, input_columns=columns),
    ):
        assert [int(row["row"]) for row in kept] == [0]
    easy = QuadrantRule.fit(scored, keep=["Q2", "Q4"])
    assert scored.filter(easy)["row"][:] == [1, 3]
    assert QuadrantRule.fit(scored, keep="Q3")({"difficulty": 4.0, "influence": 0.0})


def test_fit_on_a_stream(scored):
    assert QuadrantRule.fit(scored.to_iterable_dataset()) == QuadrantRule.fit(scored)


def test_filter_is_cached(tmp_path, scored):
    scored.save_to_disk(tmp_path)
    from datasets import load_from_disk

    first = load_from_disk(tmp_path).filter(QuadrantRule.fit(scored))
    second = load_from_disk(tmp_path).filter(QuadrantRule.fit(scored))
    assert first._fingerprint == second._fingerprint


def test_annotate(scored):
    annotated = QuadrantRule.fit(scored).annotate(scored)
    assert annotated.features["quadrant"].names == ["Q1", "Q2", "Q3", "Q4"]
    assert annotated["quadrant"][:] == [0, 1, 2, 3, None, None]
    assert annotated["diq_rank"][:] == [1, 2, 3, 4, None, None]
    assert QuadrantRule.fit(annotated).annotate(annotated)["diq_rank"][:] == annotated["diq_rank"][:]
    with pytest.raises(ValueError, match="columns \\['quadrant'\\] of its own"):
        QuadrantRule.fit(scored).annotate(scored.add_column("quadrant", ["left"] * 6))


def test_order_inside_a_quadrant():
    # Influence first, then difficulty, then row order; all in Q1.
    pool = dataset([(4.0, 1.0), (5.0, 1.0), (4.0, 2.0), (4.0, 1.0)])
    rule = QuadrantRule(4.0, 1.0)
    assert select_subset(pool, ratio=1, rule=rule)["row"][:] == [2, 1, 0, 3]


@pytest.mark.parametrize(
    ("size", "ratio", "expected"),
    [(1, 1e-9, 1), (1, 1, 1), (10, 0.05, 1), (10, 0.25, 3), (10, 0.349, 3), (10, 1.0, 10), (3, 0.5, 2)],
)
def test_budget(size, ratio, expected):
    assert len(select_subset(dataset([(1.0, 1.0)] * size), ratio=ratio)) == expected


@given(pools, st.floats(0.001, 1))
@settings(max_examples=60, deadline=None)
def test_budget_is_exact_and_priority_never_inverted(pairs, ratio):
    pool, finite = dataset(pairs), [pair for pair in pairs if is_scored(pair)]
    budget = max(1, int(np.floor(ratio * len(pairs) + 0.5)))
    if not finite:
        with pytest.raises(ValueError, match="Score the dataset first"):
            select_subset(pool, ratio=ratio)
        return
    if budget > len(finite):
        with pytest.raises(ValueError, match=f"{budget} rows are asked for but only {len(finite)} of {len(pairs)}"):
            select_subset(pool, ratio=ratio)
        return
    subset = select_subset(pool, ratio=ratio)
    chosen = subset["row"][:]
    assert len(chosen) == len(set(chosen)) == budget
    rule = QuadrantRule.fit(pool)

    def priority(row):
        difficulty, influence = pairs[row]
        quadrant = {(1, 1): 1, (0, 1): 2, (1, 0): 3, (0, 0): 4}[
            (difficulty >= rule.difficulty_threshold, influence >= rule.influence_threshold)
        ]
        return quadrant, -influence, -difficulty, row

    rest = [row for row in range(len(pairs)) if is_scored(pairs[row]) and row not in chosen]
    assert [priority(row) for row in chosen] == sorted(priority(row) for row in chosen)
    assert all(priority(chosen[-1]) < priority(row) for row in rest)
    assert subset["diq_rank"][:] == list(range(1, budget + 1))


@given(pools.filter(lambda pairs: any(map(is_scored, pairs))), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_row_order_does_not_matter(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    budget = max(1, sum(map(is_scored, pairs)) // 2)
    first, second = (select_subset(dataset(rows), num_rows=budget) for rows in (pairs, shuffled))
    assert QuadrantRule.fit(dataset(pairs)) == QuadrantRule.fit(dataset(shuffled))
    scores = [[(row["difficulty"], row["influence"]) for row in subset] for subset in (first, second)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("influence", [0, 1, 3]), ("difficulty", [2, 0, 3]), ("loss", [3, 2, 1]), ("length", [1, 0, 2])],
)
def test_strategies_for_comparison(strategy, expected, scored):
    scored = scored.add_column("loss", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    scored = scored.add_column("num_tokens", [7, 9, 5, 3, 11, 12])
    assert select_subset(scored, num_rows=3, strategy=strategy)["row"][:] == expected


def test_influence_alone_is_enough_for_a_comparison(scored):
    alone = scored.remove_columns("difficulty")
    assert select_subset(alone, num_rows=2, strategy="influence")["row"][:] == [0, 4]
    assert len(select_subset(alone, ratio=1, strategy="random")) == 6
    with pytest.raises(ValueError, match="no column"):
        select_subset(alone, num_rows=2)


def test_random_strategy(scored):
    draws = {tuple(select_subset(scored, num_rows=2, strategy="random", seed=seed)["row"][:]) for seed in range(20)}
    assert len(draws) > 3
    assert {row for draw in draws for row in draw} == {0, 1, 2, 3}
    again = [select_subset(scored, num_rows=2, strategy="random", seed=7)["row"][:] for _ in range(2)]
    assert again[0] == again[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 0}, r"`ratio` must be in \(0, 1\]"),
        ({"ratio": 1.01}, r"`ratio` must be in \(0, 1\]"),
        ({"ratio": float("nan")}, r"`ratio` must be in \(0, 1\]"),
        ({"num_rows": 0}, "at least 1"),
        ({"num_rows": 2.5}, "whole number"),
        ({}, "exactly one of"),
        ({"ratio": 0.5, "num_rows": 2}, "exactly one of"),
        ({"num_rows": 5}, "5 rows are asked for but only 4 of 6"),
        ({"ratio": 0.5, "strategy": "best"}, "`strategy` is 'best'"),
        ({"ratio": 0.5, "strategy": "loss"}, r"no column \['loss'\]"),
    ],
)
def test_bad_arguments(arguments, message, scored):
    with pytest.raises(ValueError, match=message):
        select_subset(scored, **arguments)


def test_bad_pools(scored):
    with pytest.raises(ValueError, match=r"no column \['influence'\].*Score it first"):
        QuadrantRule.fit(scored.remove_columns("influence"))
    with pytest.raises(TypeError, match="Pass one split"):
        QuadrantRule.fit(DatasetDict(train=scored))
    with pytest.raises(TypeError, match="IterableDataset cannot be picked"):
        select_subset(scored.to_iterable_dataset(), ratio=0.5)
    with pytest.raises(ValueError, match="between 0 and 100"):
        QuadrantRule.fit(scored, difficulty_percentile=150)
    with pytest.raises(ValueError, match=r"\['Q5'\]"):
        QuadrantRule(1.0, 1.0, keep=("Q5",))
    with pytest.raises(ValueError, match="Score it first"):
        QuadrantRule(1.0, 1.0)({"text": "a"})
    with pytest.raises(TypeError, match="input_columns"):
        QuadrantRule(1.0, 1.0)([1.0])
