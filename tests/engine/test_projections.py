"""Projected gradients against unprojected ones, per module shape and through the engine."""

import numpy as np
import pytest
import torch
from conftest import make_model
from datasets import Dataset, concatenate_datasets
from oracle import attention_weights, in_float64, relative_error, row_gradient, with_lora

from diq_hf import DIQScorer
from diq_hf.engine.influence import InfluenceEngine
from diq_hf.engine.projections import Projection, projected_influence
from diq_hf.rows.formats import RowEncoder


# Square, wide, tall; below, at and above `dim`; the shapes of LoRA's A and B.
SHAPES = [(16, 16), (8, 64), (64, 8), (4, 3), (1, 256), (4, 64), (64, 4), (40, 37)]
DIM = 256


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unbiased_for_every_shape(shape):
    """The mean over seeds is the unprojected product, with the spread that the docstring promises."""
    generator = torch.Generator().manual_seed(1)
    g, noise = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    g = g + 1  # all of a sign, as no random gradient is
    h = g + noise
    names = ["a"]
    found = []
    for seed in range(400):
        projection = Projection(DIM, names, seed)
        found.append(float(projection({"a": g}) @ projection({"a": h})))
    exact, spread = float((g * h).sum()), float(g.norm() * h.norm()) / DIM**0.5
    assert abs(np.mean(found) - exact) < 5 * spread / 400**0.5 + 1e-9
    assert np.std(found) < 2 * spread


def test_modules_of_one_shape_do_not_leak_into_each_other():
    """Same gradient in one module of each: the true product is zero, whatever the seed."""
    gradient = torch.randn(32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    zero = torch.zeros_like(gradient)
    names = [f"layers.{i}" for i in range(2 * DIM + 3)]  # more modules than numbers
    for other in ("layers.1", "layers.7", f"layers.{DIM}", f"layers.{2 * DIM}"):
        found = []
        for seed in range(100):
            projection = Projection(DIM, names, seed)
            one = projection({"layers.0": gradient, other: zero})
            two = projection({"layers.0": zero, other: gradient})
            found.append(float(one @ two))
        spread = float(gradient.norm() ** 2) / DIM**0.5
        assert abs(np.mean(found)) < 5 * spread / 100**0.5 and np.std(found) < 2 * spread, other


def test_is_a_sparse_sign_matrix():
    projection = Projection(32, ["a"], seed=3)
    matrix = torch.stack([projection({"a": row}) for row in torch.eye(100, dtype=torch.float64)], dim=1)
    assert ((matrix != 0).sum(dim=0) == 1).all() and (matrix.abs().sum(dim=0) == 1).all()
    assert 30 < (matrix == 1).sum() < 70
    assert (matrix != 0).sum(dim=1).max() == 4  # 100 coordinates, at most ⌈100 / 32⌉ to each sum


@pytest.mark.parametrize("adapter", [False, True], ids=["weights", "lora"])
def test_engine_projects_every_rows_own_gradient(adapter, tokenizer, pool, validation):
    model = in_float64(make_model())
    model = with_lora(model).double() if adapter else model
    rows = [RowEncoder(tokenizer)(row) for row in pool]
    phi = [p for p in model.parameters() if p.requires_grad] if adapter else attention_weights(model)
    engine = InfluenceEngine(model)
    projection = Projection(64, list(engine.modules))
    direction = engine.validation_gradient([RowEncoder(tokenizer)(row) for row in validation])
    found, influence, loss = engine.project(rows, [direction], projection)
    gradients = [row_gradient(model, phi, row)[0] for row in rows]
    expected = torch.stack([projection(dict(zip(engine.modules, parts, strict=True))) for parts in gradients])
    assert relative_error(found, expected.numpy()) < 1e-9
    alone, lost = engine.score(rows, direction)
    assert relative_error(influence[:, 0], alone) < 1e-9 and relative_error(loss, lost) < 1e-12


def test_new_validation_set_without_the_model(model, tokenizer, pool, validation):
    """From the scorer's column: the estimate nears the exact influence as `projection_dim` grows."""
    scorer = DIQScorer(model, validation, tokenizer, difficulty=None, projection_dim=1 << 15)
    rows, others = Dataset.from_list(pool), Dataset.from_list(pool[2:5])
    scored = rows.map(scorer, batched=True)
    estimate = projected_influence(scored, others.map(scorer, batched=True, batch_size=2))
    exact = rows.map(DIQScorer(model, others, tokenizer, difficulty=None), batched=True)["influence"][:]
    assert estimate.dtype == np.float32 and np.corrcoef(estimate, exact)[0, 1] > 0.99
    assert np.allclose(
        scored["influence"], rows.map(DIQScorer(model, validation, tokenizer), batched=True)["influence"], rtol=1e-4
    )


def test_projections_of_other_models_and_seeds_do_not_mix(model, tokenizer, pool, validation):
    rows = Dataset.from_list(pool[:3])

    def scored(model, **settings):
        return rows.map(DIQScorer(model, validation, tokenizer, difficulty=None, **settings), batched=True)

    first = scored(model, projection_dim=64)
    for other in (
        scored(model, projection_dim=128),
        scored(model, projection_dim=64, projection_seed=1),
        scored(model, projection_dim=64, target_modules=["q_proj"]),
        scored(make_model(seed=1), projection_dim=64),
        rows,
    ):
        with pytest.raises(ValueError, match="same `DIQScorer"):
            projected_influence(first, other)


def test_rows_that_were_not_scored(model, tokenizer, pool, validation):
    scorer = DIQScorer(model, validation, tokenizer, projection_dim=64, on_bad_row="skip")
    empty = {"prompt": pool[0]["prompt"], "completion": [{"role": "assistant", "content": ""}]}
    rows = Dataset.from_list([pool[0], empty, pool[1]])
    for scored in (rows.map(scorer, batched=True), scorer.score(rows, chunk_size=2)):
        influence = projected_influence(scored, scored)
        assert np.isnan(influence).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="No validation row"):
        projected_influence(scored, scored.select([1]))


def test_rows_from_elsewhere(model, tokenizer, pool, validation):
    scored = Dataset.from_list(pool[:2]).map(DIQScorer(model, validation, tokenizer, projection_dim=64), batched=True)
    both = concatenate_datasets([scored, Dataset.from_list(pool[2:3])])
    assert np.isnan(projected_influence(both, scored)).tolist() == [False, False, True]


def test_weights_written_behind_the_version_counter(model, tokenizer, pool, validation, tmp_path):
    scorer = DIQScorer(model, validation, tokenizer, difficulty=None, projection_dim=64)
    rows = Dataset.from_list(pool[:2])
    first = scorer.score(rows, cache_dir=tmp_path)
    model.lm_head.weight.data *= 1.01
    assert scorer.fingerprint == scorer.fingerprint
    model.lm_head.weight.data *= 1.01
    second = scorer.score(rows, cache_dir=tmp_path)
    assert first.column_names[-1] != second.column_names[-1]
