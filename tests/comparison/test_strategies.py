"""Who is taken, as it is asked for."""

import numpy as np
import pytest
from datasets import Dataset

from diq_hf import select_subset
from diq_hf.comparison.costs import pass_works, selecting
from diq_hf.comparison.results import Work
from diq_hf.comparison.strategies import STRATEGIES, Strategy


def scored(size=200):
    rng = np.random.default_rng(0)
    return Dataset.from_dict(
        {
            "row": list(range(size)),
            "difficulty": rng.normal(size=size),
            "influence": rng.normal(size=size),
            "mismatch": rng.uniform(size=size),
            "num_trained": rng.integers(3, 30, size=size),
            "less": rng.normal(size=size),
            "pass_rate": rng.uniform(size=size),
        }
    )


def test_options_are_those_of_select_subset():
    pool = scored()
    for text, arguments in {
        "diq": {},
        "diq-paper": {"max_mismatch": None, "order": "influence"},
        "diq:per=token,max_mismatch=0.5": {"per": "token", "max_mismatch": 0.5},
        "influence:max_mismatch=0.2": {"strategy": "influence", "max_mismatch": 0.2},
        "diq:order=influence": {"order": "influence"},
        "diq:max_difficulty_percentile=80": {"max_difficulty_percentile": 80},
        "length": {"strategy": "column:num_trained", "max_mismatch": None},
        "column:pass_rate": {"strategy": "column:pass_rate", "max_mismatch": None},
        "column:pass_rate:max_mismatch=auto": {"strategy": "column:pass_rate"},
        "less:max_mismatch=none": {"strategy": "column:less", "max_mismatch": None},
    }.items():
        expected = select_subset(pool, num_tokens=150, **arguments)["row"][:]
        assert Strategy.parse(text).take(pool, num_tokens=150).tolist() == expected, text


def test_random_draws_anew_for_each_seed():
    pool, drawn = scored(), Strategy.parse("random")
    first, again, other = (drawn.take(pool, seed, num_tokens=150).tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert select_subset(pool, num_tokens=150, strategy="random", seed=1, max_mismatch=None)["row"][:] == other


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dic", "no strategy 'dic'"),
        ("diq:ratio=0.1", "'ratio=0.1'; options are"),
        ("diq:per", "'per'; options are"),
        ("diq:per=token,per=row", "'per' twice"),
        ("full:per=token", "no options"),
    ],
)
def test_what_cannot_be_read_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Strategy.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("column:nothing", "'column:nothing'.*no column 'nothing'"),
        ("random:per=token", "'random:per=token'.*does not rank by influence"),
        ("diq:max_mismatch=1.5", "share between 0 and 1"),
    ],
)
def test_what_does_not_fit_the_pool_names_the_strategy(text, message):
    with pytest.raises(ValueError, match=message):
        Strategy.parse(text).take(scored(), num_tokens=150)


def test_a_pass_is_paid_once():
    works = pass_works(tokens=1000, answers=600, validation=100, null=50) | {"rds": Work(forward=1100)}

    def paid(text, **kwargs):
        work = selecting(Strategy.parse(text).passes(), works, **kwargs)
        return work.forward, work.backward

    assert paid("random") == paid("length") == paid("full") == (0, 0)
    assert paid("influence") == (1100, 1100)  # the validation rows', and the pool's
    assert paid("loss") == (1000, 0)
    assert paid("difficulty") == (1600, 0)
    assert paid("diq-paper") == (1700, 1100)  # the losses are the scores' own
    assert paid("diq") == (1750, 1100)
    assert paid("random:max_mismatch=0.2") == (1650, 0)
    assert paid("rds") == (1100, 0)
    assert paid("diq-paper", free=["difficulty"]) == (1100, 1100)
    assert set(STRATEGIES) >= {
        "diq",
        "random",
        "influence",
        "difficulty",
        "loss",
        "length",
        "less",
        "rds",
        "bm25",
        "full",
    }


def test_diq_is_one_rule_whatever_the_pool_has():
    pool = scored()
    aligned = pool.add_column("alignment", np.random.default_rng(1).normal(size=(len(pool), 3)).tolist())
    take = lambda text, rows: Strategy.parse(text).take(rows, num_tokens=150).tolist()  # noqa: E731
    assert take("diq", aligned) == take("diq", pool) == take("diq:order=random", pool)
    assert take("diq:order=alignment", aligned) != take("diq", aligned)
    assert Strategy.parse("diq:order=alignment").passes() == ("influence", "difficulty", "alignment", "mismatch")
    assert "order" not in Strategy.parse("diq:per=row").arguments
    with pytest.raises(ValueError, match="without `alignment`"):
        Strategy.parse("diq-online:order=alignment")
