"""Which attention packs rows, which pads them: tried, never guessed, and logged."""

import logging
from contextlib import nullcontext

import pytest
import torch
from conftest import make_model
from oracle import attention_weights, in_float64, oracle, relative_error
from test_fsdp import ROWS, VALIDATION
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils import logging as transformers_logging

from diq_hf.engine.attention import NAME, packed_mask, packed_sdpa
from diq_hf.engine.influence import InfluenceEngine


# Names that a GPU's kernels have, played by functions of the tests' own.
KERNELS = ["flash_attention_3", "kernels-community/flash-attn2", "kernels-community/vllm-flash-attn3"]


def one_sequence(module, query, key, value, attention_mask, **kwargs):
    """What a kernel does that knows nothing of rows."""
    kwargs.pop("cu_seq_lens_q", None)
    return sdpa_attention_forward(module, query, key, value, None, **kwargs)


def no_mask(*args, **kwargs):
    return None


@pytest.fixture
def played(monkeypatch):
    """Puts a function in the place of a kernel."""

    def play(model, name, function):
        monkeypatch.setitem(AttentionInterface._global_mapping, name, function)
        monkeypatch.setitem(AttentionMaskInterface._global_mapping, name, no_mask)
        monkeypatch.setattr(type(model), "set_attn_implementation", set_name)
        set_name(model, name)

    def set_name(model, name):
        model.config._attn_implementation = name

    return play


def check(model, engine):
    expected, _ = oracle(model, attention_weights(model), ROWS, VALIDATION)
    found, _ = engine.score(ROWS, engine.validation_gradient(VALIDATION))
    assert relative_error(found, expected) < 1e-9


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("packs", [True, False], ids=["packs", "mixes"])
def test_kernels_are_tried(name, packs, played):
    model = in_float64(make_model())
    played(model, name, packed_sdpa if packs else one_sequence)
    engine = InfluenceEngine(model)
    assert engine.packing.possible is engine.budget.packed is packs
    assert engine.packing.implementation == name  # not another one
    check(model, engine)
    assert model.config._attn_implementation == name


def test_flex_attention_on_a_cpu():
    """It has no backward pass there, so SDPA takes its place while rows are scored."""
    model = make_model()
    model.set_attn_implementation("flex_attention")
    with torch.compiler.set_stance("force_eager"):
        engine = InfluenceEngine(model)
        found, _ = engine.score(ROWS, engine.validation_gradient(VALIDATION))
    assert engine.packing.possible and engine.packing.implementation == NAME
    reference = in_float64(make_model())
    expected, _ = oracle(reference, attention_weights(reference), ROWS, VALIDATION)
    assert relative_error(found, expected) < 1e-5
    assert model.config._attn_implementation == "flex_attention"


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_flex_attention_keeps_rows_apart(name):
    """Its forward pass, with the block-diagonal mask that positions make, as on a GPU."""
    # Older torches compute it there when they run eagerly.
    newer = torch.torch_version.TorchVersion(torch.__version__) >= (2, 13)
    refused = pytest.raises(NotImplementedError, match="does not support backward on CPU") if newer else nullcontext()
    model = make_model(name)
    engine = InfluenceEngine(model)
    model.set_attn_implementation("flex_attention")
    packing = engine.packing
    packing.implementation = "flex_attention"
    with torch.compiler.set_stance("force_eager"):
        packing._try()
        with refused:
            packing._try_backward()


@pytest.mark.parametrize(
    ("name", "told"), [("sdpa", f"packed side by side, by `{NAME}`"), ("eager", "`eager` on cpu takes no packed rows")]
)
def test_which_it_is_is_logged_once(name, told, caplog):
    model = make_model()
    model.set_attn_implementation(name)
    transformers_logging.set_verbosity_info()
    try:
        with caplog.at_level(logging.INFO):
            engine = InfluenceEngine(model)
            engine.losses(ROWS)
    finally:
        transformers_logging.set_verbosity_warning()
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Rows are p")]
    assert len(said) == 1 and told in said[0]
    assert packed_mask(q_length=4) is None
