"""The loss that rows are scored by is the trainer's own, or the trainer is refused before its first step."""

import numpy as np
import pytest
import torch
from conftest import SIZES, VOCABULARY, make_model, make_tokenizer
from datasets import Dataset
from oracle import relative_error
from scipy.stats import spearmanr
from scored_trainers import about_to_train, make_scorer, own_influences, sft_trainer
from torch.nn.functional import cross_entropy
from trainings import LORA, PLAIN, make_trainer, rows_of_chat
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorWithFlattening,
    MixtralConfig,
    MixtralForCausalLM,
    Trainer,
    TrainingArguments,
)
from trl import DPOConfig, DPOTrainer, SFTTrainer

from diq_hf.training.rescoring import TrainerScorer


@pytest.fixture(scope="module")
def rows():
    return Dataset.from_list(rows_of_chat(20))


@pytest.fixture(scope="module")
def validation():
    return Dataset.from_list(rows_of_chat(4, seed=1))


@pytest.fixture(scope="module")
def pairs():
    made = zip(rows_of_chat(12), rows_of_chat(12, seed=2), strict=True)
    return Dataset.from_list(
        [{"prompt": a["prompt"], "chosen": a["completion"], "rejected": b["completion"]} for a, b in made]
    )


@pytest.fixture(scope="module")
def tokens():
    """Tokenized rows of many lengths."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 14, (12,), generator=draw).tolist()
    return [torch.randint(5, VOCABULARY, (length,), generator=draw).tolist() for length in lengths]


LOSSES = {
    "nll": ("sft", {}),
    "chunked_nll": ("sft", {"loss_type": "chunked_nll"}),
    "dft": ("sft", {"loss_type": "dft"}),
    "dft_smoothed": ("sft", {"loss_type": "dft", "label_smoothing_factor": 0.1}),  # which SFTTrainer leaves out
    "lora_dft": ("sft", {"loss_type": "dft", "peft_config": LORA}),
    "padding_free": ("sft", {"padding_free": True, "max_length": None, "pad_to_multiple_of": 16}),
    "tokens_across_devices": ("sft", {"average_tokens_across_devices": True}),
    "trainer": ("trainer", {}),
    "dpo": ("dpo", {}),
    "dpo_weighted": ("dpo", {"loss_weights": [0.3]}),
}


@pytest.mark.parametrize("case", LOSSES)
def test_influence_is_that_of_the_trainers_own_loss(case, rows, validation, pairs, tmp_path):
    kind, settings = LOSSES[case]
    data = (pairs, pairs.select(range(3))) if kind == "dpo" else (rows, validation)
    if kind == "dpo":  # away from the reference, where all pairs have the same loss
        settings = settings | {"model": make_model(seed=1)}
    scorer = make_scorer(kind, *data, tmp_path, **settings)
    if case == "lora_dft":
        with torch.no_grad():
            for name, parameter in scorer.trainer.model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
    influence, loss = own_influences(scorer)
    found = scorer.score(range(len(influence)), scorer.direction())
    assert relative_error(found["influence"], influence) < 1e-4
    assert spearmanr(found["influence"], influence)[0] > 0.999
    assert np.allclose(found["loss"], loss, rtol=1e-4)
    assert np.isclose(scorer.direction().loss, scorer.trainer.evaluate()["eval_loss"], rtol=0.2)


class Smoothed(SFTTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"][:, 1:].flatten()
        logits = model(input_ids=inputs["input_ids"]).logits[:, :-1].flatten(0, 1)
        return cross_entropy(logits, labels, label_smoothing=0.1)


class Counted(SFTTrainer):
    """The same loss, by a method of its own."""

    def compute_loss(self, *args, **kwargs):
        self.calls = getattr(self, "calls", 0) + 1
        return super().compute_loss(*args, **kwargs)


def mean_of_all(outputs, labels, num_items_in_batch=None):
    return outputs.logits.mean()


REFUSED = {
    "label_smoothing": ({"label_smoothing_factor": 0.1}, {}, r"label_smoothing_factor=0\.1 makes another"),
    "compute_loss_func": ({}, {"compute_loss_func": mean_of_all}, "compute_loss_func='mean_of_all' makes another"),
    "compute_loss": ({}, {"own": Smoothed}, "gradients differ from it.*Smoothed has a loss of its own"),
}


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_other_losses_are_refused(case, rows, validation, tmp_path):
    settings, arguments, message = REFUSED[case]
    trainer = sft_trainer(make_model(), make_tokenizer(), rows, validation, tmp_path, settings=settings, **arguments)
    with pytest.raises(ValueError, match=message):
        TrainerScorer(trainer, trainer.model)


def test_a_loss_type_to_come_is_refused(rows, validation, tmp_path):
    trainer = sft_trainer(make_model(), make_tokenizer(), rows, validation, tmp_path)
    trainer.args.loss_type = "focal"
    with pytest.raises(ValueError, match="loss_type='focal' makes another"):
        TrainerScorer(trainer, trainer.model)


def test_a_subclass_with_the_same_loss_is_taken(rows, validation, tmp_path):
    for settings in ({}, {"loss_type": "dft"}):
        trainer = sft_trainer(
            make_model(), make_tokenizer(), rows, validation, tmp_path, own=Counted, settings=settings
        )
        TrainerScorer(trainer, trainer.model)
        assert trainer.calls == 1 and trainer.model.training
        assert not any(parameter.grad is not None for parameter in trainer.model.parameters())


def test_a_preference_loss_of_ones_own_is_refused(pairs, tmp_path):
    class Mine(DPOTrainer):
        def compute_loss(self, *args, **kwargs):
            return 2 * super().compute_loss(*args, **kwargs)

    args = DPOConfig(**PLAIN, output_dir=str(tmp_path), per_device_train_batch_size=2)
    shared = {"train_dataset": pairs, "eval_dataset": pairs, "processing_class": make_tokenizer()}
    trainer = about_to_train(Mine(make_model(), make_model(), args=args, **shared))
    with pytest.raises(ValueError, match=r"Mine\.compute_loss='its own' makes another"):
        TrainerScorer(trainer, trainer.model)


def test_experts_are_scored_by_the_rest_of_the_loss(rows, validation, tmp_path, caplog):
    """The load-balancing loss belongs to the batch; without it the trainer's own loss is what is scored."""
    config = MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2, router_aux_loss_coef=0.5)
    torch.manual_seed(0)
    model = MixtralForCausalLM(config)
    trainer = sft_trainer(model, make_tokenizer(), rows, validation, tmp_path)
    scorer = TrainerScorer(trainer, model)
    assert "load-balancing loss" in caplog.text
    found = scorer.score(range(len(rows)), scorer.direction())["influence"]
    caplog.clear()
    settings = {"router_aux_loss_coef": 0.0}
    other = sft_trainer(model, make_tokenizer(), rows, validation, tmp_path, settings=settings)
    expected, _ = own_influences(TrainerScorer(other, model))
    assert "load-balancing" not in caplog.text
    assert relative_error(found, expected) < 1e-4


