"""What is taken: against every subset of small pools, and against what a reader of the pool would say."""

import itertools
from functools import partial

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from diq_hf import QuadrantRule
from diq_hf import select_subset as select_by_default
from diq_hf.selection.quadrants import REASONS
from diq_hf.selection.scores import score_columns


# In the paper's order; the default one is of tests/selection/test_order.py.
select_subset = partial(select_by_default, order="influence")


def pool_of(**columns):
    size = len(next(iter(columns.values())))
    return Dataset.from_dict({"row": list(range(size)), "difficulty": [1.0] * size} | columns)


def reasons_of(pool):
    return [REASONS[code] for code in pool["diq_reason"][:]]


weighted = st.lists(st.tuples(st.floats(-3, 3, width=16), st.integers(1, 30)), min_size=3, max_size=8)


@given(weighted, st.data())
@settings(max_examples=60, deadline=None)
def test_equal_rows_have_the_best_mean_of_all_choices(rows, data):
    """`per="row"`: no other choice of as many rows has a larger mean influence a token."""
    influence, tokens = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    count = data.draw(st.integers(1, len(rows)))

    def mean(chosen):
        return (influence[chosen] * tokens[chosen]).sum() / tokens[chosen].sum()

    best = max(mean(list(chosen)) for chosen in itertools.combinations(range(len(rows)), count))
    scored = pool_of(influence=influence, num_trained=tokens.astype(int))
    taken = select_subset(scored, num_rows=count, per="row", strategy="influence")["row"][:]
    assert mean(taken) == pytest.approx(best, abs=1e-9)


def test_the_mean_is_looked_for_more_than_once():
    influence, tokens = [0.0, 1.5, 2.5, -1.0, 0.5], [5, 28, 9, 1, 2]
    scored = pool_of(influence=influence, num_trained=tokens)
    # By the mean of the two largest, 1.74, rows 2 and 4 are the best, and reach 2.14; by this mean rows 2 and 3, 2.15.
    assert select_subset(scored, num_rows=2, per="row", strategy="influence")["row"][:] == [2, 3]


@given(weighted, st.data())
@settings(max_examples=60, deadline=None)
def test_equal_tokens_are_spent_best(rows, data):
    """`per="token"`: by rows no other choice is worth more, by tokens none more than one row more."""
    influence, tokens = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    scored = pool_of(influence=influence, num_trained=tokens.astype(int))
    subsets = [list(chosen) for n in range(1, len(rows) + 1) for chosen in itertools.combinations(range(len(rows)), n)]

    def worth(chosen):
        return (influence[chosen] * tokens[chosen]).sum()

    count = data.draw(st.integers(1, len(rows)))
    taken = select_subset(scored, num_rows=count, per="token", strategy="influence")["row"][:]
    assert worth(taken) == pytest.approx(max(worth(chosen) for chosen in subsets if len(chosen) == count))

    budget = data.draw(st.integers(int(tokens.max()), int(tokens.sum())))
    taken = select_subset(scored, num_tokens=budget, per="token", strategy="influence")["row"][:]
    assert 0 < tokens[taken].sum() <= budget
    positive = [row for row in taken if influence[row] > 0]
    best = max([0, *(worth(chosen) for chosen in subsets if tokens[chosen].sum() <= budget)])
    assert worth(positive) >= best - (influence * tokens).max(initial=0) - 1e-9
    if tokens[positive].sum() == budget:
        assert worth(positive) == pytest.approx(best)


def test_quadrants_are_of_what_rows_are_ranked_by():
    scored = pool_of(influence=[3.0, 2.0, 1.0, 0.5], num_trained=[1, 2, 9, 40], difficulty=[1.0, 2.0, 2.0, 1.0])
    _, pool = select_subset(scored, num_rows=2, per="token", return_pool=True)
    # Worth 3, 4, 9 and 20: the median is 6.5, and rows 0 and 3 are easy.
    assert pool["quadrant"][:] == [3, 2, 0, 1] and pool["diq_rank"][:] == [4, 3, 1, 2]
    assert select_subset(scored, num_rows=2)["row"][:] == [1, 0]  # the median influence is 1.5
    assert select_subset(scored, num_tokens=3)["row"][:] == [1, 0]
    assert select_subset(scored, num_tokens=11, per="token")["row"][:] == [1, 0]  # row 2 would go beyond it


