"""A model in shards of DeepSpeed's ZeRO-3, on two processes, against the whole one row by row in float64.

DeepSpeed compiles a small part of itself the first time, which takes a minute or two.
"""

import json

import numpy as np
import pytest
import torch
from conftest import make_model
from fsdp_processes import ROWS, VALIDATION
from fsdp_scoring import scored
from oracle import attention_weights, in_float64, oracle, relative_error, row_gradient, with_lora
from processes import launched

from diq_hf.digest import model_digest


pytest.importorskip("deepspeed")

CASES = {
    "lora": {"model": "llama", "lora": True},
    "tied": {"model": "qwen3", "lora": False},
    "full": {"model": "llama", "lora": False},
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory, model_folder):
    folder = tmp_path_factory.mktemp("zero")
    result = launched("zero_processes.py", json.dumps(CASES), model_folder, folder, timeout=500)
    assert result.returncode == 0, result.stderr[-6000:]
    found = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
    answers = {name: ([rank[name] for rank in found], torch.load(folder / f"{name}.pt")) for name in CASES}
    return answers | {part: [rank[part] for rank in found] for part in ("fault", "scored")}


def whole_model(case, weights):
    model = make_model(case["model"])
    model = with_lora(model, lora_dropout=0.0) if case["lora"] else model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model


@pytest.mark.parametrize("name", CASES)
def test_zero_3_equals_the_whole_model(name, answers):
    case, (found, weights) = CASES[name], answers[name]
    digest = model_digest(whole_model(case, weights))
    model = in_float64(whole_model(case, weights))
    phi = [p for p in model.parameters() if p.requires_grad] if case["lora"] else attention_weights(model)
    expected, losses = oracle(model, phi, ROWS, VALIDATION)
    norms = [sum(part.square().sum().item() for part in row_gradient(model, phi, row)[0]) ** 0.5 for row in ROWS]
    gradients = [row_gradient(model, phi, row)[0] for row in VALIDATION]
    direction = torch.cat([(sum(parts) / len(VALIDATION)).flatten() for parts in zip(*gradients, strict=True)])
    for rank in found:
        assert rank["processes"] == 2 and rank["digests"] == [digest, True]
        assert relative_error(np.array(rank["direction"]), direction.numpy()) < 2e-5
        assert relative_error(np.array(rank["influence"]), expected) < 2e-5
        assert relative_error(np.array(rank["several"]), np.stack([expected, expected], axis=1)) < 2e-5
        assert relative_error(np.array(rank["norms"]), np.array(norms)) < 2e-5
        for loss in ("loss", "losses"):
            assert relative_error(np.array(rank[loss]), losses) < 2e-5
        read, scored = rank["online"]
        assert read == pytest.approx(scored, rel=1e-3)
    for key in ("influence", "loss", "losses", "several", "norms", "direction"):
        assert found[0][key] == found[1][key]


@pytest.mark.parametrize("name", CASES)
def test_zero_3_leaves_no_trace(name, answers):
    for rank in answers[name][0]:
        assert rank["left"] == [] and rank["mode"] and rank["equal"]


def test_zero_3_memory_that_runs_out(answers):
    for said in answers["fault"]:
        assert "Lower `max_tokens_per_batch`, or use FSDP2" in said


def test_zero_3_scores_as_one_whole_model(answers, model_folder, tmp_path):
    scorer, expected = scored(model_folder, "difficulty", tmp_path)
    for digest, columns in answers["scored"]:
        assert digest == scorer.weights_digest() and list(columns) == list(expected)
        for name, values in expected.items():
            found, values = (np.array(column, dtype=float) for column in (columns[name], values))
            assert np.allclose(found, values, rtol=1e-4, atol=1e-5 * np.nanmax(np.abs(values)), equal_nan=True), name
