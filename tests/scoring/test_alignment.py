"""`alignment`: cosines of a row's gradient with those of the validation rows."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from conftest import chat, make_model
from datasets import Dataset
from oracle import attention_weights, in_float64, row_gradient, with_lora

from diq_hf import DIQScorer
from diq_hf.scoring.alignment import DIM, cosines, validation_order


def unit_gradients(model, phi, encoded):
    """Each row's flat gradient, of length 1, by autograd in float64, a row at a time."""
    found = [torch.cat([part.flatten() for part in row_gradient(model, phi, row)[0]]) for row in encoded]
    return np.stack([(gradient / gradient.norm()).numpy() for gradient in found])


@pytest.mark.parametrize("lora", [False, True])
def test_cosines_of_single_rows(tokenizer, pool, validation, lora):
    model = with_lora(make_model()) if lora else make_model()
    truth = in_float64(deepcopy(model))
    scorer = DIQScorer(model, validation, tokenizer, difficulty=None, extra_columns=["alignment"], projection_seed=3)
    found = np.array(scorer.score(Dataset.from_list(pool))["alignment"][:])
    phi = [p for p in truth.parameters() if p.requires_grad] if lora else attention_weights(truth)
    of_pool, of_validation = (
        unit_gradients(truth, phi, [scorer.encode(row) for row in rows]) for rows in (pool, validation)
    )
    assert found.shape == (len(pool), len(validation))
    assert np.abs(found - of_pool @ of_validation.T).max() < 5 / DIM**0.5


def test_it_is_the_same_by_map_by_score_and_beside_stored_projections(model, tokenizer, pool, validation, tmp_path):
    settings = {"difficulty": None, "extra_columns": ["alignment"]}
    rows = Dataset.from_list(pool)
    scorer = DIQScorer(model, validation, tokenizer, **settings)
    by_map = np.array(rows.map(scorer, batched=True, batch_size=2)["alignment"][:])
    by_score = np.array(scorer.score(rows, cache_dir=tmp_path)["alignment"][:])
    np.testing.assert_allclose(by_map, by_score, atol=1e-6)
    stored = DIQScorer(model, validation, tokenizer, **settings, projection_dim=DIM)
    np.testing.assert_allclose(np.array(stored.score(rows)["alignment"][:]), by_score, atol=1e-6)
    other = DIQScorer(model, validation, tokenizer, **settings, projection_seed=1)
    assert other.fingerprint != scorer.fingerprint


def test_groups_take_turns(model, tokenizer, pool, validation):
    """The columns' order is that of the turns, whichever group is named first."""
    scorer = DIQScorer(
        model,
        {"a": validation[:1], "b": [*validation[1:], chat("How?", "So.")]},
        tokenizer,
        difficulty=None,
        extra_columns=["alignment"],
    )
    found = np.array(scorer.score(Dataset.from_list([validation[0], validation[1]]))["alignment"][:])
    assert found.shape == (2, 4)
    assert found[0].argmax() == 0 and found[1].argmax() == 1
    assert validation_order([1, 1, 1]).tolist() == [0, 1, 2]


def test_a_row_that_is_refused_has_none(model, tokenizer, pool, validation):
    scorer = DIQScorer(model, validation, tokenizer, difficulty=None, extra_columns=["alignment"], on_bad_row="skip")
    found = scorer.score(Dataset.from_list([pool[0], {"prompt": None, "completion": None}, pool[1]]))["alignment"]
    assert np.isfinite(found[0]).all() and np.isfinite(found[2]).all() and np.isnan(found[1]).all()


def test_projections_that_are_too_coarse_are_refused(model, tokenizer, validation):
    with pytest.raises(ValueError, match="Take at least 1024"):
        DIQScorer(model, validation, tokenizer, extra_columns=["alignment"], projection_dim=64)


def test_a_subset_of_a_pool_that_is_not_scored_takes_no_turns(model, tokenizer, pool, validation):
    scorer = DIQScorer(model, validation, tokenizer, extra_columns=["alignment"])
    with pytest.raises(ValueError, match="the scores of the whole pool"):
        scorer.select(Dataset.from_list(pool), num_rows=2, order="alignment")


def test_gradients_that_are_zero_point_nowhere():
    assert cosines(np.zeros((1, 2)), np.ones((1, 2))).tolist() == [[0.0]]
    assert np.isnan(cosines(np.full((1, 2), np.nan), np.ones((1, 2)))).all()
