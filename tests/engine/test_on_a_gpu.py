"""What a GPU has to show, and a CPU shows as well where it can: `pytest -m gpu` runs the former by hand."""

import pytest
import torch
from conftest import SIZES
from oracle import attention_weights, in_float64, oracle, relative_error, with_lora
from test_fsdp import ROWS, VALIDATION
from transformers import LlamaConfig, LlamaForCausalLM

from diq_hf.engine.influence import InfluenceEngine
from diq_hf.ranks import spearman
from diq_hf.training.online import OnlineInfluence


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
pytestmark = pytest.mark.parametrize("device", DEVICES)


def make_model():
    """The tests' Llama with heads as wide as FlexAttention's kernel wants them."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES | {"head_dim": 16}))


@pytest.fixture(scope="module")
def truth():
    model = in_float64(make_model())
    return oracle(model, attention_weights(model), ROWS, VALIDATION)[0]


def influences(model, **settings):
    engine = InfluenceEngine(model, **settings)
    return engine, engine.score(ROWS, engine.validation_gradient(VALIDATION))[0]


def test_parity(device, truth):
    assert relative_error(influences(make_model().to(device))[1], truth) < 1e-5


def test_bf16_keeps_the_ranks(device, truth):
    found = influences(make_model().to(device, torch.bfloat16))[1]
    assert spearman(found, truth) > 0.97


def test_autocast(device, truth):
    with torch.autocast(device, torch.bfloat16):
        found = influences(make_model().to(device))[1]
    assert spearman(found, truth) > 0.97


@pytest.mark.parametrize("attention", ["flex_attention", "flash_attention_2"])
def test_packing(device, attention, truth):
    model = make_model()
    dtype = torch.float32
    if attention.startswith("flash"):
        if device == "cpu":
            pytest.skip("flash attention has no CPU kernel")
        pytest.importorskip("flash_attn")
        dtype = torch.bfloat16
    model = model.to(device, dtype)
    model.set_attn_implementation(attention)
    with torch.compiler.set_stance("force_eager" if device == "cpu" else "default"):
        engine, found = influences(model)
    assert engine.packing.possible
    assert relative_error(found, truth) < (1e-5 if dtype == torch.float32 else 5e-2)


def test_memory_that_runs_out(device, truth):
    """A real one: the device's allocator is left with little."""
    if device == "cpu":
        pytest.skip("a CPU has no allocator that says no")
    model = make_model().to(device)
    rows = ROWS * 400
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 64 * 2**20) / total)
    try:
        engine = InfluenceEngine(model, max_tokens_per_batch=10**6)
        found, _ = engine.score(rows, engine.validation_gradient(VALIDATION))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert engine.budget.max_tokens < 10**6
    assert relative_error(found[: len(ROWS)], truth) < 1e-5


def test_online(device):
    torch.manual_seed(0)
    model = with_lora(make_model(), lora_dropout=0.0).to(device)
    engine = InfluenceEngine(model)
    online = OnlineInfluence(engine)
    online.use(engine.validation_gradient(VALIDATION))
    online.attach()
    online.begin_step(lambda batch: [0])
    model.train()
    ids, labels = (torch.tensor(part, device=device)[None] for part in (ROWS[0].input_ids, ROWS[0].labels))
    model(input_ids=ids, labels=labels).loss.backward()
    online.collect()
    online.detach()
    assert online.influences[0] == pytest.approx(engine.score(ROWS[:1], online.direction)[0][0], rel=1e-4)


def test_nothing_is_left_behind(device):
    model = make_model().to(device)
    influences(model)
    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    for _ in range(3):
        influences(model)
    assert (torch.cuda.memory_allocated() if device == "cuda" else 0) <= before
    assert all(p.grad is None for p in model.parameters())
    assert not [hook for module in model.modules() for hook in module._forward_hooks.values()]
