"""A row whose activations do not fit: they are made again, a layer at a time, and its scores stay bit for bit."""

import logging

import numpy as np
import pytest
import torch
from conftest import SIZES, make_model
from live_bytes import LiveBytes
from oracle import with_lora
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM
from transformers.utils import logging as transformers_logging

from diq_hf.engine.influence import InfluenceEngine
from diq_hf.rows.encoded import EncodedRow


def rows_of(*lengths):
    rng = np.random.default_rng(0)
    return [EncodedRow(ids, ids) for ids in (rng.integers(5, 384, length) for length in lengths)]


def run_out_above(engine, tokens):
    """Memory runs out where more than so many tokens are kept: in longer batches, unless they are made again."""
    layers = engine.recomputing.layers

    def out(module, args, kwargs):
        if kwargs["input_ids"].numel() > tokens and torch.is_grad_enabled() and not layers[0].gradient_checkpointing:
            raise RuntimeError("CUDA out of memory. (as an accelerator would say)")

    return engine.row_loss.backbone.register_forward_pre_hook(out, with_kwargs=True)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
@pytest.mark.parametrize("adapter", [False, True], ids=["weights", "lora"])
def test_bit_equal(name, adapter):
    model, rows = make_model(name), rows_of(80, 9, 40, 30)
    if adapter:
        model = with_lora(model, **({"target_modules": ["c_attn"]} if name == "gpt2" else {}))
    model.train()
    plain = InfluenceEngine(model, max_tokens_per_batch=40)  # as large as batches will be
    direction = plain.validation_gradient(rows)
    expected = plain.score(rows, direction, norms=True)
    engine = InfluenceEngine(model, max_tokens_per_batch=40)
    handle = run_out_above(engine, 60)
    again = engine.validation_gradient(rows)
    assert engine.recomputing.wanted
    assert all(torch.equal(again.tensors[key], tensor) for key, tensor in direction.tensors.items())
    for found, value in zip(engine.score(rows, again, norms=True), expected, strict=True):
        assert (found == value).all()
    handle.remove()
    assert model.training and not any(layer.gradient_checkpointing for layer in engine.recomputing.layers)
    assert all(layer.training for layer in engine.recomputing.layers)


def test_it_takes_less_memory():
    model = LlamaForCausalLM(LlamaConfig(**SIZES | {"num_hidden_layers": 8}))
    rows, peaks = rows_of(400), []
    for wanted in (False, True):
        engine = InfluenceEngine(model)
        direction = engine.validation_gradient(rows_of(5))
        engine.recomputing.wanted = wanted
        with LiveBytes() as memory:
            engine.score(rows, direction)
        peaks.append(memory.peak)
    assert peaks[1] < 0.5 * peaks[0]


def test_layers_that_compute_something_else():
    """A dropout that a layer applies by itself."""
    sizes = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 384}
    model = OPTForCausalLM(OPTConfig(**sizes, word_embed_proj_dim=32, dropout=0.5))
    engine = InfluenceEngine(model, max_tokens_per_batch=40)
    run_out_above(engine, 60)
    with pytest.raises(RuntimeError, match="something else in training mode"):
        engine.validation_gradient(rows_of(80))
    assert not any(layer.gradient_checkpointing for layer in engine.recomputing.layers)


def test_nothing_to_make_again():
    engine = InfluenceEngine(make_model(), max_tokens_per_batch=40)
    run_out_above(engine, 60)
    engine.recomputing.layers = []
    with pytest.raises(RuntimeError, match=r"Row 0 with its 80 tokens does not fit into memory alone"):
        engine.validation_gradient(rows_of(80))


def test_the_plan_is_one_line(caplog):
    model = make_model()
    transformers_logging.set_verbosity_info()
    try:
        engine = InfluenceEngine(model, max_tokens_per_batch=1000)
        with caplog.at_level(logging.INFO):
            direction = engine.validation_gradient(rows_of(20, 30))
            engine.score(rows_of(20), direction)
    finally:
        transformers_logging.set_verbosity_warning()
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Memory: ")]
    assert len(told) == 1 and "\n" not in told[0]
    weights = sum(p.numel() for p in model.parameters()) * 4
    assert f"weights {weights / 1024:.3g} KiB" in told[0] and "for 1000 tokens a batch" in told[0]
    assert "validation gradient 16 KiB" in told[0]
