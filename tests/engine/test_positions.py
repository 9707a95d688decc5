"""Rows longer than a model's positions are refused by name, before anything is computed."""

import numpy as np
import pytest
from conftest import MODELS, SIZES, make_model
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    BioGptConfig,
    CodeGenConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTBigCodeConfig,
    GPTNeoConfig,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    Qwen3MoeConfig,
)

from diq_hf import DIQScorer
from diq_hf.engine.influence import InfluenceEngine
from diq_hf.rows.encoded import EncodedRow, RowError


TARGETS = ["q_proj", "v_proj", "c_attn", "qkv_proj"]
SMALL = {"vocab_size": 384, "pad_token_id": 0}
GPT = SMALL | {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 40}
LEARNED = {
    "gpt2": GPT2Config(**GPT),
    "opt": OPTConfig(**SMALL, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, ffn_dim=32,
                     word_embed_proj_dim=32, max_position_embeddings=40),
    "opt, padding token 3": OPTConfig(**SMALL | {"pad_token_id": 3}, hidden_size=32, num_hidden_layers=1,
                     num_attention_heads=4, ffn_dim=32, word_embed_proj_dim=32, max_position_embeddings=40),
    "gpt_neo": GPTNeoConfig(**SMALL, hidden_size=32, num_layers=1, attention_types=[[["global"], 1]], num_heads=4,
                            max_position_embeddings=40),
    "gpt_bigcode": GPTBigCodeConfig(**GPT),
    "biogpt": BioGptConfig(**SMALL, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32,
                           max_position_embeddings=40),
    "codegen": CodeGenConfig(**GPT, rotary_dim=8),  # sines and cosines in a fixed table
}  # fmt: skip


def row(length):
    return EncodedRow(np.arange(5, 5 + length), np.arange(5, 5 + length))


@pytest.mark.parametrize("name", LEARNED)
def test_tables_of_positions(name):
    """The engine's limit is where the model itself fails, and not one token before."""
    engine = InfluenceEngine(AutoModelForCausalLM.from_config(LEARNED[name]), target_modules=TARGETS)
    assert engine.row_limit.tokens == 40
    direction = engine.validation_gradient([row(40)])
    assert np.isfinite(engine.score([row(40), row(9)], direction)[0]).all()
    for call in (
        lambda rows: engine.score(rows, direction),
        lambda rows: engine.score(rows, [direction, direction]),
        engine.losses,
    ):
        with pytest.raises(RowError, match=r"Row 1: it has 41 tokens, and the model has positions for 40 only.*=40"):
            call([row(9), row(41)])
    with pytest.raises(RowError, match="Validation row 1: it has 41"):
        engine.validation_gradient([row(9), row(41)])
    engine.row_limit = None
    with pytest.raises((IndexError, RuntimeError)):
        engine.losses([row(41)])


@pytest.mark.parametrize("name", [name for name in MODELS if name != "gpt2"])
def test_rotary_embeddings_have_no_end(name):
    engine = InfluenceEngine(make_model(name))
    assert engine.row_limit is None
    assert np.isfinite(engine.losses([EncodedRow(np.full(600, 5), np.full(600, 5))])).all()


def test_experts_are_no_positions():
    sizes = SIZES | {"moe_intermediate_size": 16, "num_experts": 16, "num_experts_per_tok": 1}
    model = AutoModelForCausalLM.from_config(Qwen3MoeConfig(**sizes))
    assert InfluenceEngine(model).row_limit is None


@pytest.fixture
def short(tokenizer):
    return GPT2LMHeadModel(GPT2Config(**GPT | {"n_positions": 64}))


def test_scorer_names_the_row(short, tokenizer, pool, validation):
    rows = Dataset.from_list(pool)
    with pytest.raises(RowError, match=r"(?s)Row .* of the batch \(.*has \d+ tokens.*max_length=64.*on_bad_row"):
        DIQScorer(short, validation[2:], tokenizer).score_batch(rows[:])
    scorer = DIQScorer(short, validation[2:], tokenizer, on_bad_row="null")
    found = scorer.score(rows)
    encoded = [len(scorer.encoder(row)) for row in pool]
    assert [not np.isfinite(value) for value in found["influence"]] == [length > 64 for length in encoded]
    assert [not np.isfinite(value) for value in found["difficulty"]] == [length > 64 for length in encoded]
    assert 0 < sum(length > 64 for length in encoded) < len(pool)
    with pytest.raises(RowError, match=r"Validation row 0 .*max_length=64"):
        DIQScorer(short, pool[-1:], tokenizer)
    cut = DIQScorer(short, pool[-1:], tokenizer, max_length=64)
    assert np.isfinite(cut.score(rows)["influence"]).all()


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_rotary_embeddings_of_the_batch(rope_type, tokenizer, pool, validation):
    """One row too long leaves the others' scores alone."""
    rope = {"rope_type": rope_type, "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 64}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    model = LlamaForCausalLM(LlamaConfig(**SIZES | {"rope_parameters": rope}))
    scorer = DIQScorer(model, validation[2:], tokenizer, on_bad_row="null")
    found, lengths = scorer.score(Dataset.from_list(pool)), [len(scorer.encoder(row)) for row in pool]
    assert np.isfinite(found["influence"]).tolist() == [length <= 64 for length in lengths]
    with pytest.raises(RowError, match=r"(?s)Row .*would depend on the batch. Set `max_length=64`"):
        DIQScorer(model, validation[2:], tokenizer).score(Dataset.from_list(pool))
