"""A selection derived again from what is published: scores, settings and outcomes, without a text."""

from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from diq_hf.recipe import SelectionFacts
from diq_hf.selection.proof import derive_selection, differences, possible_settings, scores_alone
from diq_hf.selection.settings import settings_for


@pytest.fixture
def pool():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdefgh"), 12)) for _ in range(60)]
    texts[30:40] = [text.upper() for text in texts[:10]]
    rows = {name: rng.standard_normal(60).astype("float32") for name in ("difficulty", "influence", "influence_a")}
    rows |= {"text": texts, "mismatch": rng.random(60) ** 3, "num_trained": rng.integers(1, 40, 60)}
    rows |= {"source": rng.choice(["m", "p"], 60).tolist()}
    rows["influence"][5] = np.nan
    return Dataset.from_dict(rows).class_encode_column("source")


OPTIONS = [
    {"ratio": 0.2},
    {"ratio": 0.2, "strategy": "random", "seed": 3},
    {"num_rows": 12, "per": "row", "max_difficulty_percentile": 90},
    {"num_tokens": 200, "per": "token", "max_mismatch": 0.5},
    {"num_rows": 10, "balance": "source", "max_mismatch": 0.6},
    {"num_rows": 10, "balance": {"source": {"p": 0.3}}, "max_mismatch": None},
    {"num_tokens": 200, "balance": "source", "max_similarity": 1.0},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_derived_again_without_texts(pool, options, tmp_path):
    settings = settings_for(pool, **options)
    annotated, subset, facts = derive_selection(pool, settings)
    scores = scores_alone(annotated, facts)
    assert "text" not in scores.column_names
    scores.to_parquet(tmp_path / "scores.parquet")  # classes come back as numbers, as anyone may read them
    published = Dataset.from_parquet(str(tmp_path / "scores.parquet"), cache_dir=str(tmp_path))
    published = Dataset(published.data.table.replace_schema_metadata(None)).remove_columns("row")
    facts = SelectionFacts.from_json(facts.to_json())
    assert differences(facts, published, subset) == []

    def altered(name, row, value):
        values = published[name][:]
        values[row] = value
        return published.remove_columns(name).add_column(name, values)

    reasons = published["diq_reason"][:]
    selected = reasons.index(0)
    tampered = [altered("diq_reason", selected, 1), altered("diq_rank", selected, 59)]
    tampered.append(altered("diq_duplicate_of", selected, reasons.index(0, selected + 1)))
    if facts.max_mismatch is not None:
        tampered.append(altered("mismatch", selected, 0.999))
    for other in tampered:
        assert differences(facts, other, subset)
    assert differences(replace(facts, reasons=facts.reasons | {"selected": 1}), published, subset)
    assert differences(replace(facts, max_mismatch=1e-6 if facts.max_mismatch is None else None), published, subset)


def test_facts(pool):
    _, subset, facts = derive_selection(pool, settings_for(pool, num_rows=8, max_mismatch=0.7))
    assert sum(facts.reasons.values()) == 60 and facts.reasons["selected"] == len(subset) == 8
    assert facts.reasons["unscored"] == 1 and facts.reasons["mismatch"] == (np.array(pool["mismatch"][:]) > 0.7).sum()
    assert facts.max_similarity == 0.7 and facts.max_difficulty_threshold is None
    assert subset["diq_rank"][:] == list(range(1, 9))


def test_published_before_there_were_reasons(pool):
    """Its settings say nothing of what was passed over, so nothing was; and its scores give no reasons."""
    _, subset, facts = derive_selection(pool, SelectionFacts(ratio=0.1))
    assert (facts.max_mismatch, facts.max_similarity) == (None, None)
    annotated, _, _ = derive_selection(pool, facts)
    scores = scores_alone(annotated).remove_columns(["row", "diq_reason", "diq_duplicate_of"])
    assert differences(replace(facts, reasons=None), scores, subset) == []
    tried = possible_settings(pool, SelectionFacts(ratio=0.1))
    assert [(one.order, one.max_mismatch, one.max_similarity) for one in tried] == [
        (order, *passed_over) for order in (None, "random") for passed_over in ((None, None), (0.2, 0.7))
    ]
    stated = possible_settings(pool, SelectionFacts(ratio=0.1, max_similarity=0.5))
    assert [(one.order, one.max_similarity) for one in stated] == [(None, 0.5), ("random", 0.5)]
    assert len(possible_settings(pool, SelectionFacts(ratio=0.1, per="row"))) == 2
