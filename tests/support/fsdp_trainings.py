"""Trainings of a model in shards of FSDP2, with `DIQCallback`, on two processes of torchrun; each writes what it saw.

Sharded as transformers loads a model (`DistributedConfig`), or as accelerate prepares one. accelerate turns FSDP on
where there are accelerators only; here its own preparation is called on a CPU.
"""

import json
import sys
from pathlib import Path

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, broadcast_object_list
from conftest import make_model, make_tokenizer
from datasets import Dataset
from torch import distributed
from torch.distributed.tensor import DTensor
from trainings import LORA, PLAIN, Recorder, rows_of_chat
from transformers import AutoModelForCausalLM, TrainerCallback
from transformers.distributed import DistributedConfig
from trl import SFTConfig, SFTTrainer

from diq_hf import DIQCallback
from diq_hf.digest import tensors_digest
from diq_hf.engine.influence import InfluenceEngine
from diq_hf.training.directions import find_direction


class Sharded(SFTTrainer):
    """As `accelerate launch` with an FSDP2 configuration makes it, on a CPU."""

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            cpu_ram_efficient_loading=False,
        )
        state = self.accelerator.state
        state._shared_state["distributed_type"] = state.distributed_type = DistributedType.FSDP
        state._shared_state["fsdp_plugin"] = state.fsdp_plugin = plugin
        self.is_fsdp_enabled = True


class Keeper(TrainerCallback):
    """Does of a checkpoint what is the callback's: every process saves, and the first alone asks for its state."""

    def __init__(self, callback):
        self.callback, self.name = callback, None

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            if state.is_world_process_zero:
                self.name = self.callback.state()["attributes"]["saved"]["direction"]
            self.callback.on_save(args, state, control)

    def found_again(self, trainer):
        """The direction as a resumed training finds it: its name, and whether it lies in shards."""
        name, engine = broadcast_object_list([self.name])[0], InfluenceEngine(trainer.model)
        folder = Path(trainer.args.output_dir) / "checkpoint-3"
        direction = find_direction([folder], name, engine, trainer.accelerator)
        return [direction.digest == name, direction.in_shards]


def model_of(name, way, folder):
    if way == "accelerate":
        return make_model(name)
    make_model(name).save_pretrained(folder / name)  # by one process
    distributed.barrier()
    config = DistributedConfig(fsdp_size=distributed.get_world_size())
    return AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32, distributed_config=config)


def train(folder, way, name, callback, **settings):
    rows, validation = Dataset.from_list(rows_of_chat(24)), Dataset.from_list(rows_of_chat(5, seed=1))
    torch.manual_seed(0)
    peft_config = settings.pop("peft_config", None)
    given = PLAIN | {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "max_steps": 5,
    }
    trainer = (Sharded if way == "accelerate" else SFTTrainer)(
        model_of(name, way, folder.parent),
        SFTConfig(**given | settings),
        train_dataset=rows,
        eval_dataset=validation,
        processing_class=make_tokenizer(),
        peft_config=peft_config,
        callbacks=[callback] if callback else [],
    )
    recorder, keeper = Recorder(), Keeper(callback)
    recorder.watch(trainer)
    online = callback is not None and callback.settings.online
    if online:
        trainer.add_callback(keeper)
    trainer.train()
    assert trainer.accelerator.num_processes == 2
    found = {
        "steps": recorder.steps,
        "shards": sum(isinstance(p, DTensor) for p in trainer.model.parameters()),
        "weights": tensors_digest(trainer.model.state_dict()),
    }
    if callback is not None:
        found |= {part: callback.saved[part] for part in ("selections", "scores")}
    if online:
        found["direction"] = keeper.found_again(trainer)
    return found


CASES = {
    "full": ("accelerate", "llama", {}),
    "lora": ("accelerate", "llama", {"peft_config": LORA}),
    "tied": ("accelerate", "qwen3", {}),
    "native": ("native", "llama", {}),
    "native lora": ("native", "llama", {"peft_config": LORA}),
}


def main(folder: Path, names) -> dict:
    often = {"rescore_every": 2, "rescore_unit": "steps", "candidates": None}
    found = {}
    for name in names:
        way, model, settings = CASES[name]
        place = folder / name.replace(" ", "-")
        for kind, callback in {
            "alone": None,
            "reporting": DIQCallback(report_only=True, **often),
            "chosen": DIQCallback(num_rows=5, **often),
            "online": DIQCallback(num_rows=5, online=True, **often),
        }.items():
            if kind.startswith("online") and name in ("native", "tied"):
                continue
            found[f"{name} {kind}"] = train(place / kind.replace(" ", "-"), way, model, callback, **settings)
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = main(folder, sys.argv[2:] or CASES)
    (folder / f"rank-{distributed.get_rank()}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()
