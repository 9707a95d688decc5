"""Rows drawn from a quadrant and scored as they are drawn, against what a whole scoring would have drawn."""

import numpy as np
import pytest
from conftest import SENTENCES, chat, make_model
from datasets import Dataset

from diq_hf import DIQScorer, select_subset
from diq_hf.scoring.drawing import Draw


SIZE, BUDGET = 2000, 30
RNG = np.random.default_rng(0)
INFLUENCE, DIFFICULTY, MISMATCH = RNG.normal(size=SIZE), RNG.normal(size=SIZE), RNG.uniform(size=SIZE)


def draw(seed, known, budget=BUDGET, costs=None, allowance=SIZE, influence=INFLUENCE):
    """Thresholds and audit, how often it asked for a row, and the share of the exact choice in what it comes to."""
    order, asked = np.random.default_rng(seed).permutation(SIZE), []
    costs = np.ones(SIZE) if costs is None else costs

    def score(rows):
        asked.extend(rows.tolist())
        columns = {"influence": influence[rows], "mismatch": MISMATCH[rows]}
        return columns if known else columns | {"difficulty": DIFFICULTY[rows]}

    look = Draw(order, score, budget, costs, allowance, DIFFICULTY if known else None, max_mismatch=0.5)
    thresholds, audit = look()
    assert len(asked) == len(set(asked)) == audit.num_scored <= allowance

    def choice(thresholds):
        good = (thresholds[0] <= DIFFICULTY) & (influence >= thresholds[1]) & (MISMATCH <= 0.5)
        rows = order[good[order]]
        return rows[np.cumsum(costs[rows]) <= budget]

    exact, found = choice((np.median(DIFFICULTY), np.median(influence))), choice(thresholds)
    assert set(found) <= set(asked)  # whatever is chosen has its scores
    return thresholds, audit, np.isin(exact, found).mean()


@pytest.mark.parametrize("known", [True, False])
def test_the_audit_tells_the_truth(known):
    covered, shares = [], []
    for seed in range(100):
        _, audit, share = draw(seed, known)
        covered.append(audit.low <= share <= audit.high)
        shares.append(share)
        assert audit.num_scored < 0.3 * SIZE
    assert np.mean(covered) >= 0.93
    assert np.mean(shares) > 0.88


def test_a_budget_in_tokens():
    costs = RNG.integers(5, 60, size=SIZE).astype(float)
    thresholds, audit, share = draw(0, False, budget=900, costs=costs)
    assert share > 0.7 and audit.num_scored < 0.25 * SIZE
    assert thresholds[0] == pytest.approx(np.median(DIFFICULTY), abs=0.2)


def test_what_cannot_be_met_is_refused():
    with pytest.raises(ValueError, match=r"of 200\. Raise `max_scored`"):
        draw(0, False, budget=200, allowance=300)
    with pytest.raises(ValueError, match="No row could be scored"):
        draw(0, False, influence=np.full(SIZE, np.nan))


def test_all_rows_are_the_exact_choice():
    thresholds, audit, share = draw(0, False, budget=SIZE)
    assert share == 1 and (audit.found, audit.low, audit.high) == (1, 1, 1)
    assert thresholds == (np.median(DIFFICULTY), np.median(INFLUENCE))


def test_with_a_model(tokenizer, tmp_path):
    """What `select` draws is what `select_subset` draws of the pool that it left."""
    rng, words = np.random.default_rng(0), " ".join(SENTENCES).split()
    rows = [chat(" ".join(rng.choice(words, 4)), " ".join(rng.choice(words, rng.integers(2, 9)))) for _ in range(500)]
    dataset = Dataset.from_list(rows)
    scorer = DIQScorer(make_model(), rows[:4], tokenizer, difficulty="loss")
    options = {"num_rows": 12, "order": "random", "seed": 3}
    subset, audit, pool = scorer.select(dataset, **options, return_pool=True, cache_dir=tmp_path)
    assert 256 <= audit.num_scored < 400 and len(subset) == 12
    known = np.isfinite(np.array(pool["influence"][:], dtype=float))
    assert known.sum() == audit.num_scored
    whole = scorer.score(dataset, cache_dir=tmp_path)
    exact = select_subset(whole, **options)
    both = set(map(str, exact["prompt"][:])) & set(map(str, subset["prompt"][:]))
    assert len(both) >= 8 and audit.low <= len(both) / 12 <= audit.high
    assert {subset.features["quadrant"].int2str(code) for code in subset["quadrant"][:]} == {"Q1"}
    with pytest.raises(ValueError, match="gives each source a share"):
        scorer.select(dataset.add_column("source", ["a"] * 500), **options, balance="source", cache_dir=tmp_path)


def test_a_known_difficulty_promises_no_more_than_the_hard_rows_hold():
    """The rest of the budget would be easier rows, which are not looked at: said, instead of filled up with a few."""
    with pytest.raises(ValueError, match=r"All difficult rows were scored.*Lower the budget, or score the whole pool"):
        draw(0, known=True, budget=400)
