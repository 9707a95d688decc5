"""What `DIQCallback` refuses, by name and before the first step."""

from types import SimpleNamespace

import pytest
from conftest import make_model, make_tokenizer
from peft import LoraConfig
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, WeightedRandomSampler
from trainings import PLAIN, Recorder, make_trainer, selections
from trl import SFTConfig, SFTTrainer

from diq_hf import DIQCallback


pytest_plugins = "pools"


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


@pytest.mark.parametrize(
    ("sharded", "message"),
    [("is_fsdp_enabled", "first version.*`fsdp_version: 2`"), ("is_deepspeed_enabled", "ZeRO-3.*FSDP2")],
)
def test_sharded_models_are_refused(sharded, message, train_rows, eval_rows, tmp_path):
    """Told by what the trainer says of itself: a CPU has no such trainer."""
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, None)
    setattr(trainer, sharded, True)
    plugins = {"deepspeed_plugin": SimpleNamespace(zero_stage=3), "fsdp_plugin": SimpleNamespace(fsdp_version=1)}
    trainer.accelerator = SimpleNamespace(state=SimpleNamespace(**plugins))
    with pytest.raises(ValueError, match=message):
        DIQCallback().bind(trainer)


def scored(rows):
    """A pool that comes with its scores, so that nothing is left to score before training."""
    count = len(rows)
    return rows.add_column("difficulty", [float(i) for i in range(count)]).add_column(
        "influence", [float(i % 5) for i in range(count)]
    )


UNSCORABLE = {
    "dora": ("sft", {"peft_config": LoraConfig(r=2, target_modules=["q_proj"], use_dora=True)}, {}, "without DoRA"),
    "modules_to_save": (
        "sft",
        {"peft_config": LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm"])},
        {},
        "`modules_to_save`",
    ),
    "ipo": ("dpo", {"loss_type": "ipo"}, {}, "plain DPO loss"),
    "validation": ("sft", {}, {"validation": [{"text": "good"}, {"text": ""}]}, "Validation row 1.*empty"),
    "validation_rows": ("sft", {}, {"validation": ["a", "b"]}, "Validation row 0 is a str"),
    "preferences": ("dpo", {}, {"validation": [{"text": "good"}]}, "as its `eval_dataset`"),
    "target_modules": ("sft", {}, {"target_modules": ["no_such"]}, "No linear module matches"),
    "online": ("dpo", {}, {"online": True}, "knows no PreferenceOptimization"),
}


@pytest.mark.parametrize("case", UNSCORABLE)
def test_nothing_is_trained_before_a_refusal(case, train_rows, eval_rows, preferences, tmp_path):
    """Also where the first selection needs no scoring, and the second would have found out."""
    kind, settings, given, message = UNSCORABLE[case]
    rows, validation = (preferences, preferences) if kind == "dpo" else (train_rows, eval_rows)
    trainer = make_trainer(kind, scored(rows), validation, tmp_path, DIQCallback(num_rows=4, **given), **settings)
    steps = []
    trainer.model.register_forward_pre_hook(lambda module, inputs: steps.append(module.training))
    with pytest.raises((ValueError, TypeError), match=message):
        trainer.train()
    assert trainer.state.global_step == 0 and True not in steps


def test_what_is_never_scored_is_no_matter(train_rows, eval_rows, tmp_path):
    settings = {"peft_config": LoraConfig(r=2, target_modules=["q_proj"], use_dora=True), "num_train_epochs": 1}
    callback = DIQCallback(num_rows=4, rescore_every=None)
    trainer = make_trainer("sft", scored(train_rows), eval_rows, tmp_path, callback, **settings)
    trainer.train()
    assert trainer.state.global_step == 2


def test_sharded_by_transformers(train_rows, eval_rows, tmp_path):
    """Noticed when the trainer is made: parameters that are not whole, processes that share a row."""
    model = make_model()
    model.lm_head.weight.ds_id = 1  # as ZeRO marks a parameter that is a shard
    with pytest.raises(ValueError, match=r"`lm_head\.weight` is sharded by DeepSpeed ZeRO-3"):
        make_trainer("sft", train_rows, eval_rows, tmp_path, DIQCallback(), model)
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, None)
    shared = {"state": None, "split_batches": False, "num_processes": 2}
    sizes = SimpleNamespace(tp_size=1, cp_size=2, sp_size=1)
    trainer.accelerator = SimpleNamespace(parallelism_config=sizes, **shared)
    with pytest.raises(ValueError, match=r"`cp_size`.*DDP"):
        DIQCallback().bind(trainer)
    trainer.accelerator = SimpleNamespace(**shared | {"split_batches": True})
    with pytest.raises(ValueError, match="`split_batches=True`"):
        DIQCallback().bind(trainer)


def test_deepspeed_needs_its_steps_first(train_rows, eval_rows, tmp_path):
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, None)
    trainer.is_deepspeed_enabled = True
    plugins = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=2))
    trainer.accelerator = SimpleNamespace(state=plugins, split_batches=False, num_processes=2)
    with pytest.raises(ValueError, match="Set `max_steps`"):
        DIQCallback().bind(trainer)
    DIQCallback(budget="pool").bind(trainer)


class OwnBatches(BatchSampler):
    pass


def own_loader(trainer, **given):
    return trainer.accelerator.prepare(
        DataLoader(given.pop("dataset", trainer.train_dataset), collate_fn=trainer.data_collator, **given)
    )


