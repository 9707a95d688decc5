"""Tiny random models and a small tokenizer, made here so that no test needs the Hub."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path


# A cache of the tests' own: what an earlier run left must not answer, and nothing is left to the user.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="diq_hf_tests_")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertModel,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)


atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

# Pytest would import them for their docstrings.
collect_ignore = ["support"]

# Scripts for processes of their own; they import what tests import.
SUPPORT = Path(__file__).parent / "support"
os.environ["PYTHONPATH"] = os.pathsep.join([str(SUPPORT.parent), str(SUPPORT)])

VOCABULARY = 384
TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SENTENCES = [
    "A patient with fever and a new murmur needs blood cultures before antibiotics.",
    "The anion gap is the sodium minus chloride and bicarbonate.",
    "Which drug lowers potassium the fastest?",
    "Calcium protects the heart; insulin moves potassium into cells.",
]
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # Larger than the usual 0.02, so that a random model's gradients are not all alike.
    "initializer_range": 0.2,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=True)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SIZES, sliding_window=8, final_logit_softcapping=5.0, layer_types=None)
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8)),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=8.0)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=512, initializer_range=0.2)
    ),
}


def make_model(name: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0):
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = MODELS[name]().to(dtype)
    torch.random.set_rng_state(state)
    return model


def make_encoder(name: str = "bert"):
    sizes = {name: SIZES[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")}
    sizes |= {"num_hidden_layers": 1, "pad_token_id": 0}
    torch.manual_seed(0)
    if name == "bert":
        return BertModel(BertConfig(**sizes, max_position_embeddings=128))
    return ModernBertModel(ModernBertConfig(**sizes, max_position_embeddings=1024, cls_token_id=1, sep_token_id=2))


def make_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>", "<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=TEMPLATE,
    )


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def model():
    return make_model()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tokenizer):
    """A checkpoint on disk, as a user would name it."""
    folder = tmp_path_factory.mktemp("model")
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def chat(question: str, answer: str) -> dict:
    return {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
    }


@pytest.fixture(scope="session")
def pool() -> list[dict]:
    """Conversational prompt-completion rows of many lengths."""
    return [chat(SENTENCES[i % 4][: 10 + 7 * i], " ".join(SENTENCES[j % 4] for j in range(i + 1))) for i in range(7)]


@pytest.fixture(scope="session")
def validation() -> list[dict]:
    return [chat(SENTENCES[2], SENTENCES[3]), chat(SENTENCES[0][:40], SENTENCES[1]), chat("Why?", SENTENCES[0])]
