"""A subset without scoring every row: against the exact selection, and an audit that tells the truth."""

import numpy as np
import pytest
from conftest import SENTENCES, chat, make_model
from datasets import Dataset

from diq_hf import DIQScorer, QuadrantRule, select_subset
from diq_hf.scoring.audit import Audit
from diq_hf.scoring.features import text_features
from diq_hf.scoring.landmarks import Search


WORDS = [f"word{i}" for i in range(16)]


def make_pool(size=600, seed=0):
    """Rows whose worth is in words and length, with noise, and whose difficulty is in what the answer repeats."""
    draw = np.random.default_rng(seed)
    weights = draw.normal(size=len(WORDS))
    prompts, answers, influence, difficulty = [], [], [], []
    for _ in range(size):
        prompt, answer = draw.choice(len(WORDS), 4), draw.choice(len(WORDS), draw.integers(4, 30))
        prompts.append(" ".join(WORDS[i] for i in prompt))
        answers.append(" ".join(WORDS[i] for i in answer))
        influence.append(3 * weights[answer].mean() + 10 / len(answer) + 0.4 * draw.normal())
        difficulty.append(-np.isin(answer, prompt).mean() + 0.05 * draw.normal())
    lengths = np.array([len(answer.split()) for answer in answers], dtype=float)
    features = text_features(prompts, answers, lengths + 4, lengths)
    return features, np.array(influence), np.array(difficulty)


@pytest.fixture(scope="module")
def pool():
    return make_pool()


def search(pool, seed, known, budget=30, allowance=240):
    """What a search finds, how often it asked for a row, and the share of the exact selection in its choice."""
    features, influence, difficulty = pool
    asked = []

    def score(rows):
        asked.extend(rows.tolist())
        return {"influence": influence[rows]} | ({} if known else {"difficulty": difficulty[rows]})

    look = Search(features, score, budget, allowance, difficulty if known else None, seed=seed)
    rows, columns, thresholds, audit = look()
    assert sorted(asked) == rows.tolist()  # no row twice
    assert len(asked) == audit.num_scored <= allowance
    fits = rows[columns["difficulty"] >= thresholds.difficulty]
    chosen = fits[np.argsort(-influence[fits])[:budget]]
    hard = np.flatnonzero(difficulty >= np.median(difficulty))
    exact = hard[np.argsort(-influence[hard])[:budget]]
    return audit, np.isin(exact, chosen).mean(), rows


def test_finds_the_exact_selection_where_the_difficulty_is_known(pool):
    found = [search(pool, seed, known=True, allowance=210)[1] for seed in range(5)]
    assert np.mean(found) > 0.95
    by_chance = 210 / 300
    assert min(found) > by_chance


def test_finds_most_of_it_where_it_is_not(pool):
    audit, found, _ = search(pool, 0, known=False, allowance=300)
    assert found > 0.7
    assert audit.low <= found <= audit.high


def test_rows_that_seem_easy_are_looked_at_too(pool):
    """Influential rows that are hard against all appearance, and the threshold in spite of them."""
    features, influence, _ = pool
    noise = np.random.default_rng(2).normal(size=len(influence))
    difficulty = noise - (influence - influence.mean()) / influence.std()
    found, errors = [], []
    for seed in range(8):
        score = lambda rows: {"influence": influence[rows], "difficulty": difficulty[rows]}  # noqa: E731
        _, _, thresholds, audit = Search(features, score, 20, 300, seed=seed)()
        share = search((features, influence, difficulty), seed, known=False, budget=20, allowance=300)[1]
        found.append(share)
        errors.append((difficulty < thresholds.difficulty).mean() - 0.5)
        assert audit.low <= share <= audit.high
    assert np.mean(found) > 0.9
    assert np.abs(errors).mean() < 0.04


def test_the_audit_covers_the_truth(pool):
    outcomes = [search(pool, seed, known=True, budget=60, allowance=210) for seed in range(16)]
    covered = [audit.low <= found <= audit.high for audit, found, _ in outcomes]
    assert np.mean(covered) >= 0.93
    assert np.mean([found for _, found, _ in outcomes]) < 0.99  # there was something to miss


def test_same_seed_same_rows(pool):
    first, again, other = (search(pool, seed, known=True)[2].tolist() for seed in (3, 3, 4))
    assert first == again != other


def test_too_few_to_learn_from(pool):
    for known in (True, False):
        with pytest.raises(
            ValueError, match=r"71 rows may be scored, and to learn and to choose takes 72. Raise `max_scored`"
        ):
            search(pool, 0, known=known, allowance=71)
        assert search(pool, 0, known=known, budget=10, allowance=72)[1] > 0


def test_audit_says_what_it_cost():
    audit = Audit(0.96, 0.8, 1.0, 1000, 200, 20, 0)
    assert audit.cost == 0.2
    assert "200 of 1000 rows scored (20%); about 96% of the exact selection found" in str(audit)


