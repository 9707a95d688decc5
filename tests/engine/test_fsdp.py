"""A model in shards of FSDP2, on two processes, against the whole one row by row in float64."""

import json

import numpy as np
import pytest
import torch
from conftest import make_model
from fsdp_processes import ROWS, VALIDATION
from oracle import attention_weights, in_float64, oracle, relative_error, row_gradient, with_lora
from processes import launched


# `layout` is how it is sharded, and `steps` how many steps it was trained for before it is scored.
CASES = {
    "full": {"model": "llama", "dtype": "float64", "lora": False, "layout": "root", "steps": 1},
    "full-fp32": {"model": "llama", "dtype": "float32", "lora": False, "layout": "accelerate", "steps": 0},
    "lora": {"model": "llama", "dtype": "float64", "lora": True, "layout": "root", "steps": 1},
    "lora-fp32": {"model": "llama", "dtype": "float32", "lora": True, "layout": "accelerate", "steps": 1},
    "tied": {"model": "qwen3", "dtype": "float64", "lora": False, "layout": "root", "steps": 0},
    "tied-accelerate": {"model": "qwen3", "dtype": "float64", "lora": False, "layout": "accelerate", "steps": 1},
    "layers": {"model": "llama", "dtype": "float64", "lora": False, "layout": "layers", "steps": 0},
    "head": {"model": "llama", "dtype": "float64", "lora": True, "layout": "head alone", "steps": 0},
    "native": {"model": "llama", "dtype": "float32", "lora": False, "layout": "native", "steps": 1},
    "native-lora": {"model": "llama", "dtype": "float32", "lora": True, "layout": "native", "steps": 0},
    "native-tied": {"model": "qwen3", "dtype": "float32", "lora": False, "layout": "native", "steps": 0},
    "gpt2": {"model": "gpt2", "dtype": "float64", "lora": False, "layout": "root", "steps": 0},
    "replicas": {"model": "llama", "dtype": "float64", "lora": False, "layout": "replicas", "steps": 0},
    "one-replica": {"model": "llama", "dtype": "float64", "lora": False, "layout": "one replica", "steps": 0},
    "padded": {"model": "llama", "dtype": "float64", "lora": False, "layout": "root", "steps": 0, "padded": True},
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fsdp")
    result = launched("fsdp_processes.py", json.dumps(CASES), folder)
    assert result.returncode == 0, result.stderr[-6000:]
    found = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
    answers = {name: ([rank[name] for rank in found], torch.load(folder / f"{name}.pt")) for name in CASES}
    return answers | {"peaks": [rank["peaks"] for rank in found]}


def whole_model(case, weights):
    """The model that was scored, whole and in float64."""
    model = make_model(case["model"])
    model = in_float64(model)
    model = with_lora(model).double() if case["lora"] else model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model


@pytest.mark.parametrize("name", CASES)
def test_fsdp_equals_the_whole_model(name, answers):
    case, (found, weights) = CASES[name], answers[name]
    model = whole_model(case, weights)
    phi = [p for p in model.parameters() if p.requires_grad] if case["lora"] else attention_weights(model)
    tolerance = 1e-9 if case["dtype"] == "float64" else 2e-5
    expected, losses = oracle(model, phi, ROWS, VALIDATION)
    few, _ = oracle(model, phi, ROWS, VALIDATION[:2])
    norms = [sum(part.square().sum().item() for part in row_gradient(model, phi, row)[0]) ** 0.5 for row in ROWS]
    gradients = [row_gradient(model, phi, row)[0] for row in VALIDATION]
    direction = torch.cat([(sum(parts) / len(VALIDATION)).flatten() for parts in zip(*gradients, strict=True)])
    for rank in found:
        assert rank["processes"] == 2 and rank["packed"] is not case.get("padded", False)
        assert relative_error(np.concatenate(list(rank["direction"].values())), direction.numpy()) < tolerance
        assert rank["norm"] == pytest.approx(float(direction.norm()), rel=tolerance)
        assert relative_error(np.array(rank["influence"]), expected) < tolerance
        assert relative_error(np.array(rank["several"]), np.stack([expected, few], axis=1)) < tolerance
        assert relative_error(np.array(rank["norms"]), np.array(norms)) < tolerance
        assert np.abs(rank["few"] - expected[:1]).max() / np.abs(expected).max() < tolerance
        for loss in ("loss", "losses"):
            assert relative_error(np.array(rank[loss]), losses) < tolerance
    for key in ("influence", "loss", "losses", "several", "norms", "direction"):
        assert found[0][key] == found[1][key]


@pytest.mark.parametrize("name", CASES)
def test_fsdp_direction_lies_as_its_weights(name, answers):
    """In shards, of which the processes' make up the whole; an adapter's is whole on both."""
    first, second = (rank["held"] for rank in answers[name][0])
    in_shards = not CASES[name]["lora"] and CASES[name]["layout"] != "replicas"
    for part, (own, whole) in first.items():
        assert own + second[part][0] == (whole if in_shards else 2 * whole)
        assert own == whole or in_shards


def test_fsdp_bytes_a_parameter(answers):
    """Two less on each of two processes, of four."""
    for in_shards, whole in answers["peaks"]:
        assert 1.5 < whole - in_shards < 2.1, (in_shards, whole)


@pytest.mark.parametrize("name", CASES)
def test_fsdp_leaves_no_trace(name, answers):
    """Every weight in shards again, no gradient, and the training bit for bit as without scoring."""
    for rank in answers[name][0]:
        whole = [part for part in rank["whole"] if not (CASES[name]["layout"] == "layers" and ".layers." not in part)]
        assert whole == [] or (name == "native-lora" and all("lora" in part for part in whole))
        assert rank["grads"] == [] and rank["mode"] and rank["equal"]
