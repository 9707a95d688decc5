"""A trainer's rows get the difficulty that `DIQScorer` gives them, and processes share scores and errors."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import SENTENCES, SUPPORT, chat, make_model, make_tokenizer
from datasets import Dataset
from scored_trainers import about_to_train, make_scorer, sft_trainer
from trainings import make_trainer, rows_of_chat
from transformers import BertConfig, BertForSequenceClassification
from trl import SFTTrainer

from diq_hf import ClassifierDifficulty, DIQCallback, DIQScorer
from diq_hf.difficulty.sources import difficulty_source
from diq_hf.rows.formats import RowEncoder
from diq_hf.training import rescoring
from diq_hf.training.rescoring import TrainerScorer


WITH_TOOLS = (
    "{% if tools %}<|start|>tools\n{{ tools | tojson }}<|end|>\n{% endif %}"
    "{% for message in messages %}<|start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
TOOL = {
    "type": "function",
    "function": {
        "name": "dose",
        "description": "The dose of a drug.",
        "parameters": {"type": "object", "properties": {"drug": {"type": "string"}}},
    },
}


def says(rng, most):
    return " ".join(rng.choices(" ".join(SENTENCES).split(), k=rng.randint(2, most)))


def turns(rng, count):
    """A conversation whose assistant speaks so often."""
    made = [[("user", says(rng, 6)), ("assistant", says(rng, 9))] for _ in range(count)]
    return [{"role": role, "content": content} for pair in made for role, content in pair]


def rows_of(kind, count=12):
    rng = random.Random(0)
    rows = []
    for i in range(count):
        messages = turns(rng, 1 + i % 3)
        prompt, completion = says(rng, 6), " " + says(rng, 9)
        ids = make_tokenizer()(prompt + completion)["input_ids"]
        cut = len(ids) // 3
        rows.append(
            {
                "messages": {"messages": messages},
                "conversations": {
                    "conversations": [{"from": turn["role"], "value": turn["content"]} for turn in messages]
                },
                "prompt_completion": {"prompt": prompt, "completion": completion},
                "conversational": {"prompt": messages[:-1], "completion": messages[-1:]},
                "tools": {"messages": messages, "tools": json.dumps([TOOL])},
                "labels": {"input_ids": ids, "labels": [-100] * cut + ids[cut:]},
                "completion_mask": {"input_ids": ids, "completion_mask": [0] * cut + [1] * (len(ids) - cut)},
                "text": {"text": prompt + completion},
            }[kind]
        )
    return Dataset.from_list(rows)


# Rows, the settings of trainer and scorer, and arguments of the trainer alone.
FORMATS = {
    "messages": ("messages", {}, {}),
    "assistant_only": ("messages", {"assistant_only_loss": True}, {}),
    "cut_at_the_start": ("messages", {"max_length": 24, "truncation_mode": "keep_end"}, {}),
    "assistant_only_cut": (
        "messages",
        {"assistant_only_loss": True, "max_length": 30, "truncation_mode": "keep_end"},
        {},
    ),
    "conversations": ("conversations", {}, {}),
    "tools": ("tools", {"assistant_only_loss": True}, {}),
    "prompt_completion": ("prompt_completion", {}, {}),
    "trained_on_everything": ("prompt_completion", {"completion_only_loss": False}, {}),
    "formatting_func": (
        "prompt_completion",
        {"completion_only_loss": False},
        {"formatting_func": lambda row: row["prompt"] + row["completion"]},
    ),
    "conversational": ("conversational", {}, {}),
    "conversational_on_everything": ("conversational", {"completion_only_loss": False}, {}),
    "labels": ("labels", {}, {}),
    "completion_mask": ("completion_mask", {"completion_only_loss": True}, {}),
    "mask_not_trained_on": ("completion_mask", {}, {}),
    "mask_not_trained_on_cut": ("completion_mask", {"max_length": 22, "truncation_mode": "keep_end"}, {}),
    "dft": ("messages", {}, {"settings": {"loss_type": "dft"}}),
}


@pytest.mark.parametrize("source", ["ifd", "loss"])
@pytest.mark.parametrize("case", FORMATS)
def test_difficulty_is_that_of_the_scorer(case, source, tmp_path):
    kind, settings, arguments = FORMATS[case]
    arguments = dict(arguments)
    rows, tokenizer = rows_of(kind), make_tokenizer()
    if kind == "tools":
        tokenizer.chat_template = WITH_TOOLS
    whole = settings | arguments.pop("settings", {})
    trainer = sft_trainer(make_model(), tokenizer, rows, rows.select([0, 1]), tmp_path, settings=whole, **arguments)
    assert len(trainer.train_dataset) == len(rows)
    scorer = TrainerScorer(trainer, trainer.model, difficulty=difficulty_source(source))
    if case == "formatting_func":  # its text takes the EOS, and the completion goes without
        rows = rows.map(lambda row: {"text": row["prompt"] + row["completion"]})
    expected = DIQScorer(make_model(), rows.select([0, 1]), tokenizer, difficulty=source, **settings).score(rows)
    expected = np.array(expected["difficulty"][:])
    assert np.std(expected) > 1e-3
    for direction in (None, scorer.direction()):
        found = scorer.score(range(len(rows)), direction, difficulty_source(source))["difficulty"]
        assert np.allclose(found, expected, rtol=1e-5)


def test_text_has_no_answer(tmp_path):
    """Neither has what a formatting function makes: refused before anything is scored, with what to do."""
    text, plain = rows_of("text"), rows_of("prompt_completion").rename_columns({"prompt": "q", "completion": "a"})
    formatted = {"formatting_func": lambda row: row["q"] + row["a"]}
    for rows, arguments in ((text, {}), (plain, formatted)):
        trainer = sft_trainer(make_model(), make_tokenizer(), rows, rows, tmp_path, **arguments)
        for source in ("ifd", "loss"):
            with pytest.raises(
                ValueError, match=r"Training row 0: .* plain text, .*`DIQCallback\(difficulty='num_tok"
            ):
                TrainerScorer(trainer, trainer.model, difficulty=difficulty_source(source))
        given = arguments | {"settings": {"max_steps": 4}, "callbacks": [DIQCallback]}
        late = sft_trainer(make_model(), make_tokenizer(), rows, rows, tmp_path, **given)
        with pytest.raises(ValueError, match="plain text"):
            late.train()
        assert late.state.global_step == 0
        source = difficulty_source("num_tokens")
        scorer = TrainerScorer(trainer, trainer.model, difficulty=source)
        lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
        assert scorer.score(range(12), None, source)["difficulty"].tolist() == lengths
        # What the message advises trains.
        for callback in (DIQCallback(difficulty="num_tokens"), DIQCallback(strategy="influence")):
            given = arguments | {"settings": {"max_steps": 2}, "callbacks": [callback]}
            sft_trainer(make_model(), make_tokenizer(), rows, rows, tmp_path, **given).train()


class Fewer(SFTTrainer):
    """Trains on some of its rows, in an order of its own."""

    order = (7, 2, 10, 4)
    columns = ("input_ids", "labels")

    def get_train_dataloader(self):
        whole = self.train_dataset
        self.train_dataset = whole.select(self.order).select_columns(list(self.columns or whole.column_names))
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset = whole


class Reordered(Fewer):
    order = (11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)


def test_levels_of_a_class_label_are_what_their_names_say(tmp_path):
    """A source that reads a column gets the numbers of its names, not ids in alphabetical order."""
    rows = Dataset.from_list([row | {"level": f"{[10, 9][i % 2]}"} for i, row in enumerate(rows_of_chat(4))])
    rows = rows.class_encode_column("level")
    assert rows["level"][:] == [0, 1, 0, 1]
    source = difficulty_source("column:level")
    scorer = make_scorer("sft", rows, rows.select([0]), tmp_path, source)
    assert scorer.score(range(4), None, source)["difficulty"].tolist() == [10, 9, 10, 9]


def test_validation_rows_beyond_the_models_positions(tmp_path):
    """Refused before the first step, by what is too long, not by an index in the midst of training."""
    rows = Dataset.from_list(rows_of_chat(4))
    model = make_model("gpt2")
    with pytest.raises(
        ValueError, match=r"validation row is too long: it has \d+ tokens, .* 512 only.*`max_length=512`"
    ):
        make_scorer(
            "sft", rows, Dataset.from_list([chat("Why?", "word " * 300)]), tmp_path, model=model, max_length=900
        )


@pytest.mark.parametrize("own", [Fewer, Reordered])
@pytest.mark.parametrize("words", [False, True], ids=["tokens", "words"])
def test_words_are_those_of_the_loaders_rows(own, words, tmp_path):
    """A classifier reads the row that is trained, where the loader serves others than the trainer's dataset has."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=384, max_position_embeddings=256, initializer_range=1.0, id2label=dict(enumerate("123")), **sizes
    )
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "classifier")
    make_tokenizer().save_pretrained(tmp_path / "classifier")
    source = ClassifierDifficulty(str(tmp_path / "classifier"))
    rows = rows_of("conversational")

    class Trainer(own):
        columns = None if words else own.columns

    settings = {"remove_unused_columns": False}
    trainer = sft_trainer(
        make_model(), make_tokenizer(), rows, rows.select([0]), tmp_path, own=Trainer, settings=settings
    )
    scorer = TrainerScorer(trainer, trainer.model, difficulty=source)
    found = scorer.score(range(len(own.order)), None, source)["difficulty"]
    told = rows if words else trainer.train_dataset.select_columns(["input_ids", "labels"])  # or their tokens' text
    encoder = RowEncoder(make_tokenizer())
    texts = [source.prepare(told[row], encoder) for row in own.order]
    assert np.allclose(found, source.classifier(texts)["difficulty"].expected)
    assert len(set(texts)) == len(texts)


