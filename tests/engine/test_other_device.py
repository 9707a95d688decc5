"""Nothing in the engine needs float64 on the device, or mixes devices: Apple's GPUs, acted by a tensor subclass."""

import numpy as np
import pytest
import torch
from conftest import make_model
from oracle import relative_error, with_lora
from other_device import OTHER, OtherTensor, on_other_device, other_devices

from diq_hf.engine.direction import Direction
from diq_hf.engine.influence import InfluenceEngine
from diq_hf.engine.projections import Projection
from diq_hf.rows.formats import RowEncoder


@pytest.fixture
def other_device():
    with other_devices() as device:
        yield device


def test_it_refuses_what_the_device_refuses(other_device):
    there = torch.ones(2, device=other_device)
    for same in (torch.tensor([1.0, 1.0], device="mps"), torch.ones(2).to("mps"), torch.ones(2).to(there)):
        assert type(same) is OtherTensor and same.tolist() == [1, 1]
    assert there.device == other_device and (there + 1).device == other_device and (there * torch.tensor(2)).sum() == 4
    for wrong in (
        there.double,
        lambda: there.to(torch.float64),
        lambda: torch.zeros(2, 2, dtype=torch.float64).to(OTHER),
    ):
        with pytest.raises(TypeError, match="float64"):
            wrong()
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(2)
    with pytest.raises(TypeError, match="cpu"):
        there.numpy()
    back = there.requires_grad_().cpu()
    assert type(back) is torch.Tensor
    (back * torch.tensor([1.0, 2.0])).sum().backward()
    assert there.grad.tolist() == [1, 2]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("adapter", [False, True], ids=["weights", "lora"])
def test_engine(name, adapter, tokenizer, pool, validation, tmp_path, other_device):
    rows, others = ([RowEncoder(tokenizer)(row) for row in some] for some in (pool, validation))
    found = []
    for place in (lambda model: model, on_other_device):
        model = make_model(name)
        torch.manual_seed(0)
        if adapter:
            model = with_lora(model, **({"target_modules": ["c_attn"]} if name == "gpt2" else {}))
        engine = InfluenceEngine(place(model), max_tokens_per_batch=300)
        engine.packing.possible = engine.budget.packed = False
        direction, other = engine.validation_gradient(others), engine.validation_gradient(others[:1])
        direction.save(tmp_path / "direction", "recipe")
        read = Direction.load(tmp_path / "direction", "recipe")  # on the CPU
        projection = Projection(64, list(engine.modules))
        found.append(
            [
                np.array(direction.norm),
                engine.losses(rows),
                *engine.score(rows, direction),
                *engine.score(rows, [read, other]),
                *engine.project(rows, [read, other], projection),
            ]
        )
    assert engine.device == OTHER and all(type(part) is OtherTensor for part in direction.tensors.values())
    for there, here in zip(*found[::-1], strict=True):
        assert here.dtype == np.float64 and relative_error(there, here) < 1e-5
