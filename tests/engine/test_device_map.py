"""Weights that lie on the CPU or on a disk between their turns, as `device_map` has it, against those that stay."""

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import attach_align_device_hook
from conftest import make_model
from live_bytes import LiveBytes
from oracle import attention_weights, in_float64, oracle, relative_error, with_lora
from test_fsdp import ROWS, VALIDATION
from transformers import LlamaConfig, LlamaForCausalLM

from diq_hf.digest import model_digest, sampled_digest
from diq_hf.engine.influence import InfluenceEngine
from diq_hf.training.online import OnlineInfluence


CPU = torch.device("cpu")
PLACES = {
    "cpu": lambda model, folder: cpu_offload(model, CPU),
    "disk": lambda model, folder: disk_offload(model, folder, CPU),
    "some": lambda model, folder: dispatch_model(
        model,
        {"model.embed_tokens": "cpu", "model.layers.0": "disk", "model.layers.1": "cpu", "model.norm": "disk"}
        | {"model.rotary_emb": "cpu", "lm_head": "disk"},
        main_device="cpu",
        offload_dir=folder,
    ),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["llama", "qwen3"])
@pytest.mark.parametrize("adapter", [False, True], ids=["weights", "lora"])
def test_device_map(name, adapter, place, tmp_path):
    if place == "some" and (name == "qwen3" or adapter):  # tied weights lie in one place, and the map names modules
        return
    whole = in_float64(make_model(name))
    torch.manual_seed(0)
    whole = with_lora(whole).double() if adapter else whole
    phi = [p for p in whole.parameters() if p.requires_grad] if adapter else attention_weights(whole)
    expected, losses = oracle(whole, phi, ROWS, VALIDATION)
    model = in_float64(make_model(name))
    torch.manual_seed(0)
    model = with_lora(model).double() if adapter else model
    model = PLACES[place](model, tmp_path)
    engine = InfluenceEngine(model, max_tokens_per_batch=60)
    assert engine.device == CPU and engine.packing.possible and engine.recomputing.wanted
    direction = engine.validation_gradient(VALIDATION)
    influence, loss, norms = engine.score(ROWS, direction, norms=True)
    assert relative_error(influence, expected) < 1e-9 and relative_error(loss, losses) < 1e-9
    assert relative_error(engine.losses(ROWS), losses) < 1e-9
    several, _ = engine.score(ROWS, [direction, direction])
    assert relative_error(several[:, 1], expected) < 1e-9 and np.isfinite(norms).all()
    assert any(p.is_meta for p in model.parameters())  # they lie where they lay
    if not adapter:
        assert model_digest(model) == model_digest(whole)
    assert sampled_digest(model) == sampled_digest(model)


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_autocast(place, tmp_path):
    """Layers are made again in the precision that they had."""
    found = []
    for put in (lambda model, folder: model, PLACES[place]):
        with torch.autocast("cpu", torch.bfloat16):
            engine = InfluenceEngine(put(make_model(), tmp_path), max_tokens_per_batch=60)
            direction = engine.validation_gradient(VALIDATION)
            found.append([*engine.score(ROWS, direction), *engine.score(ROWS, direction, norms=True)])
    assert engine.recomputing.wanted
    for here, offloaded in zip(*found, strict=True):
        assert relative_error(offloaded, here) < 1e-6


def test_a_layer_at_a_time(tmp_path):
    """The graph of the backward pass does not hold on to the weights of all layers."""
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 12, "vocab_size": 384}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))
    engine = InfluenceEngine(disk_offload(model, tmp_path, CPU), target_modules=["q_proj"])
    direction, peaks = engine.validation_gradient(VALIDATION[:1]), []
    for wanted in (True, False):
        engine.recomputing.wanted = wanted
        with LiveBytes() as memory:
            engine.score(VALIDATION[:1], direction)
        peaks.append(memory.peak)
    assert peaks[0] < 0.6 * peaks[1]


def test_online():
    """The base elsewhere, and an adapter that is trained."""
    read = []
    for offloaded in (False, True):
        torch.manual_seed(0)
        model = with_lora(make_model(), lora_dropout=0.0)
        for module in model.modules() if offloaded else ():
            if isinstance(module, torch.nn.Linear) and not module.weight.requires_grad:
                attach_align_device_hook(module, CPU, offload=True, weights_map=dict(module.state_dict()))
        engine = InfluenceEngine(model)
        online = OnlineInfluence(engine)
        online.use(engine.validation_gradient(VALIDATION))
        online.attach()
        online.begin_step(lambda batch: [0])
        model.train()
        ids, labels = (torch.tensor(part)[None] for part in (ROWS[0].input_ids, ROWS[0].labels))
        model(input_ids=ids, labels=labels).loss.backward()
        online.collect()
        online.detach()
        read.append([online.influences[0], engine.score(ROWS[:1], online.direction)[0][0]])
    assert np.allclose(*read, rtol=1e-5) and np.allclose(read[0][0], read[0][1], rtol=1e-4)
