"""Which rows `DIQCallback` makes a trainer train on, and what it scores for that.

The rows of a batch are told by their tokens, read off the model's own inputs, so nothing here trusts the sampler.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
from datasets import load_dataset
from trainings import LORA, Recorder, check_only_chosen_rows_were_trained, make_trainer, selections

from diq_hf import DIQCallback


pytest_plugins = "pools"


CASES = {
    "sft": ("sft", {}, 1),
    "lora": ("sft", {"peft_config": LORA}, 1),
    "accumulation": ("sft", {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}, 1),
    "workers": ("sft", {"dataloader_num_workers": 2, "num_train_epochs": 8}, 5),
    "group_by_length": ("sft", {"train_sampling_strategy": "group_by_length"}, 1),
    "padding_free": ("sft", {"padding_free": True, "max_length": None}, 1),
    "dpo": ("dpo", {"peft_config": LORA}, 1),
    "dpo_precomputed": ("dpo", {"precompute_ref_log_probs": True}, 1),
    "trainer": ("trainer", {}, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_only_chosen_rows_are_trained(case, train_rows, eval_rows, preferences, tmp_path):
    kind, settings, lag = CASES[case]
    settings = {"num_train_epochs": 4, "logging_steps": 1} | settings
    rows, validation = (preferences, preferences.select(range(3))) if kind == "dpo" else (train_rows, eval_rows)
    # Rows without a prompt of their own have no IFD.
    chosen_by = {"strategy": "influence"} if kind == "trainer" else {}
    callback = DIQCallback(num_rows=6, candidates=None, rescore_every=2 if case != "workers" else 4, **chosen_by)
    trainer = make_trainer(kind, rows, validation, tmp_path, callback, **settings)
    planned = math.ceil(settings["num_train_epochs"] * 6 / 2)
    recorder = Recorder()
    recorder.watch(trainer)
    trainer.train()
    assert trainer.state.global_step == trainer.state.max_steps == len(recorder.steps) == planned
    assert all(len(rows) == 2 for rows in recorder.steps)
    assert set(trainer.lr_scheduler.get_last_lr()) == {0.0}
    check_only_chosen_rows_were_trained(recorder, selections(tmp_path), lag)
    lines = [line for line in trainer.state.log_history if "diq/scored" in line]
    assert [line["step"] for line in lines] == sorted(selections(tmp_path))
    assert all(0 < line["diq/share_of_time"] < 1 for line in lines)
    if kind != "trainer":
        assert sum(lines[-1][f"diq/Q{i}"] for i in range(1, 5)) == lines[-1]["diq/scored"] == len(rows)
    # A log line of ours neither replaces the trainer's own nor empties what SFTTrainer averages into it.
    losses = [line for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == planned
    if kind == "sft":
        assert all("mean_token_accuracy" in line for line in losses)


def test_the_class_itself(train_rows, eval_rows, tmp_path):
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, DIQCallback, num_train_epochs=30)
    recorder = Recorder()
    recorder.watch(trainer)
    trainer.train()
    assert trainer.state.max_steps == 30  # a tenth of 24 rows is 2
    assert {len(chosen) for chosen in selections(tmp_path).values()} == {2}
    assert (tmp_path / "diq" / "quadrants.png").read_bytes().startswith(b"\x89PNG")
    scored = [line["diq/scored"] for line in trainer.state.log_history if "diq/scored" in line]
    assert scored[0] == 24 and len(scored) > 2 and max(scored[1:]) <= 8  # candidates: four times the selection


def test_pool_budget_passes_over_the_selection(train_rows, eval_rows, tmp_path):
    callback = DIQCallback(num_rows=4, budget="pool", rescore_every=None)
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, callback, num_train_epochs=1)
    recorder = Recorder()
    recorder.watch(trainer)
    trainer.train()
    assert len(recorder.steps) == 12 and trainer.state.epoch == 1
    counts = np.bincount([row for rows in recorder.steps for row in rows])
    assert sorted(counts[counts > 0]) == [6, 6, 6, 6]


def test_warm_up_on_the_whole_pool(train_rows, eval_rows, tmp_path):
    callback = DIQCallback(num_rows=2, warmup_ratio=0.5, rescore_every=None)
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, callback, max_steps=20)
    recorder = Recorder()
    recorder.watch(trainer)
    trainer.train()
    assert list(selections(tmp_path)) == [10]
    assert len({row for rows in recorder.steps[:10] for row in rows}) == 20
    assert {row for rows in recorder.steps[11:] for row in rows} == selections(tmp_path)[10]


@pytest.mark.parametrize("strategy", ["random", "influence", "difficulty", "loss", "length"])
def test_strategies(strategy, train_rows, eval_rows, tmp_path):
    callback = DIQCallback(num_rows=4, strategy=strategy, candidates=None)
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, callback, num_train_epochs=3)
    trainer.train()
    chosen = selections(tmp_path)
    assert all(len(rows) == 4 for rows in chosen.values())
    assert len(chosen) == (1 if strategy in ("difficulty", "length") else 3)  # which training does not change
    if strategy == "random":
        assert len({tuple(sorted(rows)) for rows in chosen.values()}) > 1
    if strategy == "length":
        lengths = [len(row["input_ids"]) for row in trainer.train_dataset]
        assert min(lengths[row] for row in chosen[0]) >= sorted(lengths)[-4]


def test_scoring_never_costs_more_than_the_training_before_it(train_rows, eval_rows, tmp_path):
    callback = DIQCallback(num_rows=4, candidates=4)
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, callback, num_train_epochs=12, peft_config=LORA)
    trainer.train()
    history = load_dataset("parquet", data_files=f"{tmp_path}/diq/*.parquet", split="train")
    lengths = np.array([len(row["input_ids"]) for row in trainer.train_dataset])
    validation = sum(len(row["input_ids"]) for row in trainer.eval_dataset)
    chosen = selections(tmp_path)
    steps = sorted(chosen)
    assert len(steps) > 2
    for before, step in pairwise(steps):
        rows = [row["row"] for row in history if row["step"] == step]
        trained = (step - before) * 2 * np.mean([lengths[row] for row in chosen[before]])
        assert 5 <= len(rows) <= 16 and chosen[before] <= set(rows)
        assert lengths[rows].sum() + validation <= 1.5 * trained  # three passes a trained token, two a scored one


def test_never_scored_again_is_said(train_rows, eval_rows, tmp_path, caplog):
    callback = DIQCallback(num_rows=2)
    make_trainer("sft", train_rows, eval_rows, tmp_path, callback, num_train_epochs=2, peft_config=LORA).train()
    assert list(selections(tmp_path)) == [0] and "never scored again" in caplog.text


def test_more_rows_than_there_are(train_rows, eval_rows, tmp_path, caplog):
    with pytest.raises(ValueError, match="`num_rows` is 25 and the training set has 24"):
        make_trainer("sft", train_rows, eval_rows, tmp_path, DIQCallback(num_rows=25))
    scored = train_rows.add_column("difficulty", [1.0] * 24).add_column("influence", [1.0, 2.0, 3.0] + [None] * 21)
    callback = DIQCallback(num_rows=6, rescore_every=None)
    make_trainer("sft", scored, eval_rows, tmp_path, callback, max_steps=2).train()
    assert selections(tmp_path) == {0: {0, 1, 2}} and "Only 3 rows can be selected" in caplog.text
    words = train_rows.add_column("difficulty", ["hard"] * 24)
    with pytest.raises(ValueError, match="'difficulty' holds no numbers"):
        make_trainer("sft", words, eval_rows, tmp_path, DIQCallback(), max_steps=1).train()
