"""A training with `DIQCallback` that is resumed, against the one that was not interrupted."""

import copy
import gc
import json
import pickle
import weakref

import pytest
import torch
from conftest import make_model
from trainings import LORA, Recorder, check_only_chosen_rows_were_trained, make_trainer, selections
from transformers import TrainerCallback

from diq_hf import DIQCallback


pytest_plugins = "pools"


@pytest.mark.parametrize("restore", [False, True])
@pytest.mark.parametrize("at", [5, 12, 13])
def test_resumed_run_is_the_uninterrupted_one(at, restore, train_rows, eval_rows, tmp_path):
    """In mid-epoch, at an epoch's end and just before a scoring; the pool has 12 steps an epoch."""

    def train(folder, checkpoint=None):
        trainer = make_trainer(
            "sft",
            train_rows,
            None,
            folder,
            DIQCallback(num_rows=6, validation=eval_rows, rescore_every=1, candidates=3, warmup_ratio=0.1),
            max_steps=20,
            save_strategy="steps",
            save_steps=1,
            peft_config=LORA,
            restore_callback_states_from_checkpoint=restore,
        )
        recorder = Recorder()
        recorder.watch(trainer)
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer, recorder.steps

    whole, steps = train(tmp_path / "whole")
    again, rest = train(tmp_path / "again", str(tmp_path / "whole" / f"checkpoint-{at}"))
    assert rest == steps[at:]
    state, other = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(state[name], other[name]) for name in state)
    expected = selections(tmp_path / "whole")
    assert len(expected) == 3
    assert selections(tmp_path / "again") == {step: rows for step, rows in expected.items() if step > at}


def test_added_at_the_resume(train_rows, eval_rows, tmp_path):
    settings = {"max_steps": 20, "save_strategy": "steps", "save_steps": 5}
    make_trainer("sft", train_rows, eval_rows, tmp_path, None, **settings | {"max_steps": 5}).train()
    callback = DIQCallback(num_rows=4, candidates=None, rescore_every=3)
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, callback, **settings)
    recorder = Recorder()
    recorder.watch(trainer)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    chosen = {step - 5: rows for step, rows in selections(tmp_path).items()}
    check_only_chosen_rows_were_trained(recorder, chosen, 1)
    # The next checkpoint holds its state, and a third run goes on from there.
    state = json.loads((tmp_path / "checkpoint-15" / "trainer_state.json").read_text())
    saved = state["stateful_callbacks"]["DIQCallback"]["attributes"]["saved"]
    assert saved["last_step"] == max(step for step in selections(tmp_path) if step <= 15)
    callback = DIQCallback(num_rows=4, candidates=None, rescore_every=3)
    trainer = make_trainer(
        "sft", train_rows, eval_rows, tmp_path, DIQCallback(num_rows=4, candidates=None, rescore_every=3), **settings
    )
    other = Recorder()
    other.watch(trainer)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-15"))
    assert other.steps == recorder.steps[10:]


def test_another_pool_at_the_resume(train_rows, eval_rows, tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    callback = DIQCallback(candidates=None, rescore_unit="steps")
    make_trainer("sft", train_rows, eval_rows, tmp_path, callback, **settings).train()
    trainer = make_trainer("sft", train_rows.select(range(20)), eval_rows, tmp_path, DIQCallback(), **settings)
    with pytest.raises(ValueError, match="chose among 24 rows and the trainer has 20"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert sorted(selections(tmp_path)) == [0, 1, 2, 3]  # what was refused has removed nothing


@pytest.mark.parametrize("change", [{"ignore_data_skip": True}, {"per_device_train_batch_size": 1}])
def test_resumed_at_other_positions(change, train_rows, eval_rows, tmp_path):
    """The checkpoint's selection goes on, wherever the trainer starts to read."""
    settings = {"max_steps": 12, "save_strategy": "steps", "save_steps": 3}
    callback = {"num_rows": 4, "candidates": None, "rescore_every": 3, "rescore_unit": "steps"}
    make_trainer("sft", train_rows, eval_rows, tmp_path, DIQCallback(**callback), **settings).train()
    chosen = selections(tmp_path)
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, DIQCallback(**callback), **settings | change)
    recorder = Recorder()
    recorder.watch(trainer)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert {row for rows in recorder.steps[:3] for row in rows} <= chosen[6]
    assert sorted(selections(tmp_path)) == [0, 3, 6, 9]


def test_abandoned_steps_leave_the_history(train_rows, eval_rows, tmp_path):
    settings = {"max_steps": 10, "save_strategy": "steps", "save_steps": 4}
    for every, checkpoint in ((3, None), (5, "checkpoint-4")):
        callback = DIQCallback(num_rows=4, candidates=None, rescore_every=every, rescore_unit="steps")
        trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, callback, **settings)
        trainer.train(resume_from_checkpoint=checkpoint and str(tmp_path / checkpoint))
    assert sorted(selections(tmp_path)) == [0, 3, 8]


def test_a_callback_made_from_a_checkpoint_finds_its_trainer(train_rows, eval_rows, tmp_path):
    """By the trainer's state: events carry no trainer, and other trainers of the same model are there, too."""
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    classes = {"restore_callback_states_from_checkpoint": True}
    given = {"num_rows": 4, "difficulty": "loss", "validation": list(eval_rows)}
    make_trainer("sft", train_rows, None, tmp_path / "a", DIQCallback(**given), **settings).train()
    model = make_model()
    trainers = [
        make_trainer("sft", train_rows, None, tmp_path / name, DIQCallback(**given), model, **settings | classes)
        for name in ("b", "c", "d")
    ]
    trainers[1].train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    (callback,) = [c for c in trainers[1].callback_handler.callbacks if isinstance(c, DIQCallback)]
    assert callback.settings.validation == given["validation"] and callback.settings.difficulty == "loss"
    assert sorted(path.name for path in tmp_path.glob("*/diq")) == ["diq", "diq"]  # of "a" and "c"
    assert (tmp_path / "c" / "diq").exists()


def test_callbacks_are_copied_and_pickled(train_rows, eval_rows, tmp_path):
    """Without the training they are in; the copy is another trainer's."""
    callback, copies = DIQCallback(num_rows=4), []

    class Copy(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            copies.extend([copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))])

    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, callback, max_steps=1)
    trainer.add_callback(Copy())
    trainer.train()
    for other in copies:
        assert other.settings == callback.settings
        trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, other, max_steps=1)
        trainer.train()
        assert trainer.state.global_step == 1


def test_an_interrupted_trainer_is_not_kept(train_rows, eval_rows, tmp_path):
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, DIQCallback(num_rows=4, online=True), max_steps=3)
    model = trainer.model

    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    trainer.add_callback(Interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    reference = weakref.ref(trainer)
    del trainer
    gc.collect()
    assert reference() is None and model is not None
