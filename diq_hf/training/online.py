"""Influences of rows while they are trained, read off the training's own forward and backward passes.

The passes are those of training, with its dropout and its precision, and nothing in them changes: a linear module's
inputs are multiplied with the direction beside the graph, and gradients are looked at as they pass by.
"""

import math
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn

from ..engine.influence import Direction, InfluenceEngine
from ..engine.probes import TokenShares
from ..engine.sharding import device_of
from ..rows.batching import Batch
from ..rows.encoded import IGNORE_INDEX


# Which of them reads off a model that is being trained.
_READERS: WeakKeyDictionary[nn.Module, weakref.ref["OnlineInfluence"]] = WeakKeyDictionary()
# Trained tokens a batch at which the loss's own factor is measured.
SAMPLED_TOKENS = 16


@dataclass
class _Passing:
    """A batch between its forward and the end of its backward pass."""

    batch: Batch
    rows: list[int]
    shares: torch.Tensor
    read: set[str] = field(default_factory=set)
    expected: torch.Tensor | None = None
    slopes: torch.Tensor | None = None


class OnlineInfluence:
    """Reads influences off a model that is being trained with the engine's own loss.

    What the trainer divides the loss by (tokens of the whole step, processes, accumulation) is measured, by comparing
    gradients at a few hidden states with those of that loss.

    The model's hooks hold nothing that keeps this object alive, and go with it: a training that was interrupted
    leaves none once its trainer and callback are gone, nor does an error that is raised here.

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
        weakref.finalize(self, self._hooks.close)

    def attach(self) -> None:
        """Starts to read, once however often it is called."""
        self.detach()
        with ExitStack() as hooks:  # all of them or none
            for module, kind, method, *given in (
                (self.engine.model, "register_forward_pre_hook", self._begin),
                (self.engine.row_loss.backbone, "register_forward_hook", self._see_hidden),
                *((module, "register_forward_hook", self._see, name) for name, module in self.engine.modules.items()),
            ):
                hook = getattr(module, kind)(_weakly(method, *given), with_kwargs=True)
                hooks.callback(hook.remove)
            self._hooks.push(hooks.pop_all())
        _READERS[self.engine.model] = weakref.ref(self)

    @staticmethod
    def detach_former(model: nn.Module) -> None:
        """Leaves a model as it was before whatever reads off it, if anything does."""
        if (former := _READERS.pop(model, None)) and (online := former()):
            online.detach()

    def detach(self) -> None:
        """Leaves the model as it was."""
        self._passing = None
        self._hooks.close()

    def use(self, direction: Direction) -> None:
        """Reads the influence on another validation gradient from now on."""
        self.direction = direction
        self._readers = self.engine.prepared.token_shares(direction)
        if direction.in_shards:  # while all processes are here: the state of a checkpoint is asked of the first alone
            _ = direction.digest

    def begin_step(self, rows: Callable[[int], list[int]] | None) -> None:
        """Says which rows stand in each of the coming update step's batches, by the batch's number.

        With `None` no step is coming, and nothing is read.
        """
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
            `ValueError`: The training's loss is not the engine's.
        """
        passing, self._passing = self._passing, None
        if passing is None or passing.slopes is None or not len(passing.slopes):
            return
        try:
            factor = self._factor(passing)
        except BaseException:
            self.detach()
            raise
        batch = passing.batch
        trained = batch.labels != IGNORE_INDEX
        trained[:, 0] = False  # nothing before it predicts it
        if batch.packed:
            trained[0, list(accumulate(batch.lengths, initial=0))[:-1]] = False
        counts = batch.row_sums(trained.long()).tolist()
        # On the CPU: not every device has float64.
        sums = batch.row_sums(passing.shares[:, : trained.shape[1]].cpu().double()).tolist()
        for row, total, count in zip(passing.rows, sums, counts, strict=True):
            self.influences[row] = total / (factor * count) if count else math.nan

    def _begin(self, model: nn.Module, args: tuple, inputs: dict) -> None:
        if not (self._readers and self._rows and model.training and torch.is_grad_enabled()):
            return
        self.collect()
        try:
            rows = self._rows(self._batches)
            batch = _batch(inputs, len(rows))
        except BaseException:
            self.detach()
            raise
        shares = torch.zeros(inputs["labels"].shape, dtype=self.engine.dtype, device=batch.labels.device)
        self._passing = _Passing(batch, rows, shares)
        self._batches += 1

    def _see(self, name: str, module: nn.Module, args: tuple, inputs: dict, output: torch.Tensor) -> None:
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

    def _see_hidden(self, module: nn.Module, args: tuple, inputs: dict, output: Any) -> None:
        passing, hidden = self._passing, output.last_hidden_state
        if passing is None or not (module.training and hidden.requires_grad):
            return
        labels = passing.batch.labels
        places = (labels[:, 1:] != IGNORE_INDEX).nonzero()
        places = places[:: max(1, len(places) // SAMPLED_TOKENS)]
        targets = labels[:, 1:][places[:, 0], places[:, 1]]
        places = tuple(places.to(hidden.device).T)  # the last layers may be away from the tokens
        passing.expected = self._slopes(hidden.detach()[places], targets)

        def see(gradient: torch.Tensor) -> None:
            passing.slopes = gradient[places]

        hidden.register_hook(see)

    def _slopes(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Gradients of the tokens' own cross-entropies: here, in the forward pass, the head's weights are whole."""
        row_loss = self.engine.row_loss
        device = device_of(row_loss.head)
        # In the weights' own type, whatever the training computes in.
        with (
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            self.engine.sharding.whole(row_loss.head),
        ):
            hidden = hidden.to(device, row_loss.head.weight.dtype).requires_grad_()
            losses = row_loss.weighted(row_loss.token_losses(hidden, targets.to(device)))
            return torch.autograd.grad(losses.sum(), hidden)[0]

    def _factor(self, passing: _Passing) -> float:
        """What the trainer multiplies a token's cross-entropy by."""
        plain, found = (part.cpu().double().flatten() for part in (passing.expected, passing.slopes))
        product = torch.dot(plain, found)
        if not product.isfinite():  # a training that diverges is not ended here
            return float("nan")
        if not product > 0.98 * plain.norm() * found.norm():
            raise ValueError(
                "`online=True` knows the loss that rows are scored by, and the gradients of this training's are not "
                "proportional to its (a loss function of your own, for one). Pass `online=False`."
            )
        return float(product / plain.square().sum())


def _batch(inputs: Mapping, count: int) -> Batch:
    """The training's batch of so many rows, without the padding behind a flat one.

    Raises:
        `ValueError`: It is not made of so many rows.
    """
    labels, ids = inputs.get("labels"), inputs.get("input_ids")
    if labels is None or ids is None:
        raise ValueError(
            "`online=True` reads `input_ids` and `labels`, and the model was called without. Pass `online=False`."
        )
    labels = labels.clone()
    if inputs.get("attention_mask") is not None or "position_ids" not in inputs or len(labels) > 1:
        found, rest = len(labels), False
        batch = Batch(ids, labels, [labels.shape[1]] * found, packed=False)
    else:
        starts = (inputs["position_ids"][0] == 0).nonzero().flatten().tolist()
        # Padding stands behind the rows, each of its tokens at position 0.
        edges = [*starts, labels.shape[1]][: count + 1]
        found, rest = len(edges) - 1, bool((labels[:, edges[-1] :] != IGNORE_INDEX).any())
        lengths = [end - start for start, end in pairwise(edges)]
        batch = Batch(ids[:, : edges[-1]], labels[:, : edges[-1]], lengths, packed=True)
    if found != count or rest:
        raise ValueError(
            f"The batch has {'more' if rest else found} rows where the sampler gave {count}. Pass `online=False`."
        )
    return batch


def _weakly(method: Callable, *given: Any) -> Callable:
    """A hook that calls a method while its object lives."""
    reference = weakref.WeakMethod(method)

    def hook(*args: Any) -> None:
        if (found := reference()) is not None:
            found(*given, *args)

    return hook
