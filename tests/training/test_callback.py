"""`DIQCallback` in real trainers: which rows are trained, for how long, with which scores, and what is left untouched.

The rows of a batch are told by their tokens, read off the model's own inputs, so nothing here trusts the sampler.
"""

import json
import math
import random
import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SUPPORT, make_model, make_tokenizer
from datasets import Dataset, load_dataset
from peft import LoraConfig
from trainings import (
    LORA,
    PLAIN,
    Recorder,
    check_only_chosen_rows_were_trained,
    make_trainer,
    rows_of_chat,
    selections,
)
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    TrainerCallback,
)
from trl import SFTConfig, SFTTrainer

from diq_hf import ClassifierDifficulty, DIQCallback, DIQScorer, QuadrantRule, select_subset


@pytest.fixture(scope="module")
def train_rows():
    return Dataset.from_list(rows_of_chat(24))


@pytest.fixture(scope="module")
def eval_rows():
    return Dataset.from_list(rows_of_chat(5, seed=1))


@pytest.fixture(scope="module")
def preferences():
    rows = [row | {"chosen": row["completion"]} for row in rows_of_chat(16)]
    for row, other in zip(rows, rows_of_chat(16, seed=2), strict=True):
        row["rejected"] = other["completion"]
        del row["completion"]
    return Dataset.from_list(rows)


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
    assert trainer.args.max_steps == planned
    recorder = Recorder()
    recorder.watch(trainer)
    trainer.train()
    assert trainer.state.global_step == len(recorder.steps) == planned
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
    assert trainer.args.max_steps == 30  # a tenth of 24 rows is 2
    recorder = Recorder()
    recorder.watch(trainer)
    trainer.train()
    assert {len(chosen) for chosen in selections(tmp_path).values()} == {2}
    assert (tmp_path / "diq" / "quadrants.png").read_bytes().startswith(b"\x89PNG")
    scored = [line["diq/scored"] for line in trainer.state.log_history if "diq/scored" in line]
    assert scored[0] == 24 and len(scored) > 2 and max(scored[1:]) <= 8  # candidates: four times the selection


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
    config = BertConfig(vocab_size=384, max_position_embeddings=64, initializer_range=1.0, num_labels=3, **sizes)
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


def hooks_of(model):
    kinds = ((module._forward_hooks, module._forward_pre_hooks) for module in model.modules())
    return [hook for pair in kinds for hooks in pair for hook in hooks.values()]


def weights_after(trainer):
    trainer.train()
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


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


def test_budgets(train_rows, eval_rows, tmp_path):
    def steps(callback, **settings):
        return make_trainer("sft", train_rows, eval_rows, tmp_path, callback, **settings).args.max_steps

    assert steps(DIQCallback(ratio=0.25), num_train_epochs=2) == 6
    assert steps(DIQCallback(ratio=0.25, budget="pool"), num_train_epochs=2) == -1
    assert steps(DIQCallback(report_only=True), num_train_epochs=2) == -1
    assert steps(DIQCallback(ratio=0.25), max_steps=50) == 50
    args = SFTConfig(**PLAIN, output_dir=str(tmp_path), per_device_train_batch_size=2)
    shared = {"train_dataset": train_rows, "eval_dataset": eval_rows, "processing_class": make_tokenizer()}
    for ratio, expected in ((0.5, 18), (0.25, 9)):  # one `args` for two trainers
        trainer = SFTTrainer(make_model(), args, callbacks=[DIQCallback(ratio=ratio)], **shared)
        assert trainer.args.max_steps == expected and args.max_steps == -1


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


def refused(match, kind="sft", rows=None, validation=None, callback=None, **settings):
    with pytest.raises(ValueError, match=match):
        make_trainer(kind, rows, validation, settings.pop("folder"), callback or DIQCallback(), **settings)


def test_refused_by_name(train_rows, eval_rows, preferences, tmp_path):
    given = {"rows": train_rows, "validation": eval_rows, "folder": tmp_path}
    refused("`packing=False`", packing=True, max_length=64, **given)
    refused("Pass `eval_dataset`", **given | {"validation": None})
    refused("a stream", **given | {"rows": train_rows.to_iterable_dataset()}, max_steps=3)
    refused("evaluation set is a stream", **given | {"validation": eval_rows.to_iterable_dataset()})
    refused("batch_rebalance", train_sampling_strategy="batch_rebalance", **given)
    refused("auto_find_batch_size", auto_find_batch_size=True, **given)
    with pytest.raises(ValueError, match="more than one DIQCallback"):
        SFTTrainer(
            make_model(),
            SFTConfig(**PLAIN, output_dir=str(tmp_path)),
            train_dataset=train_rows,
            eval_dataset=eval_rows,
            processing_class=make_tokenizer(),
            callbacks=[DIQCallback(), DIQCallback()],
        )
    trainer = make_trainer("dpo", preferences, preferences, tmp_path, DIQCallback(), loss_type="ipo", max_steps=1)
    with pytest.raises(ValueError, match="plain DPO loss"):
        trainer.train()
    trainer = make_trainer("dpo", preferences, preferences, tmp_path, DIQCallback(), sync_ref_model=True, max_steps=1)
    with pytest.raises(ValueError, match="sync_ref_model=True"):
        trainer.train()
    trainer = make_trainer("dpo", preferences, None, tmp_path, DIQCallback(validation=eval_rows), max_steps=1)
    with pytest.raises(ValueError, match="as its `eval_dataset`"):
        trainer.train()
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, None, max_steps=1)
    trainer.add_callback(DIQCallback())
    with pytest.raises(ValueError, match=r"callback\.bind\(trainer\)"):
        trainer.train()


