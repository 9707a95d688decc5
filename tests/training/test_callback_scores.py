"""The scores that `DIQCallback` chooses by, against other ways to get them, and what scoring leaves behind."""

import random

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer
from datasets import load_dataset
from trainings import LORA, Recorder, make_trainer, selections, weights_after
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback

from diq_hf import ClassifierDifficulty, DIQCallback, DIQScorer, QuadrantRule, select_subset
from diq_hf.training.history import unpack


pytest_plugins = "pools"


def test_first_selection_is_what_select_subset_takes(train_rows, eval_rows, tmp_path):
    """Of the pool that DIQScorer scores, and of columns that are there already."""
    tokenizer = make_tokenizer()
    scored = train_rows.map(DIQScorer(make_model(), eval_rows, tokenizer), batched=True)
    expected = set(select_subset(scored, num_rows=5)["number"])
    for rows in (train_rows, scored):
        trainer = make_trainer(
            "sft", rows, eval_rows, tmp_path, DIQCallback(num_rows=5, rescore_every=None), max_steps=1
        )
        trainer.train()
        assert selections(tmp_path) == {0: expected}
    (line,) = [line for line in trainer.state.log_history if "diq/seconds" in line]
    assert line["diq/seconds"] == 0  # nothing was left to score


def test_difficulty_of_a_classifier(train_rows, eval_rows, tmp_path):
    """It reads the words, not the template's."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=384, max_position_embeddings=64, initializer_range=1.0, id2label=dict(enumerate("123")), **sizes
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "classifier")
    make_tokenizer().save_pretrained(tmp_path / "classifier")
    classifier = ClassifierDifficulty(str(tmp_path / "classifier"))
    scorer = DIQScorer(make_model(), eval_rows, make_tokenizer(), difficulty=classifier)
    expected = train_rows.map(scorer, batched=True)["difficulty"][:]
    callback = DIQCallback(num_rows=5, rescore_every=None, difficulty=classifier)
    make_trainer("sft", train_rows, eval_rows, tmp_path, callback, max_steps=1).train()
    history = load_dataset("parquet", data_files=f"{tmp_path}/diq/*.parquet", split="train")
    assert np.allclose(history["difficulty"][:], expected, rtol=1e-5) and np.std(expected) > 1e-3


@pytest.mark.parametrize("peft_config", [None, LORA])
def test_influence_in_mid_training_is_that_of_the_checkpoint(peft_config, train_rows, eval_rows, tmp_path):
    trainer = make_trainer(
        "sft",
        train_rows,
        eval_rows,
        tmp_path,
        DIQCallback(num_rows=8, candidates=None, rescore_every=5, rescore_unit="steps"),
        max_steps=7,
        save_strategy="steps",
        save_steps=5,
        peft_config=peft_config,
    )
    folder = tmp_path / "base"
    if peft_config is not None:  # an adapter names its base model
        make_model().save_pretrained(folder)
        trainer.model.peft_config["default"].base_model_name_or_path = str(folder)
    trainer.train()
    history = load_dataset("parquet", data_files=f"{tmp_path}/diq/step-00000005.parquet", split="train")
    scorer = DIQScorer(
        str(tmp_path / "checkpoint-5"), eval_rows, make_tokenizer(), model_init_kwargs={"dtype": "float32"}
    )
    expected = train_rows.map(scorer, batched=True)
    found = history.sort("row")
    assert np.allclose(found["influence"][:], expected["influence"][:], rtol=1e-5)
    assert np.linalg.norm(found["influence"][:]) > 1e-3
    rule = QuadrantRule.fit(found)
    assert found["quadrant"][:] == [
        ["Q1", "Q2", "Q3", "Q4"].index(name) for name in rule.quadrants(found["difficulty"][:], found["influence"][:])
    ]


def test_preference_influence_against_autograd(preferences, tmp_path):
    """Row by row, through the trainer's own loss: its gradient times the mean gradient of the validation rows."""
    validation = preferences.select([3, 9])
    trainer = make_trainer(
        "dpo",
        preferences,
        validation,
        tmp_path,
        DIQCallback(num_rows=4, candidates=None, rescore_every=4, rescore_unit="steps"),
        max_steps=5,
        beta=0.3,
    )
    oracle = {}

    class Oracle(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            if state.global_step != 4:
                return
            names = ("q_proj", "k_proj", "v_proj")
            phi = [module.weight for name, module in model.named_modules() if name.endswith(names)]
            model.eval()

            def gradient(row):
                loss = trainer.compute_loss(model, trainer.data_collator([row]))
                return torch.autograd.grad(loss, phi)

            mean = [sum(parts) / 2 for parts in zip(*(gradient(row) for row in trainer.eval_dataset), strict=True)]
            oracle["influence"] = [
                float(sum((a.double() * b.double()).sum() for a, b in zip(gradient(row), mean, strict=True)))
                for row in trainer.train_dataset
            ]
            model.train()

    trainer.callback_handler.callbacks.insert(0, Oracle())
    trainer.train()
    history = load_dataset("parquet", data_files=f"{tmp_path}/diq/step-00000004.parquet", split="train").sort("row")
    assert np.allclose(history["influence"][:], oracle["influence"], rtol=1e-4, atol=1e-6)
    assert np.std(oracle["influence"]) > 1e-3


def test_two_kinds_of_validation(train_rows, eval_rows, tmp_path):
    """A dict of evaluation sets counts by rows; `validation` goes before them."""
    halves = {"a": eval_rows.select(range(2)), "b": eval_rows.select(range(2, 5))}
    found = []
    for validation, rows in ((halves, None), (None, list(eval_rows)), (eval_rows.select([0]), eval_rows)):
        callback = DIQCallback(num_rows=4, validation=rows, rescore_every=None)
        make_trainer("sft", train_rows, validation, tmp_path, callback, max_steps=1).train()
        history = load_dataset("parquet", data_files=f"{tmp_path}/diq/*.parquet", split="train")
        found.append(history["influence"][:])
    assert np.allclose(found[0], found[1], rtol=1e-5) and np.allclose(found[0], found[2], rtol=1e-5)


def test_max_validation_rows(train_rows, eval_rows, tmp_path):
    callback = DIQCallback(num_rows=4, max_validation_rows=2, rescore_every=None)
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, callback, max_steps=1)
    counted = []
    real = type(callback).on_step_end

    def look(*args, **kwargs):
        counted.append(len(callback._run.scorer.validation))
        return real(callback, *args, **kwargs)

    callback.on_step_end = look
    trainer.train()
    assert counted == [2]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"peft_config": LORA, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"peft_config": LORA, "gradient_checkpointing": False, "bf16": True},
        {"gradient_accumulation_steps": 2, "dataloader_num_workers": 2, "bf16": True},
    ],
    ids=["full", "lora_reentrant", "lora_bf16", "accumulation_workers"],
)
def test_scoring_leaves_no_trace(settings, train_rows, eval_rows, tmp_path):
    """Report-only: weights, losses and the generators' states are those of a run without the callback."""
    results = []
    for callback in (None, DIQCallback(report_only=True, rescore_every=2, rescore_unit="steps", candidates=None)):
        torch.manual_seed(0)
        trainer = make_trainer(
            "sft", train_rows, eval_rows, tmp_path, callback, max_steps=6, logging_steps=1, **settings
        )
        weights = weights_after(trainer)
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        draws = torch.rand(1).item(), np.random.rand(), random.random()
        results.append((weights, losses, draws))
        assert len(losses) == 6
    assert sorted(selections(tmp_path)) == [0, 2, 4]
    (first, *rest), (second, *others) = results
    assert rest[0][-1] != rest[0][0]  # something was learned
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert rest == others


