"""What `DIQCallback` refuses, by name and before the first step."""

from types import SimpleNamespace

import pytest
from conftest import make_model, make_tokenizer
from trainings import PLAIN, make_trainer
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


@pytest.mark.parametrize(("sharded", "name"), [("is_fsdp_enabled", "FSDP"), ("is_deepspeed_enabled", "ZeRO-3")])
def test_sharded_models_are_refused(sharded, name, train_rows, eval_rows, tmp_path):
    """Told by what the trainer says of itself: a CPU has no such trainer."""
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, None)
    setattr(trainer, sharded, True)
    plugins = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=3))
    trainer.accelerator = SimpleNamespace(state=plugins)
    with pytest.raises(ValueError, match=f"{name}.*DDP"):
        DIQCallback().bind(trainer)