def test_bound_by_hand(train_rows, eval_rows, tmp_path):
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, None, num_train_epochs=1)
    callback = DIQCallback(num_rows=4)
    trainer.add_callback(callback)
    callback.bind(trainer)
    trainer.train()
    assert trainer.state.global_step == 2


def test_another_pool_at_the_resume(train_rows, eval_rows, tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    make_trainer("sft", train_rows, eval_rows, tmp_path, DIQCallback(), **settings).train()
    trainer = make_trainer("sft", train_rows.select(range(20)), eval_rows, tmp_path, DIQCallback(), **settings)
    with pytest.raises(ValueError, match="chose among 24 rows and the trainer has 20"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 0}, "`ratio` must be in"),
        ({"num_rows": 0}, "`num_rows` must be"),
        ({"rescore_every": 0}, "`rescore_every`"),
        ({"rescore_unit": "epochs"}, "`rescore_unit`"),
        ({"candidates": 1}, "`candidates`"),
        ({"strategy": "best"}, "`strategy`"),
        ({"budget": "all"}, "`budget`"),
        ({"warmup_ratio": 1}, "`warmup_ratio`"),
    ],
)
def test_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        DIQCallback(**settings)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    script = SUPPORT / "callback_processes.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", script, folder]
    result = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr[-5000:]
    return folder, [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", ["lora", "full"])
def test_scoring_leaves_no_trace_in_two_processes(name, two_processes):
    for found in two_processes[1]:
        assert found[f"{name} reporting"] == found[f"{name} alone"]
        assert len(found[f"{name} alone"]["steps"]) == 10


@pytest.mark.parametrize("name", ["chosen", "dispatched"])
def test_only_chosen_rows_are_trained_in_two_processes(name, two_processes):
    folder, (first, second) = two_processes
    together = Recorder()
    together.steps = [a + b for a, b in zip(first[name]["steps"], second[name]["steps"], strict=True)]
    assert all(len(rows) == 4 for rows in together.steps)
    assert first[name]["weights"] == second[name]["weights"]
    chosen = selections(folder / name)
    assert sorted(chosen) == [0, 3, 6, 9] and all(len(rows) == 5 for rows in chosen.values())
    for number, rows in enumerate(together.steps):
        current = max(step for step in chosen if step <= number)
        if current == 0 or number - current >= 1:
            assert set(rows) <= chosen[current]


def test_two_processes_score_as_one(two_processes, train_rows, eval_rows, tmp_path):
    callback = DIQCallback(num_rows=5, rescore_every=None)
    make_trainer("sft", train_rows, eval_rows, tmp_path, callback, max_steps=1).train()
    both = [
        load_dataset("parquet", data_files=f"{folder}/diq/step-00000000.parquet", split="train")
        for folder in (tmp_path, two_processes[0] / "chosen")
    ]
    assert np.allclose(both[0]["influence"][:], both[1]["influence"][:], rtol=1e-5)
    assert both[0]["selected"][:] == both[1]["selected"][:]


def test_resumed_in_two_processes(two_processes):
    for found in two_processes[1]:
        assert found["resumed"]["steps"] == found["chosen"]["steps"][5:]
        assert found["resumed"]["weights"] == found["chosen"]["weights"]


def test_bad_validation_row_in_two_processes(two_processes):
    for found in two_processes[1]:
        assert "text to train on is empty" in found["error"]


@pytest.mark.parametrize(("sharded", "name"), [("is_fsdp_enabled", "FSDP"), ("is_deepspeed_enabled", "ZeRO-3")])
def test_sharded_models_are_refused(sharded, name, train_rows, eval_rows, tmp_path):
    """Told by what the trainer says of itself: a CPU has no such trainer."""
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, None)
    setattr(trainer, sharded, True)
    plugins = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=3))
    trainer.accelerator = SimpleNamespace(state=plugins)
    with pytest.raises(ValueError, match=f"{name}.*DDP"):
        DIQCallback().bind(trainer)


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


def test_arguments_changed_after_the_plan(train_rows, eval_rows, tmp_path):
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, callback := DIQCallback(num_rows=4))
    trainer.args.num_train_epochs = 10
    with pytest.raises(ValueError, match=r"20 steps are to be trained and 6 were planned.*callback\.bind"):
        trainer.train()
    callback.bind(trainer)
    trainer.train()
    assert trainer.state.global_step == 20


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


def test_never_scored_again_is_said(train_rows, eval_rows, tmp_path, caplog):
    callback = DIQCallback(num_rows=2)
    make_trainer("sft", train_rows, eval_rows, tmp_path, callback, num_train_epochs=2, peft_config=LORA).train()
    assert list(selections(tmp_path)) == [0] and "never scored again" in caplog.text


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


ONLINE = {
    "lora": {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj"])},
    "reentrant": {
        "peft_config": LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj"]),
        "activation_checkpointing_kwargs": {"use_reentrant": True},
    },
    "full": {"activation_checkpointing": False},
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