def plain_trainer(model, rows, folder, collate):
    args = TrainingArguments(**PLAIN, output_dir=str(folder), remove_unused_columns=False)
    rows = Dataset.from_list(rows)
    return about_to_train(Trainer(model, args, collate, rows, rows, make_tokenizer()))


def test_packs_are_refused(tokens, tmp_path):
    """`seq_lengths` begin the positions anew within a row, in a flat batch; elsewhere they change nothing."""
    parts = list(zip(tokens[::2], tokens[1::2], strict=True))
    packs = Dataset.from_list([{"input_ids": a + b, "seq_lengths": [len(a), len(b)]} for a, b in parts])
    settings = {"padding_free": True, "max_length": None}
    trainer = sft_trainer(make_model(), make_tokenizer(), packs, packs, tmp_path, settings=settings)
    with pytest.raises(ValueError, match=r"several rows in one.*Pass the rows unpacked"):
        TrainerScorer(trainer, trainer.model)
    trainer = sft_trainer(make_model(), make_tokenizer(), packs, packs, tmp_path)
    scorer = TrainerScorer(trainer, trainer.model)
    found = scorer.score(range(len(packs)), scorer.direction())
    assert np.allclose(found["loss"], own_influences(scorer)[1], rtol=1e-5)


def test_positions_of_ones_own_are_refused(tokens, tmp_path):
    rows = [{"input_ids": ids, "position_ids": list(range(len(ids)))} for ids in tokens]
    collate = DataCollatorForLanguageModeling(make_tokenizer(), mlm=False)
    trainer = plain_trainer(make_model(), rows, tmp_path, collate)
    scorer = TrainerScorer(trainer, trainer.model)
    found = scorer.score(range(12), scorer.direction())
    assert np.allclose(found["loss"], own_influences(scorer)[1], rtol=1e-5)
    rows[0]["position_ids"][2:] = range(len(tokens[0]) - 2)
    trainer = plain_trainer(make_model(), rows, tmp_path, collate)
    with pytest.raises(ValueError, match="Row 0 has `position_ids`"):
        TrainerScorer(trainer, trainer.model)


def test_masks_with_holes_are_refused(tokens, tmp_path):
    rows = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in tokens]
    rows[0]["attention_mask"][1] = 0
    trainer = plain_trainer(make_model(), rows, tmp_path, DataCollatorForLanguageModeling(make_tokenizer(), mlm=False))
    with pytest.raises(ValueError, match="Row 0 has an `attention_mask` with holes"):
        TrainerScorer(trainer, trainer.model)


def test_flat_batches(tokens, tmp_path):
    rows = [{"input_ids": ids, "labels": ids} for ids in tokens]
    trainer = plain_trainer(make_model(), rows, tmp_path, DataCollatorWithFlattening(return_flash_attn_kwargs=True))
    scorer = TrainerScorer(trainer, trainer.model)
    found = scorer.score(range(12), scorer.direction())
    influence, loss = own_influences(scorer)
    assert relative_error(found["influence"], influence) < 1e-4 and np.allclose(found["loss"], loss, rtol=1e-5)