def test_chunks_change_nothing(tmp_path, monkeypatch):
    rows, validation = Dataset.from_list(rows_of_chat(11)), Dataset.from_list(rows_of_chat(5, seed=1))
    scorer = make_scorer("sft", rows, validation, tmp_path)
    source = difficulty_source("ifd")
    direction = scorer.direction()
    expected = scorer.score(range(11), direction, source)
    monkeypatch.setattr(rescoring, "CHUNK", 2)
    again = scorer.direction()
    assert np.isclose(again.loss, direction.loss) and again.num_rows == direction.num_rows == 5
    for name, tensor in direction.tensors.items():
        assert torch.allclose(again.tensors[name], tensor, rtol=1e-4, atol=1e-6)
    found = scorer.score(range(11), direction, source)
    assert set(found) == {"influence", "loss", "difficulty"}
    for name, values in expected.items():
        assert np.allclose(found[name], values, rtol=1e-4)


def test_two_processes(tmp_path):
    """They share scores as one process finds them, and the error of one ends both after the chunk it was in."""
    script = SUPPORT / "rescoring_processes.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", script, tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-5000:]
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    trainer = make_trainer(
        "sft", Dataset.from_list(rows_of_chat(13)), Dataset.from_list(rows_of_chat(3, seed=1)), tmp_path, None
    )
    scorer = TrainerScorer(about_to_train(trainer), trainer.model)
    direction = scorer.direction()
    expected = scorer.score(range(13), direction, difficulty_source("ifd"))
    for found in (first, second):
        assert np.isclose(found["direction"], direction.loss)
        assert np.allclose([found[name] for name in expected], list(expected.values()), rtol=1e-4)
    # Chunks of two rows: row 5 is in the second of four of the second process.
    assert "RowError: Training row 5: it is bad" in first["error"] and "Another process" in first["error"]
    assert second["error"].startswith("Training row 5: it is bad")
    assert first["asked"] == [0, 2, 4, 6] and second["asked"] == [1, 3, 5]
    assert "RuntimeError: out of rows" in first["lost"] and second["lost"] == "out of rows"
