"""A model in shards of DeepSpeed's ZeRO-3 on two processes of torchrun, scored in the midst of a training. See
test_zero.py."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch


os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
from conftest import make_model
from fsdp_processes import ROWS, VALIDATION, rows_of
from fsdp_scoring import scored
from oracle import with_lora
from torch import distributed
from transformers import AutoModelForCausalLM

from diq_hf.digest import model_digest, sampled_digest
from diq_hf.engine.influence import InfluenceEngine
from diq_hf.training.online import OnlineInfluence


CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    # Nothing is left whole for being small.
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "optimizer": {"type": "SGD", "params": {"lr": 1e-2}},
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
}


def built(case):
    torch.manual_seed(0)
    model = make_model(case["model"])
    model = with_lora(model, lora_dropout=0.0) if case["lora"] else model
    return deepspeed.initialize(model=model, config=CONFIG, model_parameters=model.parameters())[0]


def whole(model):
    found = {}
    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            found[name] = parameter.detach().clone()
    return found


def step(deep, number):
    deep.train()
    row = rows_of(8, 7)[2 * number + distributed.get_rank()]
    ids, labels = (torch.tensor(part)[None] for part in (row.input_ids, row.labels))
    deep.backward(deep(input_ids=ids, labels=labels).loss)
    deep.step()


def read_online(deep, engine, direction):
    """Influence of this process's row, as its step is taken."""
    online = OnlineInfluence(engine)
    online.use(direction)
    online.attach()
    online.begin_step(lambda batch: [0])
    step(deep, 3)
    online.collect()
    online.detach()
    return online.influences[0]


def trained(case, scored):
    """Weights after four steps, with scoring after the second or not at all; and what it found."""
    deep, found = built(case), {}
    model = deep.module
    for number in range(3):
        if scored and number == 2:
            training = model.training
            engine = InfluenceEngine(model, max_tokens_per_batch=60)
            direction = engine.validation_gradient(VALIDATION)
            influence, loss = engine.score(ROWS, direction)
            found = {
                "processes": engine.lockstep.size,
                "influence": influence,
                "loss": loss,
                "losses": engine.losses(ROWS),
                "several": engine.score(ROWS, [direction, direction])[0],
                "norms": engine.score(ROWS, direction, norms=True)[2],
                "direction": torch.cat([tensor.flatten() for tensor in direction.tensors.values()]),
                "left": [name for name, p in model.named_parameters() if p.numel()],
                "mode": model.training == training,
                "digests": [model_digest(model), sampled_digest(model) == sampled_digest(model)],
            }
            found["weights"] = whole(model)
        step(deep, number)
    if scored:
        expected = engine.score(rows_of(8, 7)[6:8], direction)[0][distributed.get_rank()]
        found["online"] = [read_online(deep, engine, direction), expected]
    else:
        step(deep, 3)
    return found, whole(model)


def scored_rows(model_folder, folder):
    """What `DIQScorer` makes of it, as of one whole."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    deep = deepspeed.initialize(model=model, config=CONFIG, model_parameters=model.parameters())[0]
    scorer, columns = scored(deep.module, "difficulty", folder / "cache")
    return [scorer.weights_digest(again=True), columns]


def fault(case):
    """Of one process in the midst of a pass."""
    model = built(case).module
    engine = InfluenceEngine(model, max_tokens_per_batch=60)

    def fail(*args):
        raise RuntimeError("CUDA out of memory. (as an accelerator would say)")

    model.model.layers[1].mlp.register_forward_hook(fail)
    try:
        engine.losses(ROWS)
    except RuntimeError as error:
        return str(error)


def main(cases, model_folder: str, folder: Path) -> dict:
    answers = {}
    for name, case in cases.items():
        found, after = trained(case, True)
        _, expected = trained(case, False)
        found["equal"] = all(torch.equal(after[key], expected[key]) for key in expected)
        weights = found.pop("weights")
        if distributed.get_rank() == 0:
            torch.save(weights, folder / f"{name}.pt")
        answers[name] = {key: np.asarray(value).tolist() for key, value in found.items() if key != "digests"}
        answers[name]["digests"] = found["digests"]
    answers["scored"] = scored_rows(model_folder, folder)
    answers["fault"] = fault(case)
    return answers


if __name__ == "__main__":
    cases, model_folder, folder = json.loads(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    deepspeed.init_distributed("gloo")
    found = main(cases, model_folder, folder)
    (folder / f"rank-{distributed.get_rank()}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()
