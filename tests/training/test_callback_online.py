"""Influences that `DIQCallback` reads off the training itself: the callback's part in it."""

import numpy as np
import pytest
import torch
from conftest import make_model
from datasets import load_dataset
from peft import LoraConfig
from trainings import LORA, Recorder, hooks_of, make_trainer, weights_after
from transformers import TrainerCallback, TrainingArguments

from diq_hf import DIQCallback


pytest_plugins = "pools"


# Its name in newer and in older transformers.
FIELDS = TrainingArguments.__dataclass_fields__
RECOMPUTING = "activation_checkpointing" if "activation_checkpointing" in FIELDS else "gradient_checkpointing"
ONLINE = {
    "lora": {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj"])},
    "reentrant": {
        "peft_config": LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj"]),
        f"{RECOMPUTING}_kwargs": {"use_reentrant": True},
    },
    "full": {RECOMPUTING: False},
    "accumulation": {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 2},
    "padding_free": {"padding_free": True, "max_length": None},
    "trainer": {},
}


@pytest.mark.parametrize("case", ONLINE)
def test_online_influence_is_that_of_the_step(case, train_rows, eval_rows, tmp_path):
    """Without a step taken (learning rate 0, no dropout) the rows just trained have the influence they were scored."""
    kind = "trainer" if case == "trainer" else "sft"
    settings = {"max_steps": 4, "learning_rate": 0.0} | ONLINE[case]
    callback = DIQCallback(num_rows=24, online=True, rescore_every=None, strategy="influence")
    trainer = make_trainer(kind, train_rows, eval_rows, tmp_path, callback, **settings)
    recorder = Recorder()
    recorder.watch(trainer)
    read = {}

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            read.update(callback._run.online.influences)

    trainer.add_callback(Look())
    trainer.train()
    assert set(read) == {row for rows in recorder.steps for row in rows} and len(read) > 6
    history = load_dataset("parquet", data_files=f"{tmp_path}/diq/*.parquet", split="train").sort("row")
    expected = np.array(history["influence"][:])[list(read)]
    assert np.allclose(list(read.values()), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert not [hook for hook in hooks_of(trainer.model) if hook.__module__.startswith("diq_hf")]


@pytest.mark.parametrize("settings", [{}, {"peft_config": LORA, "bf16": True}], ids=["full", "lora_bf16"])
def test_online_leaves_no_trace(settings, train_rows, eval_rows, tmp_path):
    weights = []
    for online in (False, True):
        torch.manual_seed(0)
        callback = DIQCallback(num_rows=8, online=online, rescore_every=None)
        trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, callback, max_steps=6, **settings)
        weights.append(weights_after(trainer))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_online_run_resumed(train_rows, eval_rows, tmp_path):
    settings = {"max_steps": 16, "save_strategy": "steps", "save_steps": 3, "peft_config": LORA}

    def train(checkpoint=None):
        callback = DIQCallback(num_rows=6, online=True, candidates=2)
        trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, callback, **settings)
        recorder = Recorder()
        recorder.watch(trainer)
        trainer.train(resume_from_checkpoint=checkpoint)
        return recorder.steps, callback.saved["scores"]

    steps, scores = train()
    rest, again = train(str(tmp_path / "checkpoint-9"))
    assert rest == steps[9:] and again == scores


def test_online_is_refused(train_rows, eval_rows, preferences, tmp_path):
    with pytest.raises(ValueError, match="`report_only=True` does not"):
        DIQCallback(online=True, report_only=True)
    trainer = make_trainer("dpo", preferences, preferences, tmp_path, DIQCallback(online=True), max_steps=1)
    with pytest.raises(ValueError, match="knows no PreferenceOptimization"):
        trainer.train()
    trainer = make_trainer(
        "sft", train_rows, eval_rows, tmp_path, DIQCallback(online=True), max_steps=1, label_smoothing_factor=0.1
    )
    with pytest.raises(ValueError, match=r"label_smoothing_factor=0\.1 makes another"):
        trainer.train()


def test_interrupted_training_leaves_no_hooks(train_rows, eval_rows, tmp_path):
    callback = DIQCallback(num_rows=6, online=True)
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, callback, max_steps=3)

    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    trainer.add_callback(Interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.remove_callback(Interrupt)
    trainer.train()
    assert not [hook for hook in hooks_of(trainer.model) if hook.__module__.startswith("diq_hf")]


@pytest.mark.parametrize("moved", [False, True])
def test_online_run_resumed_into_another_folder(moved, train_rows, eval_rows, tmp_path, caplog):
    """The direction is looked for in the checkpoint that is resumed from, wherever it stands."""
    settings = {"save_strategy": "steps", "save_steps": 3, "peft_config": LORA, "max_steps": 8}

    def train(folder, checkpoint=None, **more):
        callback = DIQCallback(num_rows=8, online=True, rescore_every=2, candidates=2)
        trainer = make_trainer("sft", train_rows, eval_rows, folder, callback, **settings | more)
        trainer.train(resume_from_checkpoint=checkpoint)
        return callback.saved["scores"], trainer.model.state_dict()

    scores, weights = train(tmp_path / "whole")
    checkpoint, more = tmp_path / "whole" / "checkpoint-6", {}
    if moved:
        checkpoint = checkpoint.rename(tmp_path / "elsewhere")
        more = {"resume_from_checkpoint": str(checkpoint)}
    again, others = train(tmp_path / "again", str(checkpoint), **more)
    assert again == scores
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert "not the uninterrupted one" not in caplog.text
    (checkpoint / "diq_direction.safetensors").unlink()
    different, _ = train(tmp_path / "without", str(checkpoint), **more)
    assert different != scores and "not the uninterrupted one" in caplog.text


def test_a_torn_direction(train_rows, eval_rows, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "peft_config": LORA}
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, DIQCallback(num_rows=6, online=True), **settings)
    trainer.train()
    path = tmp_path / "checkpoint-2" / "diq_direction.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, DIQCallback(num_rows=6, online=True), **settings)
    with pytest.raises(ValueError, match=r"diq_direction\.safetensors.*torn"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_another_training_of_a_model_after_an_error_in_a_step(train_rows, eval_rows, tmp_path):
    """Raised in the middle of a backward pass; trainer and callback are still there when the next one begins."""

    def our_hooks():
        return [hook for hook in hooks_of(model) if hook.__module__.startswith("diq_hf")]

    model = make_model()
    trainer = make_trainer(
        "sft", train_rows, eval_rows, tmp_path, DIQCallback(num_rows=6, online=True), model, max_steps=3
    )

    class Break(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            raise RuntimeError("as if memory had run out")

    trainer.add_callback(Break)
    with pytest.raises(RuntimeError, match="memory"):
        trainer.train()
    assert our_hooks()  # nobody is told of the error
    callback = DIQCallback(num_rows=6)
    other = make_trainer("sft", train_rows, eval_rows, tmp_path, callback, model, max_steps=3)
    other.train()
    assert not our_hooks() and other.state.global_step == 3


def test_online_from_a_checkpoint_without(train_rows, eval_rows, tmp_path, caplog):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    make_trainer("sft", train_rows, eval_rows, tmp_path, DIQCallback(num_rows=6), **settings).train()
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, DIQCallback(num_rows=6, online=True), **settings)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert trainer.state.global_step == 4 and "diq_direction" not in caplog.text
