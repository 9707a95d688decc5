"""How long a training with `DIQCallback` is, and that its learning rate falls over just these steps."""

import copy

import pytest
import torch
from conftest import make_model, make_tokenizer
from trainings import PLAIN, Recorder, make_trainer
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from diq_hf import DIQCallback


pytest_plugins = "pools"

PRESCORED = {"rescore_every": None, "strategy": "length"}  # nothing to score


class Rates(TrainerCallback):
    """The learning rate that each step was taken with, and the end of a training that needs no more."""

    def __init__(self, stop_at=None):
        self.seen, self.stop_at = [], stop_at

    def on_pre_optimizer_step(self, args, state, control, optimizer, **kwargs):
        self.seen.append(optimizer.param_groups[0]["lr"])

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step == self.stop_at


def test_budgets(train_rows, eval_rows, tmp_path):
    def steps(callback, **settings):
        trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, callback, **settings)
        trainer.add_callback(Rates(stop_at=1))
        before = copy.copy(vars(trainer.args))
        trainer.train()
        assert vars(trainer.args) == before
        return trainer.state.max_steps

    assert steps(DIQCallback(ratio=0.25, **PRESCORED), num_train_epochs=2) == 6
    assert steps(DIQCallback(ratio=0.25, budget="pool", **PRESCORED), num_train_epochs=2) == 24
    assert steps(DIQCallback(report_only=True, **PRESCORED), num_train_epochs=2) == 24
    assert steps(DIQCallback(ratio=0.25, **PRESCORED), max_steps=50) == 50
    assert steps(DIQCallback(ratio=1.0, **PRESCORED), num_train_epochs=0.3) == 4


def test_one_args_for_several_trainers(train_rows, eval_rows, tmp_path):
    """In any order of making and training; a trainer without the callback is not shortened."""
    args = SFTConfig(**PLAIN, output_dir=str(tmp_path), per_device_train_batch_size=2, num_train_epochs=1)
    shared = {"train_dataset": train_rows, "eval_dataset": eval_rows, "processing_class": make_tokenizer()}
    callbacks = [[DIQCallback(ratio=0.5, **PRESCORED)], [DIQCallback(ratio=0.25, **PRESCORED)], []]
    trainers = [SFTTrainer(make_model(), args, callbacks=given, **shared) for given in callbacks]
    for order in ((2, 0, 1), (1, 0, 2)):  # and each of them twice
        for i in order:
            trainers[i].train()
            assert trainers[i].state.global_step == [6, 3, 12][i]
    assert all(trainer.args is args for trainer in trainers) and args.max_steps == -1


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_what_the_trainer_writes_to_its_arguments_is_kept(kind, train_rows, eval_rows, preferences, tmp_path):
    """`SFTTrainer` and `DPOTrainer` go on to change the arguments after the callback has seen them."""

    def finish(callbacks):
        shared = {"processing_class": make_tokenizer(), "callbacks": callbacks}
        if kind == "sft":

            class Trainer(SFTTrainer):
                def __init__(self, model, args, **kwargs):
                    super().__init__(model, args, **kwargs)
                    args.liger_kernel_config = {"fused_linear_cross_entropy": False}

            config = SFTConfig(**PLAIN, output_dir=str(tmp_path))
            return Trainer(make_model(), config, train_dataset=train_rows, eval_dataset=eval_rows, **shared)

        class Trainer(DPOTrainer):
            def __init__(self, model, args, **kwargs):
                super().__init__(model, args=args, **kwargs)
                args.liger_kernel_config = {"fused_linear_cross_entropy": False}

        config = DPOConfig(**PLAIN, output_dir=str(tmp_path))
        shared |= {"train_dataset": preferences, "eval_dataset": preferences, "ref_model": make_model()}
        return Trainer(make_model(), config, **shared)

    assert finish([DIQCallback]).args.liger_kernel_config == {"fused_linear_cross_entropy": False}


@pytest.mark.parametrize("schedule", ["linear", "cosine", "reduce_lr_on_plateau"])
def test_learning_rate_is_that_of_as_many_steps(schedule, train_rows, eval_rows, tmp_path):
    """A training of 9 planned steps has the rates of one with `max_steps=9`, and so has a resumed one."""
    settings = {"lr_scheduler_type": schedule, "warmup_steps": 0.3, "save_strategy": "steps", "save_steps": 4}
    settings |= {"logging_steps": 0.5, "num_train_epochs": 3}
    if schedule == "reduce_lr_on_plateau":
        settings |= {"eval_strategy": "steps", "eval_steps": 3, "lr_scheduler_kwargs": {"mode": "max", "patience": 0}}

    def train(callback, checkpoint=None, **more):
        torch.manual_seed(0)
        trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, callback, **settings | more)
        trainer.add_callback(rates := Rates())
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer, rates.seen

    given, expected = train(DIQCallback(num_rows=6, **PRESCORED), max_steps=9)
    planned, found = train(DIQCallback(num_rows=6, **PRESCORED))
    assert found == expected and len(found) == 9 and len(set(found)) > 1
    for name in ("max_steps", "num_train_epochs", "logging_steps", "global_step", "epoch"):
        assert getattr(planned.state, name) == getattr(given.state, name), name
    assert all(torch.equal(a, b) for a, b in zip(planned.model.parameters(), given.model.parameters(), strict=True))
    _, rest = train(DIQCallback(num_rows=6, **PRESCORED), str(tmp_path / "checkpoint-4"))
    assert rest == found[4:]


def test_throughput_is_that_of_a_training_that_ends_early(train_rows, eval_rows, tmp_path):
    """The trainer takes the share of its own plan that was trained (up to some version, all of its plan)."""
    samples = []
    for callback, stop_at in ((None, 6), (DIQCallback(num_rows=4, **PRESCORED), None)):
        trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, callback, num_train_epochs=3)
        trainer.add_callback(Rates(stop_at))
        metrics = trainer.train().metrics
        assert trainer.state.global_step == 6
        samples.append(metrics["train_samples_per_second"] * metrics["train_runtime"])
    assert samples[1] == pytest.approx(samples[0], rel=0.05)


def test_a_schedule_of_the_users_is_left(train_rows, eval_rows, tmp_path):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    trainer = SFTTrainer(
        model,
        SFTConfig(**PLAIN, output_dir=str(tmp_path), per_device_train_batch_size=2, num_train_epochs=1),
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=make_tokenizer(),
        optimizers=(optimizer, schedule),
        callbacks=[DIQCallback(num_rows=6, **PRESCORED), rates := Rates()],
    )
    trainer.train()
    assert trainer.lr_scheduler is schedule and rates.seen == [1e-3, 5e-4, 2.5e-4]


def test_arguments_that_change_are_followed(train_rows, eval_rows, tmp_path):
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, DIQCallback(num_rows=4, **PRESCORED))
    trainer.args.num_train_epochs = 10
    recorder = Recorder()
    recorder.watch(trainer)
    trainer.train()
    assert trainer.state.global_step == len(recorder.steps) == 20
    trainer.args.max_steps = 3
    trainer.train()
    assert trainer.state.global_step == 3


def test_checkpoint_beyond_the_plan(train_rows, eval_rows, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 3, "num_train_epochs": 1}
    make_trainer("sft", train_rows, eval_rows, tmp_path, None, **settings).train()
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, DIQCallback(num_rows=4, **PRESCORED), **settings)
    with pytest.raises(ValueError, match=r"checkpoint is at step 6, and 2 steps are planned.*budget='pool'"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
