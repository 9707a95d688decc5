"""Trainings with `DIQCallback` on two processes of torchrun; each writes what it saw."""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from conftest import make_model
from datasets import Dataset
from trainings import LORA, Recorder, make_trainer, rows_of_chat

from diq_hf import DIQCallback
from diq_hf.digest import tensors_digest
from diq_hf.engine.influence import InfluenceEngine
from diq_hf.training.directions import NAME, find_direction


def train(folder, callback, checkpoint=None, **settings):
    rows, validation = Dataset.from_list(rows_of_chat(24)), Dataset.from_list(rows_of_chat(5, seed=1))
    torch.manual_seed(0)
    trainer = make_trainer("sft", rows, validation, folder, callback, max_steps=10, **settings)
    recorder = Recorder()
    recorder.watch(trainer)
    trainer.train(resume_from_checkpoint=checkpoint)
    assert trainer.accelerator.num_processes == 2
    found = {"steps": recorder.steps, "weights": tensors_digest(trainer.model.state_dict())}
    if callback is not None:
        found |= {name: callback.saved[name] for name in ("selections", "scores")}
    return found


def directions(checkpoint):
    """What both processes hear of a folder that the first alone can see: whole, absent, and torn."""
    accelerator, model = Accelerator(cpu=True), make_model()
    engine, first = InfluenceEngine(model), accelerator.is_main_process
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    name = state["stateful_callbacks"]["DIQCallback"]["attributes"]["saved"]["direction"]
    found = []
    accelerator.wait_for_everyone()
    for folder in (checkpoint, checkpoint / "nowhere"):
        direction = find_direction([folder if first else checkpoint / "unseen"], name, engine, accelerator)
        found.append(direction and direction.digest == name)
    if first:
        path = checkpoint / NAME
        path.write_bytes(path.read_bytes()[:-8])
    try:
        find_direction([checkpoint], name, engine, accelerator)
    except ValueError as error:
        found.append(str(error))
    return found


def main(folder: Path) -> dict:
    often = {"rescore_every": 3, "rescore_unit": "steps", "candidates": None}
    saved = {"save_strategy": "steps", "save_steps": 5}
    found = {}
    for name, settings in (
        ("lora", {"peft_config": LORA, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 1}),
        ("full", {}),
    ):
        found[f"{name} alone"] = train(folder / name / "alone", None, **settings)
        reporting = DIQCallback(report_only=True, **often)
        found[f"{name} reporting"] = train(folder / name / "reporting", reporting, **settings)
    found["chosen"] = train(folder / "chosen", DIQCallback(num_rows=5, **often), **saved)
    checkpoint = str(folder / "chosen" / "checkpoint-5")
    found["resumed"] = train(folder / "resumed", DIQCallback(num_rows=5, **often), checkpoint, **saved)
    # A dispatcher joins the processes' batches, which must be of one length for that.
    dispatched = {"accelerator_config": {"dispatch_batches": True}, "pad_to_multiple_of": 128}
    found["dispatched"] = train(folder / "dispatched", DIQCallback(num_rows=5, **often), **dispatched)
    online = {"num_rows": 5, "online": True} | often
    found["dispatched online"] = train(folder / "dispatched_online", DIQCallback(**online), **dispatched)
    found["online"] = train(folder / "online", DIQCallback(**online), **saved)
    checkpoint = folder / "online" / "checkpoint-5"
    found["online resumed"] = train(folder / "online_resumed", DIQCallback(**online), str(checkpoint), **saved)
    found["directions"] = directions(checkpoint)
    try:
        train(folder / "bad", DIQCallback(validation=[{"text": ""}], num_rows=5))
    except Exception as error:
        found["error"] = str(error)
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = main(folder)
    rank = torch.distributed.get_rank()
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()
