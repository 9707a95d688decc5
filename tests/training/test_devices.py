"""A trainer's rows on a device that has no float64."""

import numpy as np
import pytest
from conftest import make_model
from datasets import Dataset
from other_device import OTHER, on_other_device, other_devices
from scored_trainers import about_to_train, make_scorer
from trainings import make_trainer, rows_of_chat

from diq_hf.difficulty.sources import difficulty_source
from diq_hf.training.online import OnlineInfluence
from diq_hf.training.rescoring import TrainerScorer


CASES = {
    "sft": ("sft", {}),
    "dft": ("sft", {"loss_type": "dft"}),
    "trainer": ("trainer", {}),
    "dpo": ("dpo", {"model": make_model(seed=1)}),
}


@pytest.fixture
def other_device():
    with other_devices() as device:
        yield device


@pytest.mark.parametrize("case", CASES)
def test_scores(case, tmp_path, other_device):
    kind, settings = CASES[case]
    rows = rows_of_chat(8)
    if kind == "dpo":
        pairs = zip(rows, rows_of_chat(8, seed=2), strict=True)
        rows = [{"prompt": a["prompt"], "chosen": a["completion"], "rejected": b["completion"]} for a, b in pairs]
    rows = Dataset.from_list(rows)
    trainer = about_to_train(make_trainer(kind, rows, rows.select([0, 1]), tmp_path, None, **settings))
    source = None if kind == "trainer" else difficulty_source("ifd")
    scorer = TrainerScorer(trainer, trainer.model)
    expected = scorer.score(range(8), scorer.direction(), source)
    for model in (trainer.model, getattr(trainer, "ref_model", None)):
        if model is not None:
            on_other_device(model)
    scorer = TrainerScorer(trainer, trainer.model)
    assert scorer.engine.device == OTHER
    found = scorer.score(range(8), scorer.direction(), source)
    for name, values in expected.items():
        assert np.allclose(found[name], values, rtol=1e-4)


def test_online(tmp_path, other_device):
    rows, read = Dataset.from_list(rows_of_chat(8)), []
    for moved in (False, True):
        scorer = make_scorer("sft", rows, rows.select([0, 1]), tmp_path)
        trainer, model = scorer.trainer, scorer.trainer.model
        batch = trainer.data_collator([trainer.train_dataset[row] for row in range(3)])
        if moved:
            scorer = TrainerScorer(trainer, on_other_device(model))
            batch = {name: values.to(OTHER) for name, values in batch.items()}
        online = OnlineInfluence(scorer.engine)
        online.use(scorer.direction())
        online.attach()
        online.begin_step(lambda batch: [0, 1, 2])
        model.train()
        model(**batch).loss.backward()
        online.collect()
        online.detach()
        read.append([online.influences[row] for row in range(3)])
    assert np.allclose(*read, rtol=1e-4)
