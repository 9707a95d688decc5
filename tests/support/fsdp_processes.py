"""A model sharded by FSDP2 on two processes of torchrun, scored in the midst of a training. See test_fsdp.py."""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from conftest import SIZES, make_model
from live_bytes import LiveBytes
from oracle import in_float64, with_lora
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.distributed import DistributedConfig

from diq_hf.engine.influence import InfluenceEngine
from diq_hf.rows.encoded import EncodedRow


def rows_of(count, seed):
    rng = np.random.default_rng(seed)
    rows = []
    for length in rng.integers(4, 40, count):
        ids = rng.integers(5, 384, length)
        labels = ids.copy()
        labels[: length // 3] = -100
        rows.append(EncodedRow(ids, labels))
    return rows


ROWS, VALIDATION = rows_of(13, 0), rows_of(5, 1)


def sharded(model, layout):
    """As torch's tutorials do, as accelerate does, with nothing but the layers in shards, or in replicas of shards."""
    if layout in ("replicas", "one replica"):
        sizes = (2, 1) if layout == "replicas" else (1, 2)
        fully = partial(fully_shard, mesh=init_device_mesh("cpu", sizes, mesh_dim_names=("replicas", "shards")))
    else:
        fully = fully_shard
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for layer in base.transformer.h if hasattr(base, "transformer") else base.model.layers:
        fully(layer)
    embeddings, head = base.get_input_embeddings(), base.get_output_embeddings()
    tied = embeddings.weight is head.weight
    if layout == "accelerate":
        if not tied:
            fully_shard(embeddings)
        fully_shard([base.model.norm, *([embeddings] if tied else []), head], reshard_after_forward=False)
    if layout == "head alone":
        fully_shard(head)
    if layout != "layers":
        fully(model)
    return model


def built(case):
    if case["layout"] == "native":
        folder = Path(sys.argv[2]) / case["model"]
        make_model(case["model"]).save_pretrained(folder)  # by one process
        distributed.barrier()
        config = DistributedConfig(fsdp_size=distributed.get_world_size())
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, distributed_config=config)
        torch.manual_seed(0)
        return with_lora(model) if case["lora"] else model
    model = make_model(case["model"])
    if case["dtype"] == "float64":
        model = in_float64(model)
    if case["lora"]:
        model = with_lora(model)
        model = model.double() if case["dtype"] == "float64" else model
    return sharded(model, case["layout"])


def step(model, optimizer, number):
    """One step of a training, on other rows on each process."""
    model.train()
    row = rows_of(8, 7)[2 * number + distributed.get_rank()]
    ids, labels = torch.tensor(row.input_ids)[None], torch.tensor(row.labels)[None]
    model(input_ids=ids, labels=labels).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def trained(case, scored):
    """Weights after two steps, with scoring before the first, between them, or not at all; and what it found."""
    torch.manual_seed(0)
    model = built(case)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    found = {}
    for number in range(2):
        if scored and number == case["steps"]:
            training = model.training
            engine = InfluenceEngine(model, max_tokens_per_batch=case.get("budget", 60))
            if case.get("padded"):
                engine.packing.possible = engine.budget.packed = False
            direction = engine.validation_gradient(VALIDATION)
            several = [direction, engine.validation_gradient(VALIDATION[:2])]
            influence, loss = engine.score(ROWS, direction)
            found = {
                "processes": engine.lockstep.size,
                "packed": engine.packing.possible,
                "influence": influence,
                "loss": loss,
                "losses": engine.losses(ROWS),
                "several": engine.score(ROWS, several)[0],
                "norms": engine.score(ROWS, direction, norms=True)[2],
                "few": engine.score(ROWS[:1], direction)[0],
                "direction": {name: whole(tensor).flatten().tolist() for name, tensor in direction.tensors.items()},
                "norm": direction.norm,
                "held": held(direction),
                "whole": [name for name, p in model.named_parameters() if not isinstance(p, DTensor)],
                "grads": [name for name, p in model.named_parameters() if p.grad is not None],
                "mode": model.training == training,
            }
            found["weights"] = {name: whole(p) for name, p in model.named_parameters()}
        step(model, optimizer, number)
    return found, {name: whole(p) for name, p in model.named_parameters()}


def whole(tensor):
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def held(direction):
    """Numbers that this process has of each tensor, and those of the whole."""
    return {
        name: [tensor.to_local().numel() if isinstance(tensor, DTensor) else tensor.numel(), tensor.numel()]
        for name, tensor in direction.tensors.items()
    }


def peaks():
    """Bytes a parameter of φ that a validation gradient takes at most, in shards and whole, beside all else."""
    sizes = SIZES | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4}
    found = []
    for whole in (False, True):
        torch.manual_seed(0)
        model = sharded(LlamaForCausalLM(LlamaConfig(**sizes)), "root")
        engine = InfluenceEngine(model, target_modules="all-linear", max_tokens_per_batch=64)
        if whole:
            engine.spread.rows.clear()
        with LiveBytes() as memory:
            direction = engine.validation_gradient(VALIDATION)
        found.append(memory.peak / sum(tensor.numel() for tensor in direction.tensors.values()))
    return found


def main(cases, folder: Path) -> dict:
    answers = {}
    for name, case in cases.items():
        found, after = trained(case, True)
        _, expected = trained(case, False)
        found["equal"] = all(torch.equal(after[key], expected[key]) for key in expected)
        if distributed.get_rank() == 0:
            torch.save(found.pop("weights"), folder / f"{name}.pt")
        answers[name] = {
            key: np.asarray(value).tolist() if key not in ("direction", "held") else value
            for key, value in found.items()
            if key != "weights"
        }
    answers["peaks"] = peaks()
    return answers


if __name__ == "__main__":
    cases, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    distributed.init_process_group("gloo")
    found = main(cases, folder)
    (folder / f"rank-{distributed.get_rank()}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()
