"""Weights in shards of DeepSpeed's ZeRO-3, which its own hooks bring together while a module runs.

Between a module's turns such a weight is an empty tensor with a shape beside it. What reads one without calling its
module, as the loss does the head's, has it gathered.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn


def in_zero(weight: torch.Tensor) -> bool:
    return hasattr(weight, "ds_id")


def shape_of(weight: torch.Tensor) -> torch.Size:
    """A weight's own, wherever it lies."""
    return weight.ds_shape if in_zero(weight) else weight.shape


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """A module's own weights whole, on every process: all of them do so at one place of a pass."""
    weights: list[Any] = [weight for weight in module.parameters(recurse=False) if in_zero(weight)]
    if all(weight.ds_status.name == "AVAILABLE" for weight in weights):  # in a module's turn, or in this very function
        yield
        return
    import deepspeed  # which whoever has such weights has

    with deepspeed.zero.GatheredParameters(weights):
        yield


class Zero:
    """The shards of one model, if it has any.

    Args:
        model (`nn.Module`):
            The model.
    """

    def __init__(self, model: nn.Module):
        self.weights: list[Any] = [weight for weight in model.parameters() if in_zero(weight)]
        self._left = False

    def __bool__(self) -> bool:
        return bool(self.weights)

    @property
    def group(self) -> distributed.ProcessGroup | None:
        """The processes that share it; `None` for one alone."""
        group = self.weights[0].ds_process_group
        return group if distributed.get_world_size(group) > 1 else None

    def settle(self) -> None:
        """Puts every weight back into shards. Those of a module that no backward pass has left are whole still."""
        if self._left:
            return
        optimizers = {id(weight._z3_optimizer): weight._z3_optimizer for weight in self.weights}
        for optimizer in optimizers.values():
            optimizer.empty_partition_cache()

    def leave(self) -> None:
        """Waits for no other process any more: a pass has failed, and this one ends."""
        self._left = True