def test_every_row_says_what_became_of_it():
    texts = ["Why is it low?", "How much?", "why is  it LOW?", "And then?", "Never", "So?", "Which?"]
    scored = pool_of(
        text=texts,
        influence=[0.9, 0.8, 0.7, 0.6, None, 0.5, 1.0],
        difficulty=[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0],
        mismatch=[0.1, 0.9, 0.1, float("nan"), 0.0, None, 0.0],
    )
    subset, pool = select_subset(scored, num_rows=2, max_difficulty_percentile=90, return_pool=True)
    assert subset["row"][:] == [0, 3] and subset["diq_rank"][:] == [1, 2]
    assert reasons_of(pool) == [
        "selected", "mismatch", "duplicate", "selected", "unscored", "beyond the budget", "too difficult"
    ]  # fmt: skip
    assert pool["diq_duplicate_of"][:] == [None, None, 0, None, None, None, None]
    assert pool["diq_rank"][:] == [1, None, None, 2, None, 3, None]
    assert "diq_reason" not in subset.column_names
    # Chosen again from its own outcome, it is the same.
    again, pool_again = select_subset(pool, num_rows=2, max_difficulty_percentile=90, return_pool=True)
    assert again["row"][:] == [0, 3] and pool_again.features == pool.features
    assert reasons_of(pool_again) == reasons_of(pool)
    nothing_passed_over = select_subset(scored, num_rows=4, max_mismatch=None, max_similarity=None)
    assert nothing_passed_over["row"][:] == [6, 0, 1, 2]
    asked = "5 rows are asked for but only 4 of 7 can be taken; passed over: 1 duplicate, 1 mismatch, 1 unscored"
    with pytest.raises(ValueError, match=asked):
        select_subset(scored, num_rows=5)
    with pytest.raises(ValueError, match="columns \\['diq_reason'\\] of its own"):
        select_subset(scored.add_column("diq_reason", texts), num_rows=1)


def test_what_a_row_says_in_every_format():
    question, answer = (
        "What lowers the sodium of a patient with cirrhosis?",
        "Water that is kept, not salt that is lost.",
    )
    chat = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    formats = {
        "prompt": {"prompt": question, "completion": answer},
        "conversational": {"prompt": chat[:1], "completion": chat[1:]},
        "preference": {"prompt": question, "chosen": answer, "rejected": "No."},
        "messages": {"messages": [{"role": "system", "content": "Be brief."}, *chat]},
        "sharegpt": {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]},
        "text": {"text": f"{question} {answer}"},
        "ids": {"input_ids": list(range(20)), "labels": [-100] * 12 + list(range(12, 20))},
    }
    for name, row in formats.items():
        rows = [row, {key: value.upper() if isinstance(value, str) else value for key, value in row.items()}]
        scored = Dataset.from_list(rows).add_column("difficulty", [1.0, 1.0]).add_column("influence", [1.0, 2.0])
        _, pool = select_subset(scored, num_rows=1, return_pool=True)
        with pytest.raises(ValueError, match="1 duplicate"):
            select_subset(scored, num_rows=2)
        assert reasons_of(pool) == ["beyond the budget", "selected"], name
    own = pool_of(q=["a", "A"], a=["b", "b"], influence=[1.0, 2.0])
    assert len(select_subset(own, num_rows=2)) == 2  # these columns are not known to be texts
    with pytest.raises(ValueError, match="1 duplicate"):
        select_subset(own, num_rows=2, text_columns=["q", "a"])
    with pytest.raises(ValueError, match="none of the columns"):
        select_subset(own, num_rows=1, max_similarity=0.9)
    with pytest.raises(ValueError, match="no text column"):
        select_subset(own, num_rows=1, text_columns=["nothing"])