class WithKeys:
    """A collator that adds keys of its own."""

    def __init__(self, **keys):
        self.collate, self.keys = DataCollatorForLanguageModeling(make_tokenizer(), mlm=False), keys

    def __call__(self, rows):
        batch = self.collate([{"input_ids": row["input_ids"]} for row in rows])
        return batch | {name: make(batch["input_ids"]) for name, make in self.keys.items()}


def test_other_keys_of_a_batch(tokens, tmp_path):
    """One that the model makes nothing of is passed over, one that changes the loss is refused by name."""
    rows = [{"input_ids": ids} for ids in tokens]
    types = WithKeys(token_type_ids=torch.zeros_like)
    trainer = plain_trainer(make_model("llama"), rows, tmp_path, types)
    scorer = TrainerScorer(trainer, trainer.model)
    found = scorer.score(range(12), scorer.direction())
    assert np.allclose(found["loss"], own_influences(scorer)[1], rtol=1e-5)
    # GPT-2 adds their embeddings to the tokens'.
    trainer = plain_trainer(make_model("gpt2"), rows, tmp_path, types)
    with pytest.raises(ValueError, match=r"its batches hold \['token_type_ids'\]"):
        TrainerScorer(trainer, trainer.model)
    # The same in a trainer whose loss is known by its class.
    trainer = sft_trainer(
        make_model("gpt2"),
        make_tokenizer(),
        Dataset.from_list(rows),
        Dataset.from_list(rows),
        tmp_path,
        data_collator=types,
    )
    with pytest.raises(ValueError, match=r"its batches hold \['token_type_ids'\]"):
        TrainerScorer(trainer, trainer.model)


def test_a_key_that_comes_later_is_refused(tokens, tmp_path):
    rows = [{"input_ids": ids} for ids in tokens]
    collate = WithKeys()
    trainer = plain_trainer(make_model(), rows, tmp_path, collate)
    scorer = TrainerScorer(trainer, trainer.model)
    collate.keys["shift_labels"] = torch.ones_like
    with pytest.raises(ValueError, match=r"batches hold \['shift_labels'\], and a row is scored without"):
        scorer.score([1], scorer.direction())


def test_other_keys_of_a_batch_of_pairs(pairs, tmp_path):
    trainer = make_trainer("dpo", pairs, pairs, tmp_path, None)
    collate = trainer.data_collator
    trainer.data_collator = lambda rows: collate(rows) | {"pixel_values": torch.zeros(2 * len(rows), 3)}
    with pytest.raises(ValueError, match=r"batches hold \['pixel_values'\], and a row is scored without"):
        TrainerScorer(about_to_train(trainer), trainer.model)


@pytest.mark.parametrize("peft_config", [None, LORA], ids=["full", "lora"])
def test_references_are_computed_once(peft_config, pairs, tmp_path):
    scorer = make_scorer("dpo", pairs, pairs.select(range(2)), tmp_path, peft_config=peft_config)
    trainer, calls = scorer.trainer, []
    reference = trainer.compute_ref_log_probs

    def counted(model, inputs):
        calls.append(len(inputs["input_ids"]) // 2)
        return reference(model, inputs)

    trainer.compute_ref_log_probs = counted
    direction = scorer.direction()
    first = scorer.score([4, 5, 6], direction)
    assert sum(calls) == 3
    whole = scorer.score(range(12), direction)
    assert sum(calls) == 12
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter += 0.01 * torch.randn_like(parameter)
    again = scorer.score([11, 5, 0], direction)
    assert sum(calls) == 12
    assert np.allclose(first["influence"], whole["influence"][[4, 5, 6]], rtol=1e-5)
    anew = TrainerScorer(trainer, trainer.model)
    expected = anew.score([11, 5, 0], direction)
    assert sum(calls) > 12
    for name in ("influence", "loss"):
        assert np.allclose(again[name], expected[name], rtol=1e-4)
    assert not np.allclose(again["loss"], whole["loss"][[11, 5, 0]], rtol=1e-3)


def test_references_of_a_subset(pairs, tmp_path):
    """Positions are those of the loader's rows, whatever the trainer's dataset has there."""
    trainer = make_trainer("dpo", pairs, pairs.select(range(2)), tmp_path, None, model=make_model(seed=1))
    whole = TrainerScorer(about_to_train(trainer), trainer.model)
    direction = whole.direction()
    expected = whole.score([9, 3, 7], direction)
    trainer.train_dataset = trainer.train_dataset.select([9, 3, 7])
    part = TrainerScorer(about_to_train(trainer), trainer.model)
    for _ in range(2):
        found = part.score(range(3), direction)
        assert np.allclose(found["loss"], expected["loss"], rtol=1e-5)
