"""What one of two processes that share a model runs into, and what both make of it. See test_fsdp_faults.py."""

import json
import sys
from pathlib import Path

import torch
from conftest import make_model
from fsdp_processes import ROWS, VALIDATION, sharded, step
from oracle import with_lora
from torch import distributed
from torch.distributed.tensor import DTensor

from diq_hf.engine.influence import InfluenceEngine


def outcome(function, *args):
    """Its influences, or its error."""
    try:
        return function(*args)[0].tolist()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


class Failing:
    """Fails in a module's forward or backward pass, at some of its turns."""

    def __init__(self, module, error, turns, backward=False):
        self.error, self.turns, self.turn, self.backward = error, turns, 0, backward
        self.handle = module.register_forward_hook(self.see)

    def see(self, module, args, output):
        if self.backward and torch.is_grad_enabled():
            output.register_hook(self.raise_maybe)
        elif not self.backward:
            self.raise_maybe()

    def raise_maybe(self, gradient=None):
        self.turn += 1
        if self.turn - 1 in self.turns:
            raise self.error


class Poisoned:
    """Gives no numbers in a module's forward pass, at one of its turns."""

    def __init__(self, module, turn):
        self.turns = -turn
        self.handle = module.register_forward_hook(self.see)

    def see(self, module, args, output):
        self.turns += 1
        return output * float("nan") if self.turns == 1 else output


OUT = "CUDA out of memory. (as an accelerator would say)"


def main(adapter: bool) -> dict:
    rank, found = distributed.get_rank(), {}
    model = a_model(adapter)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    step(model, optimizer, 0)
    engine = InfluenceEngine(model, max_tokens_per_batch=80)
    direction = engine.validation_gradient(VALIDATION)
    expected = engine.score(ROWS, direction)[0]
    base = model.get_base_model() if adapter else model
    layers = base.model.layers
    places = {
        "first": layers[0].self_attn.o_proj,
        "last": layers[1].mlp.down_proj,
        "embeddings": model.get_input_embeddings(),
        "norm": base.model.norm,
    }
    for place, module in places.items():
        for backward in (False, True):
            if backward and place == "embeddings":
                continue
            name = f"{place} {'backward' if backward else 'forward'}"
            for kind, error in (("memory", RuntimeError(OUT)), ("error", KeyError(f"lost in {name}"))):
                engine.budget.max_tokens = 80
                failing = Failing(module, error, [1], backward) if rank == 1 else None
                found[f"{name} {kind}"] = outcome(engine.score, ROWS, direction)
                if failing:
                    failing.handle.remove()
                found[f"{name} {kind} budget"] = engine.budget.max_tokens
    differences = []
    for place, backward, turn in (("first", True, 0), ("first", True, 1), ("last", True, 0), ("last", False, 1)):
        engine.budget.max_tokens, engine.recomputing.wanted, told = 80, False, []
        failing = Failing(places[place], RuntimeError(OUT), [turn], backward) if rank == 0 else None
        again = engine.validation_gradient(VALIDATION * 3, told.append)  # of the same mean
        if failing:
            failing.handle.remove()
            assert failing.turn > turn
        differences += [float((again.tensors[n] - t).abs().max()) for n, t in direction.tensors.items()]
        assert sum(told) == len(VALIDATION * 3), told
    found["gradient"] = max(differences)
    found["largest"] = max(float(t.abs().max()) for t in direction.tensors.values())
    # Rows enough for one process alone, and an error before any pass.
    engine.budget.max_tokens = 10_000
    found["one"] = engine.score(ROWS[:1], direction)[0].tolist()
    found["none"] = engine.score([], direction)[0].tolist()
    # Memory that runs out where there is no row, and no more can be done about it.
    engine.recomputing.wanted = True
    failing = Failing(places["last"], RuntimeError(OUT), [0]) if rank == 1 else None
    found["idle"] = outcome(engine.score, ROWS[:1], direction)
    if failing:
        failing.handle.remove()
        assert failing.turn == 2
    engine.recomputing.wanted = False
    poisoned = Poisoned(places["norm"], 0) if rank == 1 else None
    found["nan"] = outcome(lambda: engine.validation_gradient(VALIDATION))
    if poisoned:
        poisoned.handle.remove()
    rows = list(VALIDATION)

    def prepared():
        with engine.lockstep.together():
            if rank == 1:
                raise OSError("no such shard of rows")
            engine.validation_gradient(rows)

    found["before"] = outcome(prepared)
    found["expected"], found["again"] = expected.tolist(), engine.score(ROWS, direction)[0].tolist()
    found["whole"] = [name for name, p in model.named_parameters() if not isinstance(p, DTensor)]
    # The training goes on as it would have.
    step(model, optimizer, 1)
    found["weights"] = [p.full_tensor().double().sum().item() for p in model.parameters()]
    model = a_model(adapter)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for number in range(2):
        step(model, optimizer, number)
    found["alone"] = [p.full_tensor().double().sum().item() for p in model.parameters()]
    return found


def exhausted() -> None:
    """Memory runs out on one process, and again in what brings the others' pass to its end."""
    engine = InfluenceEngine(a_model(False), max_tokens_per_batch=80)
    direction = engine.validation_gradient(VALIDATION)
    if distributed.get_rank() == 1:
        Failing(engine.model.model.layers[0].mlp, RuntimeError(OUT), [1, 2, 3])
    engine.score(ROWS, direction)


def a_model(adapter):
    torch.manual_seed(0)
    model = make_model()
    return sharded(with_lora(model) if adapter else model, "accelerate")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    distributed.init_process_group("gloo")
    if sys.argv[2:] == ["exhausted"]:
        exhausted()
    found = {kind: main(kind == "lora") for kind in ("lora", "full")}
    (folder / f"rank-{distributed.get_rank()}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()