def test_an_instruction_that_all_share_makes_no_duplicates():
    instruction = "Answer the question below in one sentence, and say where you know it from. " * 5
    answers = [f"{word} is what the guideline of this year recommends first" for word in ("Water", "Salt", "Rest")]
    scored = pool_of(prompt=[instruction] * 3, completion=answers, influence=[3.0, 2.0, 1.0])
    assert select_subset(scored, ratio=1)["row"][:] == [0, 1, 2]
    same = [*answers[:2], f"{answers[0]}, as I said"]
    with pytest.raises(ValueError, match="1 duplicate"):
        select_subset(scored.remove_columns("completion").add_column("completion", same), ratio=1)


def test_near_is_what_the_threshold_says():
    words = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t"]
    near, nearer = [*words[:17], "x", "y", "z"], [*words[:19], "z"]
    texts = [" ".join(text) for text in (near, words, nearer)]
    scored = pool_of(text=texts, influence=[3.0, 2.0, 1.0])  # shares: 14 of 20 runs, and 16 of 18
    _, pool = select_subset(scored, num_rows=2, max_similarity=0.75, return_pool=True)
    assert pool["diq_duplicate_of"][:] == [None, None, None]
    with pytest.raises(ValueError, match="1 duplicate"):
        select_subset(scored, num_rows=3, max_similarity=0.75)


changes = st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abcdefghxyz")), max_size=4)


@given(st.lists(changes, min_size=2, max_size=12), st.lists(st.integers(0, 9), min_size=6, max_size=24), st.data())
@settings(max_examples=50, deadline=None)
def test_copies_are_those_of_a_comparison_of_all(changes, base, data):
    """Greedy, in order of rank, with every text compared with every one taken, words by hand."""
    texts = []
    for changed in changes:
        words = [str(word) for word in base]
        for place, word in changed:
            at = place % len(words)
            words = [*words[:at], word, *words[at + place % 2 :]]  # in place of one, or between two
        texts.append(words)
    threshold = data.draw(st.sampled_from([0.3, 0.5, 0.6, 0.7, 1.0]))
    cut = [data.draw(st.integers(0, len(text))) for text in texts]

    def runs(words):
        return {tuple(words[i : i + 4]) for i in range(max(1, len(words) - 3))}

    def alike(i, j):
        if texts[i] == texts[j]:
            return True
        if threshold == 1:
            return False
        both = []
        for of in (lambda k: runs(texts[k]), lambda k: answer_runs(k)):
            a, b = of(i), of(j)
            both.append(len(a & b) / len(a | b) if a | b else 1)
        return min(both) >= threshold

    def answer_runs(k):
        words = texts[k] + [""] * (4 - len(texts[k]))
        return {tuple(filter(None, words[i : i + 4])) for i in range(len(words) - 3) if i + 4 > cut[k]}

    taken = []
    for i in range(len(texts)):
        if not any(alike(i, j) for j in taken):
            taken.append(i)
    scored = pool_of(
        prompt=[" ".join(text[:at]) for text, at in zip(texts, cut, strict=True)],
        completion=[" ".join(text[at:]) for text, at in zip(texts, cut, strict=True)],
        influence=[1.0] * len(texts),
    )
    found = select_subset(scored, num_rows=len(taken), max_similarity=threshold)["row"][:]
    assert found == taken
    if len(taken) < len(texts):
        with pytest.raises(ValueError, match=f"{len(texts) - len(taken)} duplicate"):
            select_subset(scored, ratio=1, max_similarity=threshold)


