"""Influences of rows while they are trained, read off the training's own forward and backward passes.

The passes are those of training, with its dropout and its precision, and nothing in them changes: a linear module's
inputs are multiplied with the direction beside the graph, and gradients are looked at as they pass by.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn

from ..engine.influence import Direction, InfluenceEngine
from ..engine.modules import as_linear
from ..engine.probes import TokenShares
from ..rows.encoded import IGNORE_INDEX


# Trained tokens a batch at which the loss's own factor is measured.
SAMPLED_TOKENS = 16


@dataclass
class _Passing:
    """A batch between its forward and the end of its backward pass."""

    labels: torch.Tensor
    starts: torch.Tensor | None  # where rows begin in a flat batch
    shares: torch.Tensor
    read: set[str] = field(default_factory=set)
    hidden: torch.Tensor | None = None
    targets: torch.Tensor | None = None
    slopes: torch.Tensor | None = None

    def row_sums(self, values: torch.Tensor) -> torch.Tensor:
        if self.starts is None:
            return values.sum(dim=1)
        lengths = torch.diff(self.starts, append=self.starts.new_tensor([values.shape[1]])).tolist()
        return torch.stack([part.sum() for part in values[0].split(lengths)])


class OnlineInfluence:
    """Reads influences off a model that is being trained with mean cross-entropy.

    What the trainer divides the loss by (tokens of the whole step, processes, accumulation) is measured, by comparing
    gradients at a few hidden states with those of the plain loss.

    Args:
        engine ([`~diq_hf.engine.influence.InfluenceEngine`]):
            The engine of the model.
    """

    def __init__(self, engine: InfluenceEngine):
        self.engine = engine
        self.influences: dict[int, float] = {}
        self._readers: dict[str, TokenShares] = {}
        self._rows: Callable[[int], list[int]] | None = None
        self._batches, self._passing = 0, None
        self._hooks = ExitStack()

    def attach(self) -> None:
        """Starts to read."""
        hooks = [self.engine.model.register_forward_pre_hook(self._begin, with_kwargs=True)]
        hooks.append(self.engine.row_loss.backbone.register_forward_hook(self._see_hidden))
        hooks += [module.register_forward_hook(self._see(name)) for name, module in self.engine.modules.items()]
        for hook in hooks:
            self._hooks.callback(hook.remove)

    def detach(self) -> None:
        """Leaves the model as it was."""
        self._hooks.close()

    def use(self, direction: Direction) -> None:
        """Reads the influence on another validation gradient from now on."""
        self.direction = direction
        self._readers = {
            name: TokenShares(as_linear(module, direction.tensors[f"{name}.weight"]))
            for name, module in self.engine.modules.items()
        }

    def begin_step(self, rows: Callable[[int], list[int]]) -> None:
        """Says which rows stand in each of the coming update step's batches, by the batch's number."""
        self._rows, self._batches = rows, 0

    def gathered(self, accelerator: Any) -> tuple[np.ndarray, np.ndarray]:
        """Rows that were trained since the last call, on all processes, and their influences."""
        items = list(self.influences.items())
        self.influences = {}
        if accelerator.num_processes > 1:
            items = gather_object(items)
        return np.array([row for row, _ in items], dtype=int), np.array([value for _, value in items], dtype=float)

    def collect(self) -> None:
        """Takes the readings of the batch whose backward pass has ended.

        Raises:
            `ValueError`: The training loss is not the mean cross-entropy.
        """
        passing, self._passing = self._passing, None
        if passing is None or passing.slopes is None or not len(passing.slopes):
            return
        factor = self._factor(passing)
        sums = passing.row_sums(passing.shares.double())
        trained = passing.labels != IGNORE_INDEX
        if passing.starts is None:
            trained[:, 0] = False
        else:
            trained[0, passing.starts] = False
        counts = passing.row_sums(trained.double())
        rows = self._rows(self._batches - 1)
        if len(rows) != len(sums):
            raise ValueError(f"The batch has {len(sums)} rows where the sampler gave {len(rows)}.")
        self.influences |= dict(zip(rows, (sums / (factor * counts)).tolist(), strict=True))

    def _begin(self, model: nn.Module, args: tuple, inputs: dict) -> None:
        if not (self._readers and model.training and torch.is_grad_enabled()):
            return
        self.collect()
        labels = inputs.get("labels")
        if labels is None:
            raise ValueError("`online=True` reads `labels`, and the model was called without. Pass `online=False`.")
        starts = None
        if inputs.get("attention_mask") is None and "position_ids" in inputs:
            starts = (inputs["position_ids"][0] == 0).nonzero().flatten()
        shares = torch.zeros(labels.shape, dtype=self.engine.dtype, device=labels.device)
        self._passing = _Passing(labels.clone(), starts, shares)
        self._batches += 1

    def _see(self, name: str) -> Callable:
        def look(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
            passing = self._passing
            # A checkpointed layer runs twice: once without a graph, or once more beside the one that is used.
            if passing is None or name in passing.read or not (module.training and output.requires_grad):
                return
            passing.read.add(name)
            reader = self._readers[name]
            with torch.no_grad():
                kept = reader.keep(args[0].detach().to(output.dtype))

            def read(gradient: torch.Tensor) -> None:
                passing.shares += reader.shares(kept, gradient).to(passing.shares)

            output.register_hook(read)

        return look

    def _see_hidden(self, module: nn.Module, args: tuple, output: Any) -> None:
        passing, hidden = self._passing, output.last_hidden_state
        if passing is None or not (module.training and hidden.requires_grad):
            return
        places = (passing.labels[:, 1:] != IGNORE_INDEX).nonzero()
        places = places[:: max(1, len(places) // SAMPLED_TOKENS)]
        places = places[:, 0], places[:, 1]
        passing.hidden = hidden.detach()[places]
        passing.targets = passing.labels[:, 1:][places]

        def see(gradient: torch.Tensor) -> None:
            passing.slopes = gradient[places]

        hidden.register_hook(see)

    def _factor(self, passing: _Passing) -> float:
        """What the trainer multiplies a token's cross-entropy by."""
        weight = self.engine.row_loss.head.weight
        hidden = passing.hidden.to(weight.device, weight.dtype).requires_grad_()
        with torch.enable_grad():
            losses = self.engine.row_loss.token_losses(hidden, passing.targets.to(weight.device))
            (plain,) = torch.autograd.grad(losses.sum(), hidden)
        plain, found = plain.double().flatten(), passing.slopes.to(weight.device).double().flatten()
        product = torch.dot(plain, found)
        if not product.isfinite():  # a training that diverges is not ended here
            return float("nan")
        if not product > 0.98 * plain.norm() * found.norm():
            raise ValueError(
                "`online=True` knows the plain cross-entropy, and the gradients of this training's loss are not "
                "proportional to its (label smoothing, `loss_type='dft'` or a loss function of your own). Pass "
                "`online=False`."
            )
        return float(product / plain.square().sum())