LOADERS = {
    "plain": (
        lambda t: DataLoader(t.train_dataset, batch_size=2, collate_fn=t.data_collator),
        "a DataLoader that accelerate has not prepared",
    ),
    "batch_sampler": (
        lambda t: own_loader(t, batch_sampler=OwnBatches(RandomSampler(t.train_dataset), 2, False)),
        "made by a OwnBatches",
    ),
    "weights": (
        lambda t: own_loader(t, sampler=WeightedRandomSampler([1.0] * 24, 24), batch_size=2),
        "a WeightedRandomSampler of its own",
    ),
    "order": (
        lambda t: own_loader(t, sampler=SequentialSampler(t.train_dataset), batch_size=2),
        "a SequentialSampler of its own",
    ),
    "draws": (
        lambda t: own_loader(t, sampler=RandomSampler(t.train_dataset, replacement=True), batch_size=2),
        "RandomSampler of its own",
    ),
    "batch_size": (lambda t: own_loader(t, shuffle=True, batch_size=4), "6 batches of 4 rows"),
    "fewer_rows": (
        lambda t: own_loader(t, dataset=t.train_dataset.select(range(12)), shuffle=True, batch_size=2),
        "serves 12 rows that are not the 24",
    ),
    "other_rows": (
        lambda t: own_loader(t, dataset=t.train_dataset.select(range(23, -1, -1)), shuffle=True, batch_size=2),
        "serves 24 rows that are not the 24",
    ),
    "stream": (
        lambda t: own_loader(t, dataset=t.train_dataset.to_iterable_dataset(), batch_size=2),
        "serves a stream",
    ),
}


def trainer_with(methods, rows, validation, folder, callback, **settings):
    """An `SFTTrainer` of a class that a user might write."""
    return type("OwnTrainer", (SFTTrainer,), methods)(
        make_model(),
        SFTConfig(**PLAIN | {"output_dir": str(folder), "per_device_train_batch_size": 2} | settings),
        train_dataset=rows,
        eval_dataset=validation,
        processing_class=make_tokenizer(),
        callbacks=[callback],
    )


@pytest.mark.parametrize("case", LOADERS)
def test_loaders_that_would_not_ask_us(case, train_rows, eval_rows, tmp_path):
    make, message = LOADERS[case]
    methods = {"get_train_dataloader": make}
    callback = DIQCallback(num_rows=4)
    trainer = trainer_with(
        methods, train_rows, eval_rows, tmp_path, callback, max_steps=2, remove_unused_columns=False
    )
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_loader_that_is_looked_at_alone(train_rows, eval_rows, tmp_path):
    seen = []

    def look(trainer):
        seen.append(loader := SFTTrainer.get_train_dataloader(trainer))
        return loader

    methods = {"get_train_dataloader": look}
    trainer = trainer_with(methods, train_rows, eval_rows, tmp_path, DIQCallback(num_rows=4), num_train_epochs=1)
    trainer.train()
    assert trainer.state.global_step == 2 and len(seen) == 1


def test_a_sampler_of_the_users_is_not_dropped(train_rows, eval_rows, tmp_path):
    methods = {"_get_train_sampler": lambda self, dataset=None: SequentialSampler(self.train_dataset)}
    with pytest.raises(ValueError, match=r"`OwnTrainer\._get_train_sampler`.*dropped"):
        trainer_with(methods, train_rows, eval_rows, tmp_path, DIQCallback())
    callback = DIQCallback(report_only=True)
    trainer = trainer_with(methods, train_rows, eval_rows, tmp_path, callback, max_steps=12)
    recorder = Recorder()
    recorder.watch(trainer)
    trainer.train()
    assert [row for rows in recorder.steps for row in rows] == list(range(24))


def test_columns_that_are_no_numbers(train_rows, eval_rows, tmp_path):
    for name, values, message in (
        ("loss", [[1.0]] * 24, r"'loss' holds no numbers but List\(Value\('float64'\)\)"),
        ("influence", [{"a": 1.0}] * 24, "'influence' holds no numbers but {'a': "),
        ("influence", ["high"] * 24, "'influence' holds no numbers but Value"),
        ("difficulty", [b"1"] * 24, "'difficulty' holds no numbers.*difficulty='ifd'"),
    ):
        trainer = make_trainer("sft", train_rows.add_column(name, values), eval_rows, tmp_path, DIQCallback())
        with pytest.raises(ValueError, match=message):
            trainer.train()
    words = train_rows.add_column("difficulty", ["easy", "hard", "medium"] * 8).class_encode_column("difficulty")
    trainer = make_trainer("sft", words, eval_rows, tmp_path, DIQCallback())
    with pytest.raises(ValueError, match="Column 'difficulty' is a ClassLabel"):
        trainer.train()
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, DIQCallback(difficulty="column:absent"))
    with pytest.raises(ValueError, match="no column 'absent'"):
        trainer.train()


def test_levels_of_a_class_label(train_rows, eval_rows, tmp_path):
    """Their names count, not their ids, which follow the alphabet: "10" stands before "9"."""
    levels = [f"level {i % 12}" for i in range(24)]
    rows = train_rows.add_column("level", levels).class_encode_column("level")
    callback = DIQCallback(num_rows=4, strategy="difficulty", difficulty="column:level")
    make_trainer("sft", rows, eval_rows, tmp_path, callback, max_steps=1).train()
    assert selections(tmp_path) == {0: {10, 11, 22, 23}}


@pytest.mark.parametrize("name", ["max_validation_rows", "difficulty_percentile"])
def test_arguments_out_of_range(name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        DIQCallback(**{name: -1})