def test_shares():
    sources = ["a"] * 6 + ["b"] * 3 + ["c"]
    scored = pool_of(influence=[10.0 - i for i in range(10)], source=sources)

    def taken(**arguments):
        subset, pool = select_subset(scored, return_pool=True, **arguments)
        return subset["row"][:], reasons_of(pool)

    rows, reasons = taken(num_rows=3, balance="source")
    assert rows == [0, 6, 9] and reasons == ["selected"] + ["quota"] * 5 + ["selected"] + ["quota"] * 2 + ["selected"]
    # A small source leaves over what the others share.
    assert taken(num_rows=8, balance="source")[0] == [0, 1, 2, 6, 7, 8, 9, 3]
    assert taken(ratio=1, balance="source")[1] == ["selected"] * 10
    assert taken(num_rows=4, balance={"source": {"c": 0.25, "b": 0.5}})[0] == [0, 6, 7, 9]
    assert taken(num_rows=4, balance={"source": {"b": 0.5}})[0] == [0, 1, 6, 7]
    with pytest.raises(ValueError, match="Short of its share of `balance`: c by 4"):
        taken(num_rows=10, balance={"source": {"c": 0.5, "a": 0.5}})
    for balance, said in (
        ("origin", "names the column 'origin'"),
        ({"source": {"d": 0.5}}, r"names \['d'\]"),
        ({"source": {"a": 0.7, "b": 0.7}}, "add up to 1.4"),
        ({"source": {"a": 0}}, "Shares are in"),
        ("influence", "of double"),
    ):
        with pytest.raises(ValueError, match=said):
            taken(num_rows=2, balance=balance)
    with pytest.raises(TypeError, match="one column"):
        taken(num_rows=2, balance={"a": 0.3, "b": 0.7})
    # Class names are sources as well, and tokens can be shared.
    classes = scored.cast_column("source", ClassLabel(names=["c", "b", "a"])).add_column("num_trained", [10] * 10)
    assert select_subset(classes, num_rows=4, balance={"source": {"c": 0.25, "b": 0.5}})["row"][:] == [0, 6, 7, 9]
    by_tokens = select_subset(classes, num_tokens=65, balance={"source": {"b": 0.35}})
    assert by_tokens["row"][:] == [0, 1, 2, 3, 6, 7]  # of 42 for the others, and 23 for b, so many fit


def test_a_copy_does_not_use_up_a_share():
    scored = pool_of(influence=[5.0, 4.0, 3.0, 2.0], source=list("aaba"), text=["one", "One", "two", "three"])
    assert select_subset(scored, num_rows=3, balance={"source": {"a": 0.67}})["row"][:] == [0, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_tokens": 5, "ratio": 0.5}, "exactly one of"),
        ({"num_tokens": 0}, "at least 1"),
        ({"num_tokens": 4}, "less than the first row alone"),
        ({"num_tokens": 99}, "99 trained tokens are asked for but only 20 in the 2 rows"),
        ({"num_rows": 1, "per": "step"}, "`per` is 'step'"),
        ({"num_rows": 1, "per": "row", "strategy": "loss"}, "does not rank by influence"),
        ({"num_tokens": 9, "per": "row"}, "use `per='token'`"),
        ({"num_rows": 1, "per": "row", "rule": QuadrantRule(1.0, 1.0)}, "pass `difficulty_percentile`"),
        ({"num_rows": 1, "rule": QuadrantRule(1.0, 1.0), "difficulty_percentile": 60}, "a rule has its thresholds"),
        ({"num_rows": 1, "max_mismatch": 0.1}, "needs the column 'mismatch'"),
        ({"num_rows": 1, "max_similarity": 2}, "between 0 and 1"),
        ({"num_rows": 1, "max_difficulty_percentile": 30}, "not too difficult"),
    ],
)
def test_refusals(arguments, said):
    scored = pool_of(influence=[1.0, 2.0], num_trained=[10, 10])
    with pytest.raises(ValueError, match=said):
        select_subset(scored, **arguments)
    with pytest.raises(ValueError, match=r"extra_columns=\['num_trained'\]"):
        select_subset(scored.remove_columns("num_trained"), num_rows=1, per="token")


