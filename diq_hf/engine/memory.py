"""What scoring takes of a device's memory, in one line before the first batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.tensor import DTensor


def memory_plan(
    model: nn.Module,
    numbers: int,
    one_pass: Callable[[], Any],
    tokens: int,
    max_tokens: int,
    device: torch.device,
) -> str:
    """Weights, direction and activations of one process.

    Args:
        model (`nn.Module`):
            The model.
        numbers (`int`):
            How many the process holds of a validation gradient.
        one_pass (`Callable`):
            Runs so many `tokens` forwards and backwards, from which those of a whole batch are told.
        tokens (`int`):
            See above.
        max_tokens (`int`):
            Tokens in a batch.
        device (`torch.device`):
            Where it runs.
    """
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tokens in tensor.shape and not isinstance(tensor, nn.Parameter):  # not a weight
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        one_pass()
    owned = {id(p): p.to_local() if isinstance(p, DTensor) else getattr(p, "ds_tensor", p) for p in model.parameters()}
    weights = sum(p.numel() * p.element_size() for p in owned.values() if p.device.type == device.type)
    a_token = sum(kept.values()) / tokens
    parts = [
        f"weights {_size(weights)}",
        f"validation gradient {_size(4 * numbers)}",
        f"activations about {_size(a_token * max_tokens)} for {max_tokens} tokens a batch ({_size(a_token)} a token)",
    ]
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        parts.append(f"of {_size(total)} on the device, {_size(free)} free")
    return f"Memory: {', '.join(parts)}."


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"
