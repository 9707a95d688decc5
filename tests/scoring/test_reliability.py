"""Split-half reliability: against influences by each half's own gradient, one row at a time."""

import logging

import numpy as np
import pytest
from conftest import SENTENCES, chat, make_model
from datasets import Dataset
from oracle import attention_weights, oracle
from scipy.stats import spearmanr

from diq_hf import DIQScorer
from diq_hf.engine.influence import InfluenceEngine
from diq_hf.rows.formats import RowEncoder
from diq_hf.scoring.reliability import Reliability, _ranks, half_counts, reliability, report, split_half


POOL = [chat(f"{SENTENCES[i % 4][: 9 + i % 23]} {i}", SENTENCES[(3 * i + 1) % 4][i % 7 : 20 + i]) for i in range(16)]
VALIDATION = {
    "a": [chat(SENTENCES[2], SENTENCES[3]), chat(SENTENCES[0][:40], SENTENCES[1]), chat("Why?", SENTENCES[0])],
    "b": [chat(SENTENCES[3], SENTENCES[i]) for i in range(3)] + [chat("How?", SENTENCES[i]) for i in range(2)],
}


@pytest.mark.parametrize("validation", [VALIDATION["b"], VALIDATION], ids=["one group", "groups"])
def test_against_each_halfs_own_gradient(validation, tokenizer, tmp_path, monkeypatch):
    differentiated, real = [], InfluenceEngine.validation_gradient

    def counted(engine, rows, *rest):
        differentiated.extend(rows)
        return real(engine, rows, *rest)

    monkeypatch.setattr(InfluenceEngine, "validation_gradient", counted)
    scorer = DIQScorer(make_model(), validation, tokenizer, difficulty=None)
    scored = scorer.score(Dataset.from_list(POOL), chunk_size=7, cache_dir=tmp_path)
    groups = validation if isinstance(validation, dict) else {None: validation}
    assert len(differentiated) == sum(map(len, groups.values()))  # the halves cost no second pass

    encode, model = RowEncoder(tokenizer), make_model()
    rows = [encode(row) for row in POOL]
    influences = []
    for half in range(2):
        chosen = [groups[name][i] for name in groups for i in split_half(len(groups[name]))[half]]
        influences.append(oracle(model, attention_weights(model), rows, [encode(row) for row in chosen])[0])
    every = [encode(row) for group in groups.values() for row in group]
    assert np.allclose(scored["influence"][:], oracle(model, attention_weights(model), rows, every)[0], rtol=1e-3)
    assert scorer.reliability.split_half == pytest.approx(spearmanr(*influences).statistic, abs=1e-6)
    assert (scorer.reliability.num_validation, scorer.reliability.num_rows) == (len(every), len(POOL))
    facts = scorer.recipe().reliability
    assert (facts.split_half, facts.validation) == (scorer.reliability.split_half, len(every))
    assert "half_difference" not in scored.column_names

    again = DIQScorer(make_model(), validation, tokenizer, difficulty=None)
    again.engine.validation_gradient = again.engine.score = None  # all of it is on disk
    again.score(Dataset.from_list(POOL), chunk_size=7, cache_dir=tmp_path)
    assert again.reliability == scorer.reliability


def test_halves():
    assert split_half(20) == split_half(20) != split_half(20, seed=1)
    for size in (1, 2, 7, 20):
        first, second = split_half(size)
        assert sorted([*first, *second]) == list(range(size))
        assert (len(first), len(second)) == half_counts([size])
    assert half_counts([20, 5, 5, 1]) == (17, 14)


def test_spearman_brown():
    sure = Reliability(0.5, 60, 1000)
    assert sure.whole == pytest.approx(2 / 3)
    # Nine times a half of 30 rows: 9 * 0.5 / (1 + 8 * 0.5) = 0.9.
    assert sure.rows_wanted == 270
    assert "0.9 would take about 210 more" in str(sure)
    assert Reliability(0.95, 60, 1000).rows_wanted == 60
    assert Reliability(-0.1, 60, 1000).rows_wanted is None


def test_formula_on_rows_whose_reliability_is_known():
    draw = np.random.default_rng(0)
    truth, noise = draw.normal(size=20_000), draw.normal(size=(360, 20_000))
    by_rows = truth + 6 * noise  # one validation row's influences: r = 1 / 37

    def at(n):
        first, second = by_rows[: n // 2].mean(0), by_rows[n // 2 : n].mean(0)
        return reliability((first + second) / 2, first - second, (n // 2, n // 2))

    assert at(60).split_half == pytest.approx(30 / (30 + 36), abs=0.03)
    assert at(60).whole == pytest.approx(60 / (60 + 36), abs=0.03)
    assert at(60).rows_wanted == pytest.approx(9 * 36, rel=0.1)  # 324 / (324 + 36) = 0.9
    assert at(324).whole == pytest.approx(0.9, abs=0.02)


def test_ties_and_gaps():
    values = np.array([3.0, 1.0, 3.0, 2.0, 1.0])
    assert _ranks(values).tolist() == [4.5, 1.5, 4.5, 3.0, 1.5]
    influence = np.arange(12.0)
    difference = np.zeros(12)
    difference[3] = np.nan
    assert reliability(influence, difference, (2, 2)).num_rows == 11
    assert reliability(influence[:9], difference[:9], (2, 2)) is None
    assert reliability(np.ones(12), np.zeros(12), (2, 2)) is None


def test_low_reliability_is_said(tokenizer, tmp_path, caplog):
    logging.getLogger("diq_hf").propagate = True
    report(Reliability(0.65, 60, 1000))
    report(Reliability(0.75, 60, 1000))
    assert [record.levelname for record in caplog.records if "halves" in record.message][:1] == ["WARNING"]
    assert "agree to 0.65" in caplog.text
    assert "agree to 0.75" not in caplog.text
    few = DIQScorer(make_model(), VALIDATION["a"], tokenizer, difficulty=None)
    few.score(Dataset.from_list(POOL), cache_dir=tmp_path)
    assert few.reliability is None
    assert few.recipe().reliability is None