def test_columns_that_are_numbers():
    columns = {
        "flag": ([True, False, None], [1, 0, np.nan]),
        "whole": ([3, None, -1], [3, np.nan, -1]),
        "half": (
            Dataset.from_dict({"x": [0.5, None, 1.0]}).cast_column("x", Value("float16"))["x"][:],
            [0.5, np.nan, 1],
        ),
        "nothing": ([None, None, None], [np.nan] * 3),
    }
    rows = Dataset.from_dict({name: values for name, (values, _) in columns.items()})
    rows = rows.add_column("decimal", ["1.25", "2.5", "3"]).cast_column("decimal", Value("decimal128(5, 2)"))
    rows = rows.add_column("level", ["10", "2", "10"]).class_encode_column("level")
    expected = {name: values for name, (_, values) in columns.items()}
    expected |= {"decimal": [1.25, 2.5, 3], "level": [10, 2, 10]}
    for given_rows, order in (
        (rows, slice(None)),
        (rows.select([2, 0]), [2, 0]),
        (rows.to_iterable_dataset(), slice(None)),
    ):
        found = score_columns(given_rows, list(expected))
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], np.array(values, dtype=float)[order], err_msg=name)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["4.5", "3"], r"Column 'influence' holds string.*cast_column\('influence'"),
        ([[1.0], [2.0]], "Column 'influence' holds list<"),
        ([{"a": 1.0}, {"a": 2.0}], "Column 'influence' holds struct<"),
        ([2**60 + 1, 1], "Column 'influence' holds whole numbers that are too large"),
    ],
)
def test_columns_that_are_none(values, said):
    scored = pool_of(influence=values)
    for use in (
        lambda: select_subset(scored, num_rows=1),
        lambda: QuadrantRule.fit(scored),
        lambda: QuadrantRule.fit(scored.to_iterable_dataset()),
        lambda: QuadrantRule(1.0, 1.0)({"difficulty": scored["difficulty"][:], "influence": values}),
    ):
        with pytest.raises(ValueError, match=said):
            use()


def test_classes_in_the_order_of_their_names():
    levels = ["easy", "hard", "medium"]
    scored = pool_of(influence=[1.0] * 3).remove_columns("difficulty").add_column("difficulty", levels)
    scored = scored.class_encode_column("difficulty")
    with pytest.raises(ValueError, match="'difficulty' is a ClassLabel of \\['easy', 'hard', 'medium'\\]"):
        select_subset(scored, num_rows=1)
    scored = pool_of(influence=[1.0] * 3).remove_columns("difficulty").add_column("difficulty", ["10", "9", "2"])
    scored = scored.class_encode_column("difficulty")  # ids 0, 2, 1
    rule = QuadrantRule.fit(scored)
    assert rule.difficulty_threshold == 9
    assert scored.filter(rule)["row"][:] == [0, 1] and scored.filter(rule, batched=True)["row"][:] == [0, 1]
    assert select_subset(scored, num_rows=3)["row"][:] == [0, 1, 2]


def test_a_bound_on_the_difficulty():
    scored = pool_of(influence=[1.0] * 11, difficulty=[float(i) for i in range(11)])
    rule = QuadrantRule.fit(scored, max_difficulty_percentile=80)
    assert rule.max_difficulty_threshold == 8
    assert scored.filter(rule)["row"][:] == [5, 6, 7, 8]
    annotated = rule.annotate(scored)
    assert annotated["quadrant"][:][9:] == [0, 0] and annotated["diq_rank"][:][8:] == [1, None, None]
    assert select_subset(scored, num_rows=4, rule=rule)["row"][:] == [8, 7, 6, 5]
    assert select_subset(scored, num_rows=4, max_difficulty_percentile=80)["row"][:] == [8, 7, 6, 5]


def test_a_column_of_ones_own_ranks():
    scored = pool_of(influence=[1.0, 2.0, 3.0, 4.0], pass_rate=[0.5, 0.1, float("nan"), 0.9])
    assert select_subset(scored, num_rows=3, strategy="column:pass_rate")["row"][:] == [3, 0, 1]
    with pytest.raises(ValueError, match="'passrate'"):
        select_subset(scored, num_rows=3, strategy="column:passrate")
    with pytest.raises(ValueError, match="column:NAME"):
        select_subset(scored, num_rows=3, strategy="pass_rate")
