"""Nothing in the engine needs float64 on the device, or mixes devices: Apple's GPUs, acted by a tensor subclass."""

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import attach_align_device_hook
from conftest import make_model
from oracle import relative_error, with_lora
from other_device import OTHER, OtherTensor, on_other_device, other_devices

from diq_hf.engine.direction import Direction
from diq_hf.engine.influence import InfluenceEngine
from diq_hf.engine.projections import Projection
from diq_hf.rows.formats import RowEncoder
from diq_hf.training.online import OnlineInfluence


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


def over_two_devices(first, second):
    """One layer on each. The CPU is a device among others where it is the main one."""

    def put(model, folder):
        places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": OTHER, "lm_head": OTHER}
        layers = {"model.layers.0": first, "model.layers.1": second}
        return dispatch_model(model, places | layers, main_device="cpu")

    return put


# Where its weights lie, and where it computes.
PLACES = {
    "there": lambda model, folder: on_other_device(model),
    "offloaded": lambda model, folder: cpu_offload(model, OTHER),
    "on a disk": lambda model, folder: disk_offload(model, folder, OTHER),
    "two devices": over_two_devices("cpu", OTHER),
    "there and back": over_two_devices(OTHER, "cpu"),
}
MOVED = ("two devices", "there and back")


def made(name, adapter):
    model = make_model(name)
    torch.manual_seed(0)
    return with_lora(model, **({"target_modules": ["c_attn"]} if name == "gpt2" else {})) if adapter else model


def all_that_is_read(engine, rows, others, folder):
    """One validation gradient, and those of groups; at once and kept; norms, transforms and projections."""
    engine.packing.possible = engine.budget.packed = False
    direction, other = engine.validation_gradient(others), engine.validation_gradient(others[:1])
    direction.save(folder / "direction", "recipe")
    read = Direction.load(folder / "direction", "recipe")  # on the CPU
    projection = Projection(64, list(engine.modules))
    halved = dict.fromkeys(engine.modules, lambda gradient: gradient / 2)
    return direction, [
        np.array(direction.norm),
        engine.losses(rows),
        *engine.score(rows, direction),
        *engine.score(rows, [read, other]),
        *engine.score(rows, [engine.laid(read), other], norms=True),
        *engine.score(rows, read, transforms=halved),
        *engine.project(rows, [read, other], projection),
    ]


# Every model there; of offloaded ones those that differ: an adapter, and tied and transposed weights.
CASES = [
    *((name, adapter, "there", False) for name in ("llama", "gpt2", "gemma3") for adapter in (False, True)),
    ("llama", True, "offloaded", False),
    ("gemma3", False, "offloaded", False),
    ("gpt2", False, "on a disk", False),
    *(("llama", False, place, False) for place in MOVED),
    ("llama", False, "there", True),
    ("gemma3", True, "there", True),
    ("llama", True, "offloaded", True),
    ("llama", False, "two devices", True),
]


@pytest.mark.parametrize(("name", "adapter", "place", "autocast"), CASES)
def test_engine(name, adapter, place, autocast, tokenizer, pool, validation, tmp_path, other_device):
    rows, others = ([RowEncoder(tokenizer)(row) for row in some[:5]] for some in (pool, validation))
    found = []
    for where, device in ((lambda model, folder: model, "cpu"), (PLACES[place], OTHER.type)):
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            engine = InfluenceEngine(where(made(name, adapter), tmp_path), max_tokens_per_batch=300)
            if (
                autocast
            ):  # what is made again in a backward pass is out of the stand-in's sight: see test_device_map.py
                engine.recomputing.wanted = False
            direction, read = all_that_is_read(engine, rows, others, tmp_path)
            found.append(read)
    assert engine.device.type == ("cpu" if place in MOVED else OTHER.type)
    there = [type(part) is OtherTensor for part in direction.tensors.values()]
    assert any(there) and all(there) is (place not in MOVED)
    for there, here in zip(*found[::-1], strict=True):
        assert here.dtype == np.float64 and relative_error(there, here) < (5e-2 if autocast else 1e-5)


def frozen_offloaded(model, folder):
    """What is trained stays there."""
    frozen = [part for part in model.modules() if type(part) is torch.nn.Linear and not part.weight.requires_grad]
    weights = [dict(part.state_dict()) for part in frozen]
    on_other_device(model)
    for part, kept in zip(frozen, weights, strict=True):
        attach_align_device_hook(part, OTHER, offload=True, weights_map=kept)


TRAINED = {
    "there": PLACES["there"],
    "offloaded": frozen_offloaded,
    "two devices": lambda model, folder: PLACES["two devices"](model.get_base_model(), folder),
}


@pytest.mark.parametrize("place", TRAINED)
@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
def test_online(place, autocast, tokenizer, pool, validation, tmp_path, other_device):
    """The training's own passes there."""
    rows, others = ([RowEncoder(tokenizer)(row) for row in some[:5]] for some in (pool, validation))
    found = []
    for where, device in ((lambda model, folder: model, torch.device("cpu")), (TRAINED[place], OTHER)):
        torch.manual_seed(0)
        model = with_lora(make_model(), lora_dropout=0.0)
        where(model, tmp_path)
        engine = InfluenceEngine(model)
        online = OnlineInfluence(engine)
        online.use(engine.validation_gradient(others))
        online.attach()
        online.begin_step(lambda batch: [0])
        model.train()
        ids, labels = (torch.tensor(part, device=engine.device)[None] for part in (rows[0].input_ids, rows[0].labels))
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        online.collect()
        online.detach()
        found.append(online.influences[0])
    assert found[1] == pytest.approx(found[0], rel=2e-2 if autocast else 1e-5)