ROWS = [
    chat(f"{SENTENCES[i % 4][: 9 + i % 23]} {i % 300}", SENTENCES[(3 * i + i // 7) % 4][i % 7 : 12 + i % 41])
    | {"level": float(i % 300 * 7 % 11)}
    for i in range(330)
]


def test_scorer_selects(tokenizer, validation, tmp_path):
    dataset = Dataset.from_list(ROWS)  # the last 30 prompts are there before
    make = lambda: DIQScorer(make_model(), validation, tokenizer, difficulty="column:level")  # noqa: E731
    scorer = make()
    subset, audit = scorer.select(dataset, num_rows=10, max_scored=0.7, cache_dir=tmp_path)
    assert len(subset) == 10
    assert subset["diq_rank"][:] == list(range(1, 11))
    assert audit.num_scored <= 0.7 * 330
    assert audit == scorer.audit
    facts = scorer.recipe().audit
    assert (facts.found, facts.low, facts.scored, facts.pool) == (audit.found, audit.low, audit.num_scored, 330)
    scored = make().score(dataset, cache_dir=tmp_path)
    exact = {row["prompt"][0]["content"]: row for row in scored}
    for row in subset:  # exact scores, whatever the predictor thought
        assert row["influence"] == pytest.approx(exact[row["prompt"][0]["content"]]["influence"], rel=1e-3)
    best = select_subset(scored, num_rows=10, rule=QuadrantRule.fit(scored), order="influence")
    shared = {row["prompt"][0]["content"] for row in best} & {row["prompt"][0]["content"] for row in subset}
    assert audit.low <= len(shared) / 10 <= audit.high

    again = make()
    again.engine.score = None  # all of it is on disk
    resumed, same = again.select(dataset, num_rows=10, max_scored=0.7, cache_dir=tmp_path)
    assert resumed["prompt"][:] == subset["prompt"][:]
    assert same == audit


def test_all_rows_may_be_scored(tokenizer, validation, tmp_path):
    """Then the choice is the exact one, and bad rows are left out by name or at all."""
    dataset = Dataset.from_list(ROWS[:60])
    scorer = DIQScorer(make_model(), validation, tokenizer, difficulty="column:level")
    subset, audit = scorer.select(dataset, num_rows=6, max_scored=1.0, cache_dir=tmp_path)
    exact = select_subset(scorer.score(dataset, cache_dir=tmp_path), num_rows=6, order="influence")
    assert subset["prompt"][:] == exact["prompt"][:] and (audit.low, audit.found, audit.num_scored) == (1, 1, 60)
    bad = Dataset.from_list(
        [row | {"level": "easy" if i == 7 else str(row["level"])} for i, row in enumerate(ROWS[:60])]
    )
    with pytest.raises(ValueError, match=r"Row 7: .*'easy', not a number"):
        scorer.select(bad, num_rows=6, max_scored=1.0)
    skipping = DIQScorer(make_model(), validation, tokenizer, difficulty="column:level", on_bad_row="skip")
    assert len(skipping.select(bad, num_rows=6, max_scored=1.0, cache_dir=tmp_path)[0]) == 6


def budget_by_hand(rows, order, options):
    """The first of the rows in their order, until rows or tokens are spent, or the rows of each source."""
    kept, left, tokens = [], dict.fromkeys("ab", options.get("num_rows", 0) // 2), 0
    for i in order:
        tokens += rows[i]["num_trained"]
        if "balance" in options and not left[rows[i]["source"]]:
            continue
        if tokens > options.get("num_tokens", np.inf) or len(kept) == options.get("num_rows"):
            break
        left[rows[i]["source"]] -= 1
        kept.append(i)
    return kept


@pytest.fixture(scope="module")
def shares(tokenizer, validation, tmp_path_factory):
    """Rows of two sources, all of them scored, and their chunks."""
    dataset = Dataset.from_list([row | {"source": "ab"[i % 3 % 2]} for i, row in enumerate(ROWS[:100])])
    scorer = DIQScorer(make_model(), validation, tokenizer, difficulty="loss", extra_columns=["num_trained"])
    cache = tmp_path_factory.mktemp("chunks")
    return dataset, scorer.score(dataset, cache_dir=cache), cache


@pytest.mark.parametrize(
    ("options", "max_scored"),
    [
        ({"num_rows": 8, "per": "token"}, 0.75),
        ({"num_rows": 8, "per": "row"}, 0.75),
        ({"num_tokens": 150}, 0.75),
        ({"num_tokens": 150, "per": "token"}, None),
        ({"num_rows": 8, "balance": "source"}, 0.75),
        ({"num_rows": 8, "balance": "source"}, 1),
    ],
)
def test_budgets_and_shares(tokenizer, validation, shares, options, max_scored):
    """As `select_subset` means them, of the rows that were scored; by hand, and against the exact choice."""
    dataset, everything, cache = shares
    scorer = DIQScorer(make_model(), validation, tokenizer, difficulty="loss")
    given = {"max_scored": max_scored, "return_pool": True, "cache_dir": cache, "max_similarity": None}
    given["order"] = "influence"
    subset, audit, pool = scorer.select(dataset, **options, **given)
    facts = scorer.recipe().selection
    allowed = {0.75: 75, None: 72, 1: 100}[max_scored]
    assert (facts.thresholds is None) == (max_scored == 1)
    everything = everything.to_list()
    influence, n, difficulty = (
        np.array([row[name] for row in everything]) for name in ("influence", "num_trained", "difficulty")
    )
    known = np.isfinite(np.array(pool["influence"][:], dtype=float))
    assert known.sum() == audit.num_scored <= allowed
    by_hand = []
    for some, bound in ((known, facts.difficulty_threshold), (np.ones(100, bool), np.median(difficulty))):
        worth, hard = influence, np.flatnonzero(some & (difficulty >= bound))
        if options.get("per") == "token" and "num_rows" in options:
            worth = influence * n
        for _ in range(20 if options.get("per") == "row" else 0):
            best = hard[np.argsort(-worth[hard])[:8]]
            worth = n * (influence - (influence[best] * n[best]).sum() / n[best].sum())
        by_hand.append(budget_by_hand(everything, hard[np.argsort(-worth[hard])].tolist(), options))
    index = {row["prompt"][0]["content"]: i for i, row in enumerate(dataset)}
    found = [index[row["prompt"][0]["content"]] for row in subset]
    assert found == by_hand[0] and facts.subset.rows == len(found) > 2
    share = np.isin(by_hand[1], found).mean()
    assert audit.low - 1e-9 <= share <= audit.high + 1e-9


def test_small_pools_are_scored_in_a_larger_share(tokenizer, validation, tmp_path, caplog):
    dataset = Dataset.from_list(ROWS[:300])
    scorer = DIQScorer(make_model(), validation, tokenizer, difficulty="column:level")
    for size, scored, said in ((150, 72, "Up to 72 of the 150 rows"), (40, 40, "All of the 40 rows")):
        caplog.clear()
        _, audit = scorer.select(dataset.select(range(size)), num_rows=4, cache_dir=tmp_path, order="influence")
        assert audit.num_scored <= scored
        assert len([record for record in caplog.records if said in record.message]) == 1
    with pytest.raises(ValueError, match=r"60 rows may be scored, .* Raise `max_scored`, or leave it out"):
        scorer.select(dataset, num_rows=4, max_scored=0.2, cache_dir=tmp_path)


def test_shares_of_sources_are_searched_for(pool):
    """Each source has a bar of its own, so the rare source's best are found, too."""
    features, influence, difficulty = pool
    sources = (np.arange(600) % 5 == 0).astype(int)
    influence = influence - 3 * sources  # the rare source's rows are all worse
    hard = np.flatnonzero(difficulty >= np.median(difficulty))

    def fill(order):
        return np.concatenate([order[sources[order] == source][:15] for source in (0, 1)])

    score = lambda rows: {"influence": influence[rows]}  # noqa: E731
    rows, _, _, audit = Search(features, score, 30, 210, difficulty, fill=fill, sources=sources, seed=0)()
    exact = fill(hard[np.argsort(-influence[hard])])
    found = np.isin(exact, rows)
    assert found.mean() > 0.9 and found[sources[exact] == 1].mean() > 0.9
    assert audit.low <= found.mean() <= audit.high


def test_what_cannot_be_done_is_refused(tokenizer, validation, tmp_path):
    """By what to change; all but the third before a row is scored."""
    make = lambda **more: DIQScorer(make_model(), validation, tokenizer, difficulty="column:level", **more)  # noqa: E731
    pool, scorer = Dataset.from_list(ROWS), make()
    scorer.engine.score = None
    with pytest.raises(ValueError, match=r"200 rows are asked for, and 148 may be scored. Raise `max_scored`"):
        scorer.select(pool, num_rows=200, max_scored=0.45)
    with pytest.raises(ValueError, match="`max_mismatch` needs the column 'mismatch'"):
        scorer.select(pool, num_rows=10, max_mismatch=0.1)
    with pytest.raises(
        ValueError, match=r"200 rows are asked for, and at most about \d+ of 330 are both difficult and"
    ):
        make().select(pool, num_rows=200, max_scored=0.7, cache_dir=tmp_path)
    with pytest.raises(ValueError, match="a share between 0 and 1"):
        make(extra_columns=["mismatch"]).select(pool, num_rows=10, max_mismatch=5)
    bad = Dataset.from_list([chat("Why?", " ") | {"level": 1.0}] * 9)
    with pytest.raises(ValueError, match="No row of the dataset can be scored"):
        make(on_bad_row="skip").select(bad, num_rows=1)


def test_refused(tokenizer, validation):
    scorer = DIQScorer(make_model(), validation, tokenizer, difficulty=None)
    with pytest.raises(ValueError, match=r"`difficulty=None`\. Name one"):
        scorer.select(Dataset.from_list(ROWS), ratio=0.05)
    with pytest.raises(TypeError, match="pass one split"):
        scorer.select(Dataset.from_list(ROWS).to_iterable_dataset(), ratio=0.05)
