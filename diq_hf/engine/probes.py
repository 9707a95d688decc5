"""Probes: hooks that read each row's gradient while one backward pass forms it, so that it is never kept.

A linear module with input a_t and loss gradient b_t at its output has the weight gradient Σ_t b_t a_tᵀ. Its product
with a fixed direction ΔW is a sum of the tokens' shares ⟨b_t, ΔW a_t⟩, whatever rows stand side by side; projections
and norms are taken from the row's own sum, which lives no longer than the module's turn in the backward pass; and the
sum over all tokens is the batch's gradient.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import nn

from ..rows.batching import Batch
from ..rows.encoded import IGNORE_INDEX
from .modules import some


class Reader(Protocol):
    """What is read off one module."""

    def keep(self, inputs: torch.Tensor) -> Sequence[torch.Tensor]:
        """What the backward pass needs of the module's inputs, of shape `(rows, length, features)`."""

    def read(self, kept: Sequence[torch.Tensor], grad_output: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The module's part of the result, which must have the sink's shape or broadcast to it."""


class TokenShares:
    """⟨b_t, ΔW a_t⟩ of every token: one direction, at the price of one product with it.

    Args:
        direction (`torch.Tensor` of shape `(out_features, in_features)`):
            ΔW.
        beside (`int`, *optional*, defaults to `1`):
            Directions that are read in the same pass.
        whole (`Callable`, *optional*):
            Brings it together where it is in shards, each time it is multiplied with.
    """

    def __init__(
        self,
        direction: torch.Tensor,
        beside: int = 1,
        whole: Callable[[torch.Tensor], torch.Tensor] = lambda part: part,
    ):
        self.direction, self.whole = direction, whole
        self.scale = 1.0
        # ⟨b, ΔW a⟩ = ⟨ΔWᵀ b, a⟩: keep whichever is smaller, ΔW a or a itself, which serves all directions.
        self.narrow_output = beside * direction.shape[0] <= direction.shape[1]
        self._cast: torch.Tensor | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> "TokenShares":
        """Makes the direction ready for products there: once, however many batches follow."""
        if self._cast is None or (self._cast.device, self._cast.dtype) != (device, dtype):
            cast = self.direction
            if dtype != cast.dtype:
                # A power of two, so that nothing is rounded: an fp16 product of small numbers would vanish otherwise.
                largest = float(cast.abs().max())
                self.scale = 2.0 ** math.floor(math.log2(largest)) if largest > 0 and math.isfinite(largest) else 1.0
                cast = cast / self.scale
            self._cast = cast.to(device, dtype)
        return self

    def keep(self, inputs: torch.Tensor) -> torch.Tensor:
        self.to(inputs.device, inputs.dtype)
        return nn.functional.linear(inputs, self.whole(self._cast)) if self.narrow_output else inputs

    def shares(self, kept: torch.Tensor, grad_output: torch.Tensor) -> torch.Tensor:
        """Each token's share, of the shape of the tokens."""
        pulled = grad_output if self.narrow_output else grad_output @ self.whole(self._cast)
        wide = self.direction.dtype
        return (pulled.to(wide) * kept.to(wide)).sum(dim=-1) * self.scale


class Shares:
    """The tokens' shares of several directions, of shape `(rows, length, directions)`.

    Args:
        directions (`Sequence[TokenShares]`):
            One for each.
    """

    def __init__(self, directions: Sequence[TokenShares]):
        self.directions = directions

    def keep(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        return [direction.keep(inputs) for direction in self.directions]

    def read(self, kept: Sequence[torch.Tensor], grad_output: torch.Tensor, batch: Batch) -> torch.Tensor:
        pairs = zip(self.directions, kept, strict=True)
        return torch.stack([direction.shares(part, grad_output) for direction, part in pairs], dim=-1)


class RowProducts:
    """Products of each row's gradient with several directions, and what else is read off it: `(rows, numbers)`.

    Args:
        directions (`Sequence[torch.Tensor]`):
            Directions, each of shape `(out_features, in_features)` or flat, on the module's device.
        projection (`Callable`, *optional*):
            Turns a flat gradient into its projection.
        norm (`bool`, *optional*, defaults to `False`):
            Whether the gradient's squared norm comes last.
        transform (`Callable`, *optional*):
            What is made of a row's flat gradient, that of its mean loss, before anything is read off it.
        whole (`Callable`, *optional*):
            Brings directions together that are in shards, each time they are multiplied with.
    """

    def __init__(
        self,
        directions: Sequence[torch.Tensor],
        projection: Callable[[torch.Tensor], torch.Tensor] | None = None,
        norm: bool = False,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        whole: Callable[[torch.Tensor], torch.Tensor] = lambda part: part,
    ):
        self.directions, self.whole = directions, whole
        self.projection, self.norm, self.transform = projection, norm, transform

    def keep(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        return [inputs]

    def read(self, kept: Sequence[torch.Tensor], grad_output: torch.Tensor, batch: Batch) -> torch.Tensor:
        inputs, grad_output = _summable(kept[0], grad_output)
        wide = torch.promote_types(inputs.dtype, torch.float32)
        found, directions = [], [self.whole(direction).reshape(-1).to(wide) for direction in self.directions]
        rows = zip(batch.rows(inputs), batch.rows(grad_output), batch.rows(batch.labels), strict=True)
        for row, outputs, labels in rows:
            gradient = (outputs.T @ row).to(wide).reshape(-1)
            if self.transform is not None:
                trained = int((labels[1:] != IGNORE_INDEX).sum())  # what comes of it is divided by them, as sums are
                gradient = self.transform(gradient / trained) * trained
            parts = [torch.dot(gradient, direction)[None] for direction in directions]
            parts += [self.projection(gradient)] if self.projection else []
            parts += [torch.dot(gradient, gradient)[None]] if self.norm else []
            found.append(torch.cat(parts))
        return torch.stack(found)


class WeightGradient:
    """Adds a batch's whole gradient to a sum, so that neither the batch's own nor the weight's `.grad` is kept.

    Args:
        total (`torch.Tensor` of shape `(out_features, in_features)`):
            The sum, in fp32 or wider.
        add (`Callable`, *optional*):
            Adds a gradient, or nothing, so many times to it, where it is in shards.
    """

    def __init__(self, total: torch.Tensor, add: Callable[[torch.Tensor | None, float], None] | None = None):
        self.total, self.add = total, add
        self.factor = 1.0
        """What the gradient counts for; nothing is added where it is zero."""

    def keep(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        return [inputs]

    def read(self, kept: Sequence[torch.Tensor], grad_output: torch.Tensor, batch: Batch) -> torch.Tensor:
        inputs, outputs = (tensor.flatten(0, -2) for tensor in _summable(kept[0], grad_output))
        if self.add is not None:  # by all processes, whether or not this one has anything
            self.add(outputs.T @ inputs if self.factor else None, self.factor)
        elif self.factor == 0:
            pass
        elif inputs.dtype == self.total.dtype:
            self.total.addmm_(outputs.T, inputs, alpha=self.factor)
        else:
            self.total.add_(outputs.T @ inputs, alpha=self.factor)
        return outputs.new_zeros(())


def _summable(*tensors: torch.Tensor) -> Sequence[torch.Tensor]:
    """The same in fp32 if they are fp16, whose sums overflow."""
    return [tensor.float() if tensor.dtype == torch.float16 else tensor for tensor in tensors]


class Probes:
    """Gathers what readers read, summed over modules, as the gradient of one tensor.

    Args:
        modules (`Mapping[str, nn.Module]`):
            Linear modules by name.
    """

    def __init__(self, modules: Mapping[str, nn.Module]):
        self.modules = modules
        self._calls: Counter[str] = Counter()
        self._unread: set[str] = set()
        self._batch: Batch | None = None
        self._sink: torch.Tensor | None = None

    @contextmanager
    def reading(self, readers: Mapping[str, Reader]):
        """Hooks that live inside this context alone."""
        handles = []
        try:
            for name, module in self.modules.items():
                handles.append(module.register_forward_hook(self._hook(name, readers[name])))
            yield
        finally:
            self._batch = self._sink = None
            for handle in handles:
                handle.remove()

    def start(self, batch: Batch, sink: torch.Tensor) -> None:
        """Says which batch comes next and whose gradient the readings become."""
        self._batch, self._sink = batch, sink
        self._calls.clear()
        self._unread = set(self.modules)

    def rest(self) -> None:
        """Reads nothing until the next batch."""
        self._batch = None

    def check(self, once: bool = False) -> None:
        """Looks whether the forward pass has called every module, and where it matters no more than once.

        Raises:
            `ValueError`: It has not.
        """
        if silent := [name for name in self.modules if name not in self._calls]:
            raise ValueError(
                f"The forward pass does not call {some(silent)}, so no gradient can be read there. Either its weight "
                "takes no part in the loss: is its adapter active and unmerged? Or it is used without calling the "
                "module (`target_parameters` of PEFT, for one): leave it out of the adapter or of `target_modules`."
            )
        if once and (repeated := [name for name, calls in self._calls.items() if calls > 1]):
            raise ValueError(
                f"The forward pass calls {some(repeated)} more than once, and a row's gradient there is a sum whose "
                "norm cannot be taken in parts. Leave it out of `target_modules`, or score without norms."
            )

    def check_read(self) -> None:
        """
        Raises:
            `ValueError`: The backward pass did not reach a module that the forward pass had called.
        """
        if unread := [name for name in self.modules if name in self._unread]:
            raise ValueError(
                f"{some(unread)} takes no part in the loss, so rows cannot be scored by it. Leave it out of the "
                "adapter or of `target_modules`."
            )

    def _hook(self, name: str, reader: Reader):
        def hook(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
            if self._batch is None:
                return output
            self._calls[name] += 1
            expected = self._batch.input_ids.shape
            if output.shape[:-1] != expected:
                raise ValueError(
                    f"`{name}` gives {tuple(output.shape)} for a batch of {tuple(expected)} tokens: it does not see "
                    "one vector a token (experts of a mixture, for one). Leave it out of `target_modules`."
                )
            # A model spread over devices has modules away from the tokens; the product is taken in the output's dtype.
            inputs, sink, batch = args[0].to(output.dtype), self._sink.to(output.device), self._batch

            def read(kept: Sequence[torch.Tensor], grad_output: torch.Tensor) -> torch.Tensor:
                self._unread.discard(name)
                return reader.read(kept, grad_output, batch).to(sink.dtype).expand(sink.shape)

            return _Probe.apply(output, inputs, reader.keep, read, sink)

        return hook


class _Probe(torch.autograd.Function):
    """Identity on a module's output, whose backward adds the reader's reading to the sink's gradient."""

    @staticmethod
    def forward(ctx, output, inputs, keep, read, sink):
        ctx.read = read
        ctx.save_for_backward(*keep(inputs))
        return output.view_as(output)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output, None, None, None, ctx.read(ctx.saved_tensors, grad_output)
