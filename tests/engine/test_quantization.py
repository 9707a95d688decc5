"""LoRA on quantized bases of bitsandbytes: exact, or refused by name."""

import pytest
import torch
from conftest import SIZES
from oracle import oracle, relative_error, with_lora
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from diq_hf.engine.influence import InfluenceEngine
from diq_hf.rows.formats import RowEncoder


pytest.importorskip("bitsandbytes")

FOUR_BIT = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    wide = SIZES | {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    LlamaForCausalLM(LlamaConfig(**wide)).save_pretrained(folder)

    def load(repacks=False, **settings):
        config = BitsAndBytesConfig(**settings)
        model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32)
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = repacks  # whatever this CPU is
        return model

    return load


@pytest.mark.parametrize(
    "settings", [FOUR_BIT, {"load_in_8bit": True, "llm_int8_threshold": 0.0}], ids=["4-bit", "8-bit"]
)
def test_adapter_on_a_quantized_base(settings, load, tokenizer, pool, validation):
    rows, validation_rows = ([RowEncoder(tokenizer)(row) for row in some] for some in (pool, validation))
    model = with_lora(load(**settings))
    phi = [p for p in model.parameters() if p.requires_grad]
    expected, _ = oracle(model, phi, rows, validation_rows)
    engine = InfluenceEngine(model)
    found, _ = engine.score(rows, engine.validation_gradient(validation_rows))
    assert relative_error(found, expected) < 1e-5


def test_refusals(load):
    with pytest.raises(ValueError, match="Put a LoRA adapter"):
        InfluenceEngine(load(**FOUR_BIT))
    with pytest.raises(ValueError, match="form without gradients"):
        InfluenceEngine(with_lora(load(repacks=True, **FOUR_BIT)))
    with pytest.raises(ValueError, match="llm_int8_threshold"):
        InfluenceEngine(with_lora(load(load_in_8bit=True)))
