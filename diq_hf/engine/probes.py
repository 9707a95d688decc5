"""Probes: hooks that read each row's gradient while one backward pass forms it, so that it is never kept.

A linear module with input a_t and loss gradient b_t at its output has the weight gradient Σ_t b_t a_tᵀ, the sum over a
row's tokens. Its product with a fixed direction ΔW is a sum of the tokens' shares ⟨b_t, ΔW a_t⟩, whatever rows stand
side by side; several directions and projections are taken from the row's own Σ_t b_t a_tᵀ, which lives no longer than
the module's turn in the backward pass.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import nn

from ..rows.batching import Batch
from .modules import some


class Reader(Protocol):
    """What is read off one module."""

    def keep(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the backward pass needs of the module's inputs, of shape `(rows, length, features)`."""

    def read(self, kept: torch.Tensor, grad_output: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The module's part of the result."""


class TokenShares:
    """⟨b_t, ΔW a_t⟩ of every token: one direction, at the price of one product with it.

    Args:
        direction (`torch.Tensor` of shape `(out_features, in_features)`):
            ΔW.
    """

    def __init__(self, direction: torch.Tensor):
        self.direction = direction
        # A power of two, so that nothing is rounded: an fp16 product of small numbers would vanish otherwise.
        largest = float(direction.abs().max())
        self.scale = 2.0 ** math.floor(math.log2(largest)) if largest > 0 and math.isfinite(largest) else 1.0
        self.narrow_output = direction.shape[0] <= direction.shape[1]
        self._cast: torch.Tensor | None = None

    def keep(self, inputs: torch.Tensor) -> torch.Tensor:
        if self._cast is None or (self._cast.dtype, self._cast.device) != (inputs.dtype, inputs.device):
            self._cast = (self.direction / self.scale).to(inputs.device, inputs.dtype)
        # ⟨b, ΔW a⟩ = ⟨ΔWᵀ b, a⟩: keep whichever is smaller, ΔW a or a itself.
        return nn.functional.linear(inputs, self._cast) if self.narrow_output else inputs

    def read(self, kept: torch.Tensor, grad_output: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self.shares(kept, grad_output)

    def shares(self, kept: torch.Tensor, grad_output: torch.Tensor) -> torch.Tensor:
        """Each token's share, of the shape of the tokens."""
        pulled = grad_output if self.narrow_output else grad_output @ self._cast
        wide = self.direction.dtype
        return (pulled.to(wide) * kept.to(wide)).sum(dim=-1) * self.scale


class RowProducts:
    """Products of each row's gradient with several directions, and its projection.

    Args:
        directions (`Sequence[torch.Tensor]`):
            Directions, each of shape `(out_features, in_features)`.
        projection (`Callable`, *optional*):
            Turns a flat gradient into its projection.
    """

    def __init__(
        self,
        directions: Sequence[torch.Tensor],
        projection: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        self.directions = [direction.reshape(-1) for direction in directions]
        self.projection = projection

    def keep(self, inputs: torch.Tensor) -> torch.Tensor:
        # Once: directions from disk start on the CPU.
        self.directions = [direction.to(inputs.device) for direction in self.directions]
        return inputs

    def read(self, kept: torch.Tensor, grad_output: torch.Tensor, batch: Batch) -> torch.Tensor:
        if kept.dtype == torch.float16:  # whose sums overflow
            kept, grad_output = kept.float(), grad_output.float()
        wide = torch.promote_types(kept.dtype, torch.float32)
        found = []
        for inputs, outputs in zip(batch.rows(kept), batch.rows(grad_output), strict=True):
            gradient = (outputs.T @ inputs).to(wide).reshape(-1)
            parts = [torch.dot(gradient, direction.to(wide))[None] for direction in self.directions]
            found.append(torch.cat([*parts, *([self.projection(gradient)] if self.projection else [])]))
        return torch.stack(found)


class Probes:
    """Gathers what readers read, summed over modules, as the gradient of one tensor.

    Args:
        modules (`Mapping[str, nn.Module]`):
            Linear modules by name.
    """

    def __init__(self, modules: Mapping[str, nn.Module]):
        self.modules = modules
        self._fired: set[str] = set()

    @contextmanager
    def reading(self, readers: Mapping[str, Reader]):
        """Hooks that live inside this context alone."""
        handles = []
        try:
            for name, module in self.modules.items():
                handles.append(module.register_forward_hook(self._hook(name, readers[name])))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def start(self, batch: Batch, sink: torch.Tensor) -> None:
        """Says which batch comes next and whose gradient the readings become."""
        self._batch, self._sink = batch, sink
        self._fired.clear()

    def check(self) -> None:
        """
        Raises:
            `ValueError`: A module was not called in the forward pass, so nothing was read off it.
        """
        if silent := [name for name in self.modules if name not in self._fired]:
            raise ValueError(
                f"The forward pass uses the weight of {some(silent)} without calling the module, so its share of "
                "the influence cannot be taken. Leave it out of the adapter or of `target_modules` "
                "(`target_parameters` of PEFT, for one)."
            )

    def _hook(self, name: str, reader: Reader):
        def hook(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
            self._fired.add(name)
            expected = self._batch.input_ids.shape
            if output.shape[:-1] != expected:
                raise ValueError(
                    f"`{name}` gives {tuple(output.shape)} for a batch of {tuple(expected)} tokens: it does not see "
                    "one vector a token (experts of a mixture, for one). Leave it out of `target_modules`."
                )
            # A model spread over devices has modules away from the tokens; the product is taken in the output's dtype.
            inputs = args[0].to(output.dtype)
            return _Probe.apply(output, inputs, reader, self._batch, self._sink.to(output.device))

        return hook


class _Probe(torch.autograd.Function):
    """Identity on a module's output, whose backward adds the reader's reading to the sink's gradient."""

    @staticmethod
    def forward(ctx, output, inputs, reader, batch, sink):
        ctx.reader, ctx.batch, ctx.dtype = reader, batch, sink.dtype
        ctx.save_for_backward(reader.keep(inputs))
        return output.view_as(output)

    @staticmethod
    def backward(ctx, grad_output):
        (kept,) = ctx.saved_tensors
        return grad_output, None, None, None, ctx.reader.read(kept, grad_output, ctx.batch).to(ctx.dtype)
