"""The claims on a real 135M instruct model and the demo's clinical rows. Minutes of CPU time: `pytest -m slow`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from clinical_pool import clinical_pool, clinical_validation
from oracle import attention_weights, oracle
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM, AutoTokenizer

from diq_hf.engine.influence import InfluenceEngine
from diq_hf.rows.formats import RowEncoder


pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder():
    from fetch_model import DEFAULT_FOLDER, fetch

    return fetch(ROOT / DEFAULT_FOLDER)


@pytest.fixture(scope="module")
def rows(folder):
    encoder = RowEncoder(AutoTokenizer.from_pretrained(folder))
    # Exact duplicates tie, and rounding alone would order them.
    pool = [row for row in clinical_pool() if row["kind"] != "duplicate"][:40]
    return [encoder(row) for row in pool], [encoder(row) for row in clinical_validation()[:8]]


def load(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


@pytest.fixture(scope="module")
def expected(folder, rows):
    model = load(folder)
    return oracle(model, attention_weights(model), *rows)[0]


def test_exact_in_fp32(folder, rows, expected):
    pool, validation = rows
    engine = InfluenceEngine(load(folder))
    found, _ = engine.score(pool, engine.validation_gradient(validation))
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    print(f"fp32: relative error {error:.2e}, Spearman {spearmanr(found, expected)[0]:.6f}")
    assert error < 1e-5


def test_ranks_in_bf16(folder, rows, expected):
    pool, validation = rows
    engine = InfluenceEngine(load(folder, torch.bfloat16))
    found, _ = engine.score(pool, engine.validation_gradient(validation))
    model = load(folder, torch.bfloat16)
    row_by_row = oracle(model, attention_weights(model), pool, validation)[0]
    errors = [np.linalg.norm(scores - expected) / np.linalg.norm(expected) for scores in (found, row_by_row)]
    ranks = [spearmanr(scores, expected)[0] for scores in (found, row_by_row)]
    print(f"bf16: relative error {errors[0]:.2e}, Spearman {ranks[0]:.6f}; row by row {errors[1]:.2e}, {ranks[1]:.6f}")
    # These rows are much alike, so bf16 swaps neighbours, however the scores are taken.
    assert ranks[0] > 0.99 and errors[0] < 1.25 * errors[1]


def test_first_order_truth(folder, rows):
    """One real SGD step on a row alone lowers the mean validation loss by η·influence."""
    pool, validation = rows[0][:30], rows[1]
    model = load(folder)
    engine = InfluenceEngine(model)
    direction = engine.validation_gradient(validation)
    influence, _ = engine.score(pool, direction)
    phi = attention_weights(model)
    step, drops = 1e-4, []  # small enough for the second order, large enough for fp32 to see the drop
    before = engine.losses(validation).mean()
    for row in pool:
        model.eval()
        loss = model(input_ids=torch.tensor(row.input_ids)[None], labels=torch.tensor(row.labels)[None]).loss
        old = [parameter.detach().clone() for parameter in phi]
        with torch.no_grad():
            for parameter, gradient in zip(phi, torch.autograd.grad(loss, phi), strict=True):
                parameter -= step * gradient
        drops.append(before - engine.losses(validation).mean())
        with torch.no_grad():
            for parameter, value in zip(phi, old, strict=True):
                parameter.copy_(value)
    correlation = np.corrcoef(drops, influence)[0, 1]
    print(f"Pearson {correlation:.5f}, slope / η {np.polyfit(influence, drops, 1)[0] / step:.4f}")
    assert correlation > 0.99
