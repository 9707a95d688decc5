"""`mismatch`: calibrated on foreign prompts, the same on every way to it, and refused where it cannot be had."""

import numpy as np
import pytest
import torch
from conftest import SENTENCES, chat, make_model
from datasets import Dataset
from scipy.stats import ks_2samp

from diq_hf import DIQScorer
from diq_hf.rows.encoded import EncodedRow, RowError
from diq_hf.rows.formats import RowEncoder
from diq_hf.scoring import chunks
from diq_hf.scoring.mismatch import MismatchNull, draw_null, foreign_pairs


def encoded(prompt, answer):
    ids = np.array([*prompt, *answer])
    return EncodedRow(ids, np.where(np.arange(len(ids)) < len(prompt), -100, ids))


def reader(rows):
    """A language model that knows one thing, a token that stood before is likely to come again, and has moods."""
    losses = []
    for row in rows:
        ids = row.input_ids.tolist()
        costs = [
            (0.5 if ids[t] in ids[:t] else 5.0) + hash(tuple(ids[: t + 1])) % 997 / 500
            for t in range(1, len(ids))
            if row.labels[t] != -100
        ]
        losses.append(np.mean(costs))
    return np.array(losses)


def topical_rows(number, draw):
    """Prompts and answers that share a topic's words, and common words beside."""
    rows = []
    for _ in range(number):
        topic = draw.choice(np.arange(100, 1000), 12, replace=False)
        words = lambda n, share: [draw.choice(topic) if draw.random() < share else draw.integers(20) for _ in range(n)]  # noqa: E731, B023
        rows.append((words(draw.integers(8, 20), 0.7), words(draw.integers(8, 40), 0.5)))
    return rows


@pytest.fixture
def encoder(tokenizer):
    return RowEncoder(tokenizer)


def test_uniform_on_foreign_answers(encoder):
    draw = np.random.default_rng(0)
    rows = topical_rows(900, draw)
    foreign = [(rows[i][0], rows[(i + 1) % 300][1]) for i in range(300)]
    pool = [encoded(*row) for row in (*foreign, *rows[300:])]
    null = draw_null(pool, [""] * len(pool), encoder, reader, size=400)
    counts = np.array([row.num_trained for row in pool])
    answers = [row.input_ids[row.labels != -100] for row in pool]
    alone = reader([encoded([1], answer) for answer in answers])
    found = null(counts * (alone - reader(pool)), counts * alone, [""] * len(pool))
    among_null = null(null.gains, null.surprises, null.sources)  # 1/400, 2/400, …
    assert ks_2samp(found[:300], among_null).pvalue > 0.01
    assert 0.7 < (found[:300] > 0.2).mean() < 0.9  # caught
    assert (found[300:] > 0.2).mean() < 0.12  # lost
    assert ks_2samp(found[300:], among_null).pvalue < 1e-9


def test_pairs(encoder):
    draw = np.random.default_rng(1)
    rows = [encoded(*row) for row in topical_rows(80, draw)]
    rows[1] = rows[0]
    sources = ["ab"[i % 2] if i > 1 else "a" for i in range(80)]
    pairs = foreign_pairs(rows, sources, 100, 3, max_length=40)
    assert pairs == foreign_pairs(rows, sources, 100, 3, max_length=40)
    assert pairs != foreign_pairs(rows, sources, 100, 4, max_length=40)
    assert len(pairs) == len(set(pairs)) == 100
    starts = [int((row.labels == -100).sum()) for row in rows]
    for i, j in pairs:
        assert sources[i] == sources[j]
        assert rows[i].input_ids[: starts[i]].tolist() != rows[j].input_ids[: starts[j]].tolist()
        assert starts[j] + rows[i].num_trained <= max(40, len(rows[i]))
    paired = [i for i, _ in pairs]
    first = paired[: len(set(paired))]
    assert len(set(first)) == len(first)  # no second prompt before all have a first
    distances = [abs(starts[i] - starts[j]) for i, j in pairs]
    assert np.mean(distances) < np.mean([abs(a - b) for a in starts for b in starts])


def test_shares_are_counted_within_the_source():
    gains = np.concatenate([np.arange(100.0), 1000 + np.arange(100.0), [5.0]])
    null = MismatchNull(gains, np.full(201, 4), ("a",) * 100 + ("b",) * 100 + ("c",), 0)
    found = null(np.array([90.0, 90.0, 1090.0, 2000.0, np.nan]), np.full(5, 4), ["a", "b", "b", "c", "a"])
    assert found[:3] == pytest.approx([0.1, 1.0, 0.1])
    assert found[3] == 0  # too few of "c": held against all
    assert np.isnan(found[4])


POOL = [
    chat(f"{SENTENCES[i % 4][: 9 + i % 23]} {i}", SENTENCES[(3 * i + 1) % 4][i % 7 : 20 + i % 31]) for i in range(48)
]


@pytest.fixture
def make_scorer(tokenizer, validation):
    return lambda **settings: DIQScorer(
        make_model(), validation, tokenizer, **({"extra_columns": ["mismatch", "num_trained"]} | settings)
    )


