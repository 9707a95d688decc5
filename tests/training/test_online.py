"""Influences read off the training's own passes, and what is left of it afterwards."""

import gc

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, make_model, make_tokenizer
from datasets import Dataset, load_dataset
from scored_trainers import make_scorer
from trainings import LORA, PLAIN, make_trainer, rows_of_chat
from transformers import DataCollatorWithFlattening, Trainer, TrainerCallback, TrainingArguments

from diq_hf import DIQCallback
from diq_hf.training.history import unpack
from diq_hf.training.online import OnlineInfluence


@pytest.fixture(scope="module")
def rows():
    return Dataset.from_list(rows_of_chat(16))


@pytest.fixture(scope="module")
def validation():
    return Dataset.from_list(rows_of_chat(4, seed=1))


def flat_trainer(callback, folder):
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(5, VOCABULARY, (length,), generator=draw).tolist() for length in range(3, 19)]
    rows = Dataset.from_list([{"input_ids": ids, "labels": ids} for ids in rows])
    args = TrainingArguments(
        **PLAIN, output_dir=str(folder), per_device_train_batch_size=3, learning_rate=0.0, max_steps=4
    )
    collate = DataCollatorWithFlattening()
    return Trainer(make_model(), args, collate, rows, rows.select(range(3)), make_tokenizer(), callbacks=[callback])


FLAT = {"padding_free": True, "max_length": None, "per_device_train_batch_size": 3}
CASES = {
    "padded": {"pad_to_multiple_of": 32, "per_device_train_batch_size": 3},
    "flat": FLAT,
    "flat_and_padded": FLAT | {"pad_to_multiple_of": 64},
    "flat_without_labels_first": None,
    "dft": {"loss_type": "dft"},
    "dft_flat_and_padded": FLAT | {"pad_to_multiple_of": 64, "loss_type": "dft"},
}


@pytest.mark.parametrize("case", CASES)
def test_online_influence_is_the_scored_one(case, rows, validation, tmp_path):
    """Without a step taken (learning rate 0, no dropout) rows that are trained have the influence they were scored."""
    callback = DIQCallback(num_rows=16, online=True, rescore_every=None, strategy="influence")
    if CASES[case] is None:
        trainer = flat_trainer(callback, tmp_path)
    else:
        settings = {"max_steps": 4, "learning_rate": 0.0} | CASES[case]
        trainer = make_trainer("sft", rows, validation, tmp_path, callback, **settings)
    read = {}

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            read.update(callback._run.online.influences)

    trainer.add_callback(Look())
    trainer.train()
    assert len(read) == 4 * trainer.args.per_device_train_batch_size
    history = load_dataset("parquet", data_files=f"{tmp_path}/diq/*.parquet", split="train").sort("row")
    expected = np.array(history["influence"][:])[list(read)]
    assert np.std(expected) > 0
    assert np.allclose(list(read.values()), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def hooks_of(model):
    kinds = ((module._forward_hooks, module._forward_pre_hooks) for module in model.modules())
    return [hook for pair in kinds for hooks in pair for hook in hooks.values() if "diq_hf" in hook.__module__]


@pytest.fixture
def reading(rows, validation, tmp_path):
    """Influence that is read of a model, and a step of three rows for it."""
    scorer = make_scorer("sft", rows, validation, tmp_path)
    online = OnlineInfluence(scorer.engine)
    online.use(scorer.direction())
    online.attach()
    online.begin_step(lambda batch: [3 * batch, 3 * batch + 1, 3 * batch + 2])
    trainer = scorer.trainer
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(3)])
    return online, trainer.model.train(), batch


def test_hooks_are_put_on_once_and_taken_off(reading):
    online, model, batch = reading
    once = len(hooks_of(model))
    assert once == 2 + len(online.engine.modules)
    online.attach()
    assert len(hooks_of(model)) == once
    model(**batch).loss.backward()
    online.collect()
    assert set(online.influences) == {0, 1, 2}
    online.detach()
    online.detach()
    assert not hooks_of(model)


def test_a_loss_that_is_another_leaves_no_hooks(reading):
    online, model, batch = reading
    model(**batch).logits.square().sum().backward()
    with pytest.raises(ValueError, match="not proportional"):
        online.collect()
    assert not hooks_of(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch: {name: values[:2] for name, values in batch.items()}, "has 2 rows where the sampler gave 3"),
        (lambda batch: {"input_ids": batch["input_ids"]}, "was called without"),
    ],
)
def test_a_batch_that_is_another_leaves_no_hooks(change, message, reading):
    _, model, batch = reading
    with pytest.raises(ValueError, match=message):
        model(**change(batch))
    assert not hooks_of(model)
    model(**batch)  # goes on as if nothing had been there


def test_a_flat_batch_of_more_rows_is_refused(reading):
    online, model, batch = reading
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    ids = torch.cat([row[:length] for row, length in zip(batch["input_ids"], lengths, strict=True)])[None]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    online.begin_step(lambda batch: [0, 1])
    with pytest.raises(ValueError, match="has more rows where the sampler gave 2"):
        model(input_ids=ids, labels=ids, position_ids=positions)


def test_a_crashed_training_leaves_no_hooks_once_it_is_gone(rows, validation, tmp_path):
    model = make_model()
    trainer = make_trainer(
        "sft", rows, validation, tmp_path, DIQCallback(num_rows=6, online=True), model=model, max_steps=3
    )

    class Crash(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            raise MemoryError("out of memory")

        on_step_end = on_substep_end

    trainer.add_callback(Crash)
    try:
        trainer.train()
    except MemoryError as error:
        error.__traceback__ = None
    assert hooks_of(model)
    del trainer
    gc.collect()
    assert not hooks_of(model)


def test_a_model_that_is_not_trained_is_not_read(reading):
    online, model, batch = reading
    with torch.no_grad():
        model(**batch)
    model.eval()
    model(**batch).loss.backward()
    online.collect()
    assert not online.influences


def test_dft_is_read_in_bf16(rows, validation, tmp_path):
    """Rounding does not make the training's gradients those of another loss, nor do dropout and the steps taken."""
    callback = DIQCallback(num_rows=8, online=True, rescore_every=None)
    settings = {"loss_type": "dft", "bf16": True, "peft_config": LORA, "max_steps": 6}
    make_trainer("sft", rows, validation, tmp_path, callback, **settings).train()
    assert np.isfinite(unpack(callback.saved["scores"]["influence"])).all()