class Spoiler(TrainerCallback):
    """Spoils a weight while rows are scored after some steps, and mends it."""

    def __init__(self, trainer, steps):
        self.weight, self.steps = trainer.model.lm_head.weight.data, steps
        trainer.callback_handler.callbacks.insert(0, self)

        class Mender(TrainerCallback):
            def on_step_end(mender, args, state, control, **kwargs):
                if state.global_step in self.steps:
                    self.weight[0, 0] = self.kept

        trainer.add_callback(Mender())

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in self.steps:
            self.kept = self.weight[0, 0].clone()
            self.weight[0, 0] = float("nan")


@pytest.mark.parametrize("online", [False, True])
def test_a_loss_that_is_not_finite_in_mid_training(online, train_rows, eval_rows, tmp_path, caplog):
    """The selection is kept, with a warning, and the next scoring changes it."""
    callback = DIQCallback(num_rows=6, candidates=None, rescore_every=3, rescore_unit="steps", online=online)
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, callback, max_steps=9)
    Spoiler(trainer, [3])
    recorder = Recorder()
    recorder.watch(trainer)
    trainer.train()
    chosen = selections(tmp_path)
    assert sorted(chosen) == [0, 6] and len(recorder.steps) == 9
    assert {row for rows in recorder.steps[:7] for row in rows} == chosen[0]
    assert "after step 3" in caplog.text and "has a loss of nan" in caplog.text
    assert np.isfinite(unpack(callback.saved["scores"]["influence"])).all()


def test_a_first_selection_that_cannot_be_scored_waits(train_rows, eval_rows, tmp_path, caplog):
    callback = DIQCallback(num_rows=4, candidates=None, rescore_every=None, warmup_ratio=0.25)
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, callback, max_steps=8)
    Spoiler(trainer, [2])
    trainer.train()
    assert sorted(selections(tmp_path)) == [4] and trainer.state.global_step == 8
    assert "after step 2" in caplog.text


def test_rows_without_a_finite_influence_in_mid_training(train_rows, eval_rows, tmp_path, caplog):
    """The validation rows' loss is finite, and nothing else: fp16 gradients overflow like this."""
    callback = DIQCallback(num_rows=4, candidates=None, rescore_every=2, rescore_unit="steps")
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, callback, max_steps=5)

    class Overflow(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            direction = type(callback._run.scorer).direction

            def overflowing():
                found = direction(callback._run.scorer)
                for tensor in found.tensors.values():
                    tensor.fill_(float("inf"))
                return found

            callback._run.scorer.direction = overflowing

    trainer.callback_handler.callbacks.insert(0, Overflow())
    trainer.train()
    assert sorted(selections(tmp_path)) == [0] and trainer.state.global_step == 5
    assert "None of 24 rows has a finite influence" in caplog.text
    assert np.isfinite(unpack(callback.saved["scores"]["influence"])).all()


def test_a_loss_that_is_not_finite_at_the_start(train_rows, eval_rows, tmp_path):
    model = make_model()
    model.lm_head.weight.data[0, 0] = float("nan")
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, DIQCallback(num_rows=4), model, max_steps=2)
    with pytest.raises(ValueError, match=r"the parameter 'lm_head.weight' is not finite"):
        trainer.train()
    assert trainer.state.global_step == 0