def by_hand(rows, scorer, tokenizer):
    """Each row's gain and the foreign answers', by single forward passes of the plain model."""
    model, encode = make_model().eval(), RowEncoder(tokenizer)
    rows = [encode(row) for row in rows]
    starts = [int((row.labels == -100).sum()) for row in rows]

    def loss(start, answer):
        ids = torch.tensor([*start, *answer])[None]
        labels = ids.clone()
        labels[0, : len(start)] = -100
        with torch.no_grad():
            return model(input_ids=ids, labels=labels).loss.item() * len(answer)

    def gain(i, j):
        answer = rows[i].input_ids[starts[i] :]
        alone = loss([1], answer)
        return alone - loss(rows[j].input_ids[: starts[j]], answer), alone

    pairs = foreign_pairs(rows, [""] * len(rows), 96, 0, 1024)
    statistic = lambda found: found[0] / np.sqrt(found[1])  # noqa: E731
    null = np.array([statistic(gain(*pair)) for pair in pairs])
    return [np.mean(null >= statistic(gain(i, i)) - 1e-9) for i in range(len(rows))]


def test_by_hand(make_scorer, tokenizer, tmp_path):
    scorer, dataset = make_scorer(), Dataset.from_list(POOL)
    scored = scorer.score(dataset, chunk_size=25, cache_dir=tmp_path)
    assert np.allclose(scored["mismatch"][:], by_hand(POOL, scorer, tokenizer), atol=0.006)
    assert scored.features["mismatch"].dtype == "float32"
    assert scored.features["num_trained"].dtype == "int32"
    encode = RowEncoder(tokenizer)
    assert scored["num_trained"][:] == [int((encode(row).labels != -100).sum()) for row in POOL]
    facts = scorer.recipe().mismatch
    assert (facts.size, facts.seed, facts.source_column) == (96, 0, "source")
    quantiles = [facts.quantiles[share] for share in ("0.05", "0.10", "0.20", "0.50")]
    assert quantiles == sorted(quantiles, reverse=True)


def test_same_beside_any_difficulty(make_scorer, tmp_path):
    dataset = Dataset.from_list(POOL)
    beside_ifd = make_scorer().score(dataset, cache_dir=tmp_path)
    for difficulty in (None, "loss", "num_tokens"):
        scored = make_scorer(difficulty=difficulty).score(dataset, cache_dir=tmp_path)
        assert np.allclose(scored["mismatch"][:], beside_ifd["mismatch"][:], atol=0.006), difficulty
    plain = make_scorer(extra_columns=[]).score(dataset, cache_dir=tmp_path)
    assert np.allclose(plain["difficulty"][:], beside_ifd["difficulty"][:], rtol=1e-5)


def test_null_is_drawn_once(make_scorer, tmp_path, monkeypatch):
    dataset, drawn = Dataset.from_list(POOL), []
    real = chunks.calibrate
    monkeypatch.setattr(chunks, "calibrate", lambda *args: (drawn.append(1), real(*args))[1])
    first = make_scorer().score(dataset, chunk_size=20, cache_dir=tmp_path)
    make_scorer(difficulty="loss").score(dataset, chunk_size=30, cache_dir=tmp_path)  # of the same rows and model
    assert len(drawn) == 1
    (path,) = tmp_path.glob("mismatch-*.safetensors")
    path.write_bytes(path.read_bytes()[:-3])
    again = make_scorer().score(dataset, chunk_size=20, cache_dir=tmp_path)
    assert len(drawn) == 2
    assert again["mismatch"][:] == first["mismatch"][:]
    make_scorer().score(dataset.select(range(40)), cache_dir=tmp_path)  # other rows have another null
    assert len(drawn) == 3


def test_map_is_calibrated_first(make_scorer, tmp_path):
    scorer, dataset = make_scorer(), Dataset.from_list(POOL)
    for form in (dataset, dataset.to_iterable_dataset()):
        with pytest.raises(ValueError, match=r"diq_score.calibrate\(ds\)` first, or use `diq_score.score\(ds\)`"):
            list(form.map(scorer, batched=True))
    fingerprint = scorer.fingerprint
    scorer.calibrate(dataset)
    assert scorer.fingerprint != fingerprint
    mapped = dataset.map(scorer, batched=True)
    scored = make_scorer().score(dataset, cache_dir=tmp_path)
    assert np.allclose(mapped["mismatch"][:], scored["mismatch"][:], atol=0.003)
    row_by_row = dataset.select(range(4)).map(scorer)
    assert np.allclose(row_by_row["mismatch"][:], scored["mismatch"][:4], atol=0.003)


def test_source_column(make_scorer, tmp_path):
    rows = [row | {"source": "ab"[i % 2], "origin": "x"} for i, row in enumerate(POOL * 2)]
    scorer = make_scorer()
    scorer.score(Dataset.from_list(rows), cache_dir=tmp_path)
    assert set(scorer.used_null.sources) == {"a", "b"}
    other = make_scorer(source_column="origin")
    other.score(Dataset.from_list(rows), cache_dir=tmp_path)
    assert set(other.used_null.sources) == {"x"}


def test_refused(make_scorer, tmp_path):
    with pytest.raises(ValueError, match=r"at least 32 answers .* these 5 rows give"):
        make_scorer().score(Dataset.from_list(POOL[:5]), cache_dir=tmp_path)
    with pytest.raises(TypeError, match=r"no rows by position.*calibrate\(list\("):
        make_scorer().calibrate(Dataset.from_list(POOL).to_iterable_dataset())
    scorer = make_scorer(difficulty=None)
    scorer.calibrate(POOL)
    with pytest.raises(RowError, match=r"`mismatch` cannot be taken.*Or leave it out of `extra_columns`"):
        Dataset.from_list([{"text": SENTENCES[0]}]).map(scorer, batched=True)
