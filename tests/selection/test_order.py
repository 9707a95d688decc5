"""Who comes first inside a quadrant: a draw, the validation rows in turn, the larger influence; and the default."""

import numpy as np
import pytest
from datasets import Dataset

from diq_hf import QuadrantRule, select_subset
from diq_hf.selection.proof import derive_selection, differences, scores_alone
from diq_hf.selection.settings import settings_for


def pool_of(**columns):
    size = len(next(iter(columns.values())))
    return Dataset.from_dict({"row": list(range(size)), "difficulty": [1.0] * size} | columns)


def aligned_pool(size=60, turns=5, seed=0):
    rng = np.random.default_rng(seed)
    columns = {"difficulty": rng.normal(size=size), "influence": rng.normal(size=size)}
    return pool_of(**columns, alignment=rng.normal(size=(size, turns)).astype(np.float32).tolist())


def by_hand(scored):
    """The validation rows name, turn after turn, their next best of all rows; quadrant by quadrant the rows named."""
    difficulty, influence, alignment = (np.array(scored[name][:]) for name in ("difficulty", "influence", "alignment"))
    hard, good = difficulty >= np.median(difficulty), influence >= np.median(influence)
    named = []
    for turn in zip(*(np.argsort(-line, kind="stable") for line in alignment.T), strict=True):
        named += [int(row) for row in dict.fromkeys(turn) if row not in named]
    chosen = []
    for of_quadrant in (hard & good, ~hard & good, hard & ~good, ~hard & ~good):
        chosen += [row for row in named if of_quadrant[row]]
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_validation_rows_take_turns_inside_quadrants(seed):
    scored = aligned_pool(seed=seed)
    subset = select_subset(scored, ratio=1, order="alignment")
    assert subset["row"][:] == by_hand(scored)
    assert subset["diq_rank"][:] == list(range(1, 61))


def test_a_row_whose_alignment_is_not_known_comes_last_in_its_quadrant():
    scored = pool_of(influence=[1.0] * 3, alignment=[None, [0.1, 0.2], [0.3, 0.1]])
    assert select_subset(scored, num_rows=3, order="alignment")["row"][:] == [2, 1, 0]


def test_what_is_no_alignment():
    for column, said in (
        ([0.1, 0.2, 0.3], "not lists of numbers"),
        (["up", "down", "up"], "not lists of numbers"),
        ([{"a": 1}] * 3, "not lists of numbers"),
        ([["a"], ["b"], ["c"]], "not lists of numbers"),
        ([[0.1], [0.2, 0.3], [0.4]], "several lengths"),
        ([[], [], []], "lists of numbers|no numbers"),
    ):
        scored = pool_of(influence=[1.0, 2.0, 3.0], alignment=column)
        with pytest.raises(ValueError, match=said):
            select_subset(scored, num_rows=1, order="alignment")
        if "several" not in said:  # a column of one's own that has the name: no matter of the default's
            assert len(select_subset(scored, num_rows=1)) == 1
    with pytest.raises(ValueError, match=r"extra_columns=\['alignment'\]"):
        select_subset(pool_of(influence=[1.0, 2.0, 3.0]), num_rows=1, order="alignment")


def test_the_default():
    """By alignment where it is there, else drawn, and the paper's where something else says who is first."""
    scored = aligned_pool().add_column("num_trained", [3] * 60)
    bare = scored.remove_columns("alignment")

    def taken(rows, **arguments):
        return select_subset(rows, num_rows=15, **arguments)["row"][:]

    assert taken(scored) == taken(scored, order="alignment") != taken(bare)
    assert taken(bare) == taken(bare, order="random") != taken(bare, order="influence")
    assert taken(bare, seed=1) == taken(bare, order="random", seed=1) != taken(bare)
    assert taken(bare, per="row") == taken(bare, per="row", order="influence")
    assert taken(scored, strategy="influence") == taken(bare, strategy="influence")


def test_derived_again_from_published_scores(tmp_path):
    scored = aligned_pool()
    annotated, subset, facts = derive_selection(scored, settings_for(scored, ratio=0.2))
    assert facts.order == "alignment"
    scores_alone(annotated, facts).to_parquet(tmp_path / "scores.parquet")
    published = Dataset.from_parquet(str(tmp_path / "scores.parquet"), cache_dir=str(tmp_path)).remove_columns("row")
    assert differences(facts, published, subset) == []
    values = published["alignment"][:]
    values[subset["row"][0]] = [-1.0] * 5
    assert differences(facts, published.remove_columns("alignment").add_column("alignment", values), subset)


def test_rows_of_a_quadrant_can_be_drawn():
    rng = np.random.default_rng(0)
    scored = pool_of(difficulty=rng.normal(size=400), influence=rng.normal(size=400), num_trained=[5] * 400)
    rule = QuadrantRule.fit(scored)
    hard_and_influential = set(np.flatnonzero(rule.codes(scored["difficulty"][:], scored["influence"][:]) == 0))
    taken = [select_subset(scored, num_rows=40, order="random", seed=seed) for seed in range(200)]
    assert all(set(subset["row"][:]) <= hard_and_influential for subset in taken)
    assert taken[0]["row"][:] == select_subset(scored, num_rows=40, order="random")["row"][:] != taken[1]["row"][:]
    assert taken[0]["diq_rank"][:] == list(range(1, 41))
    # Each of them is as likely as another: 40 of about 100 rows, 200 times.
    counts = np.bincount(np.concatenate([subset["row"][:] for subset in taken]), minlength=400)
    share = 40 / len(hard_and_influential)
    spread = (counts[list(hard_and_influential)] - 200 * share) / np.sqrt(200 * share * (1 - share))
    assert abs(spread).max() < 4.5 and spread.std() == pytest.approx(1, abs=0.25)
    # Once the quadrant is used up the next one is drawn from.
    more = select_subset(scored, num_rows=len(hard_and_influential) + 10, order="random")
    assert set(more["row"][:]) > hard_and_influential
    assert {more.features["quadrant"].int2str(code) for code in more["quadrant"][-10:]} == {"Q2"}


@pytest.mark.parametrize("other", [{"strategy": "influence"}, {"per": "row"}])
def test_a_draw_goes_with_quadrants_alone(other):
    scored = pool_of(influence=[1.0, 2.0, 3.0], num_trained=[1, 2, 3])
    with pytest.raises(ValueError, match="inside the quadrants"):
        select_subset(scored, num_rows=1, order="random", **other)
    with pytest.raises(ValueError, match="choose from"):
        select_subset(scored, num_rows=1, order="length")
