"""Influence: how much one small step on a row lowers the validation loss.

    Dot(z) = g(z) · ḡ_val,   g(z) = ∇_φ l(z; θ),   ḡ_val = the mean of the validation rows' gradients

(https://huggingface.co/papers/2508.01450.) A step of size η on row z changes the mean validation loss by
-η·Dot(z) + O(η²), so a positive influence helps.

ḡ_val is fixed while rows are scored, so Dot(z) is the derivative of l(z; φ + ε·ḡ_val) at ε = 0, and no row's gradient
is ever formed. A linear module with input a_t and loss gradient b_t at its output contributes ⟨b_t, ΔW a_t⟩ for each
token t, ΔW being its part of ḡ_val. Those shares are collected in one backward pass over a batch of any rows; summed
over a row's tokens and over modules they are the row's influence, whatever stands beside it in the batch.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from ..rows.batching import Batch
from ..rows.encoded import EncodedRow
from .direction import Direction, PreparedDirections, gradient_readers, zeros_of
from .lockstep import IDLE_ROW, Again
from .modes import scoring_mode
from .passes import Passes
from .probes import Reader
from .projections import Projection
from .spread import in_shards


class NonFiniteLossError(ValueError):
    """A validation row's loss is infinite or no number, so there is no mean gradient."""


class InfluenceEngine(Passes):
    """Validation gradients and exact influences of one model.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            A causal language model. It comes back from every call as it was. One in shards of FSDP2 or ZeRO-3 is
            scored by all of its processes: each makes every call here with the same rows, runs its share of them, and
            gets the results of all. Of a validation gradient it holds the part that FSDP2 gives it of the weights; an
            adapter's, which is small, is whole on each.
        target_modules (`str` or `Sequence[str]`, *optional*):
            For a model without an adapter, the linear modules whose weights are φ, named as in
            [`~peft.LoraConfig`]: a list of name endings, or a string that is a regular expression or
            `"all-linear"`. By default the attention's q, k and v. With a PEFT model φ is its trainable parameters.
        max_tokens_per_batch (`int`, *optional*):
            Tokens in a batch, padding counted; halved by itself when memory runs out. By default 2048 on a CPU and
            16384 elsewhere.

    Raises:
        `ValueError`: φ is empty, or holds a parameter that is not the weight of a linear module.

    Example:

    ```python
    engine = InfluenceEngine(model)
    direction = engine.validation_gradient(validation_rows)
    influence, loss = engine.score(rows, direction)
    ```
    """

    def __init__(
        self,
        model: nn.Module,
        target_modules: str | Sequence[str] | None = None,
        max_tokens_per_batch: int | None = None,
    ):
        super().__init__(model, target_modules, max_tokens_per_batch)
        # Several directions, off the CPU: a product a token and direction, in few and large operations. On a CPU a
        # product a row and direction, with the row's own gradient, is the least to compute.
        self.several_by_token = self.device.type != "cpu"
        self.dtype = torch.promote_types(model.get_input_embeddings().weight.dtype, torch.float32)
        self.prepared = PreparedDirections(self.spread)

    def validation_gradient(
        self,
        rows: Sequence[EncodedRow],
        progress: Callable[[int], None] | None = None,
        weights: Sequence[float] | None = None,
    ) -> Direction:
        """Mean gradient of the rows' losses with respect to φ.

        Args:
            rows (`Sequence[EncodedRow]`):
                Validation rows.
            progress (`Callable`, *optional*):
                Called with the number of rows just done.
            weights (`Sequence[float]`, *optional*):
                What each row counts for in the mean of `len(rows)` rows, for losses that are made of the rows'; 1 by
                default.

        Raises:
            `ValueError`: There are no rows, a loss is not finite, a row is longer than the model's positions, or a
                parameter of φ takes no part in the loss.
            `RuntimeError`: The gradient, or a single row, does not fit into memory.
        """
        if not rows:
            raise ValueError("There are no validation rows. Pass at least one; the paper takes 20 a task.")
        self._check(rows, "Validation row")
        self.lockstep.check_alike(self.modules)
        sums = zeros_of(self.spread, self.dtype)
        readers = gradient_readers(self.spread, sums)
        mine = self.lockstep.share(rows)
        own, torn, reported = [rows[i] for i in mine], False, 0

        def report(count: int) -> None:
            nonlocal reported
            reported += count
            if progress is not None:
                progress(count)

        def gradients(indices: list[int]) -> np.ndarray:
            nonlocal torn
            if torn and indices:
                raise Again
            run = [own[i] for i in indices] or [IDLE_ROW]
            batch = self._batch(run)
            # About undoes the division by the row's tokens, exactly: fp16 gradients would vanish otherwise.
            scale = 2.0 ** round(math.log2(sum(row.num_trained for row in run) / len(run)))
            for reader in readers.values():
                reader.factor = 1 / scale if indices else 0.0
            sink = torch.zeros((), dtype=self.dtype, device=self.device, requires_grad=True)
            self.probes.start(batch, sink)
            losses = self._means(batch, run)
            self.probes.check()
            found = losses.detach().cpu().double().numpy()
            if weights is not None and indices:
                losses = losses * losses.new_tensor([weights[mine[i]] for i in indices])
            torn = torn or bool(indices)  # until it is whole: some modules have added their part, and others not
            torch.autograd.grad(losses.sum() * scale, sink)
            torn = torn and not indices
            self.probes.check_read()
            return found

        with scoring_mode(self.model), self.packing.applied(), self.probes.reading(readers):
            while True:
                loss = np.zeros(len(rows))
                try:
                    for indices, losses in self._run(own, gradients, report):
                        loss[[mine[i] for i in indices]] = losses
                    break
                # Memory ran out in the midst of a backward pass, of this process or of another that adds to the same
                # sums: from the start, in the smaller batches.
                except Again:
                    torn = False
                    for tensor in sums.values():
                        tensor.zero_()
                    report(-reported)
        # After all passes, by all processes: one that left a pass would keep the others waiting in it.
        loss = self.lockstep.joined(mine, loss)
        if len(wrong := np.flatnonzero(~np.isfinite(loss))):
            raise NonFiniteLossError(
                f"Validation row {wrong[0]} has a loss of {loss[wrong[0]]}. Check the row and the model's dtype (fp16 "
                "overflows where bf16 and fp32 do not)."
            )
        tensors, seen = {}, set()
        for name, tensor in sums.items():
            # A weight that two modules share has one sum, which both take their shares of; files want two.
            if id(tensor) in seen:
                tensors[f"{name}.weight"] = tensor.clone()
                continue
            if not in_shards([tensor]):  # there all have added theirs
                self.lockstep.sum(tensor)
            tensors[f"{name}.weight"] = tensor.div_(len(rows))
            seen.add(id(tensor))
        return Direction(tensors, len(rows), float(loss.mean()))

    def gradient_of(self, loss: Callable[[], torch.Tensor], input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Gradient with respect to φ, by name, of a loss that is made by calling the model on some tokens.

        A module that it does not call has none. Processes that share the model all give the same tokens.
        """
        sums = zeros_of(self.spread, self.dtype)
        readers = gradient_readers(self.spread, sums)
        for name, reader in readers.items():  # sums in shards take what each of them has
            reader.factor = 1 / self.lockstep.size if in_shards([sums[name]]) else 1.0
        sink = torch.zeros((), dtype=self.dtype, device=self.device, requires_grad=True)
        with scoring_mode(self.model), self.sharding.settled(), self.probes.reading(readers):
            self.probes.start(Batch(input_ids, input_ids, [], packed=False), sink)
            torch.autograd.grad(loss(), sink, allow_unused=True)
        return {f"{name}.weight": tensor for name, tensor in sums.items()}

    def laid(self, direction: Direction) -> Direction:
        """A direction from elsewhere that every process has, as this engine's own lie."""
        tensors = {
            f"{name}.weight": self.spread.lay(name, direction.tensors[f"{name}.weight"]) for name in self.modules
        }
        return Direction(tensors, direction.num_rows, direction.loss)

    def score(
        self,
        rows: Sequence[EncodedRow],
        direction: Direction | Sequence[Direction],
        progress: Callable[[int], None] | None = None,
        norms: bool = False,
        transforms: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] | None = None,
    ) -> tuple[np.ndarray, ...]:
        """Influence and loss of each row.

        Args:
            rows (`Sequence[EncodedRow]`):
                Rows to score.
            direction ([`Direction`] or `Sequence[Direction]`):
                The validation gradient, taken at the same weights; or several, read in the same pass.
            progress (`Callable`, *optional*):
                Called with the number of rows just done.
            norms (`bool`, *optional*, defaults to `False`):
                Also give the norm of each row's gradient, |g(z)|, at the price of forming it module by module.
            transforms (`Mapping[str, Callable]`, *optional*):
                For each scored module what is put in its gradient's place, at the same price: a function of one row's
                gradient, flat, `(out_features, in_features)` row by row.

        Returns:
            `tuple[np.ndarray, ...]`: influence, float64, of shape `(len(rows),)` or `(len(rows), directions)`, loss
            (nats), float64, of shape `(len(rows),)`, and on request norms, likewise. A row whose loss overflows has
            non-finite values here.

        Raises:
            [`RowError`]: A row is longer than the model's positions.
            `ValueError`: The forward pass does not call a scored module, or calls it twice where norms or
                transforms are wanted.
        """
        several = [direction] if isinstance(direction, Direction) else list(direction)
        by_token = not norms and not transforms and (len(several) == 1 or self.several_by_token)
        readers = (
            self.prepared.shares(several)
            if by_token
            else self.prepared.products(several, norm=norms, transforms=transforms)
        )
        once = norms or bool(transforms)
        found, loss = self._read(rows, readers, len(several) + norms, by_token, progress, norms, once)
        influence = found[:, 0] if isinstance(direction, Direction) else found[:, : len(several)]
        return (influence, loss, np.sqrt(found[:, -1])) if norms else (influence, loss)

    def project(
        self,
        rows: Sequence[EncodedRow],
        directions: Sequence[Direction],
        projection: Projection,
        progress: Callable[[int], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Projected gradient of each row, and its influences and loss from the same pass.

        Args:
            rows (`Sequence[EncodedRow]`):
                Rows to score.
            directions (`Sequence[Direction]`):
                Validation gradients, taken at the same weights.
            projection ([`~diq_hf.engine.projections.Projection`]):
                The map, made for this engine's modules.
            progress (`Callable`, *optional*):
                Called with the number of rows just done.

        Returns:
            `tuple[np.ndarray, np.ndarray, np.ndarray]`: projected gradients, of shape `(len(rows), projection.dim)`,
            influences, of shape `(len(rows), len(directions))`, and losses, of shape `(len(rows),)`; float64.
        """
        readers = self.prepared.products(directions, projection)
        width = len(directions) + projection.dim
        found, loss = self._read(rows, readers, width, False, progress)
        return found[:, len(directions) :], found[:, : len(directions)], loss

    def _read(
        self,
        rows: Sequence[EncodedRow],
        readers: Mapping[str, Reader],
        width: int,
        by_token: bool,
        progress: Callable[[int], None] | None,
        norms: bool = False,
        once: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """One backward pass a batch, in which every module is read: `width` numbers a token, or a row."""
        self._check(rows)
        found, loss = np.full((len(rows), width), np.nan), np.full(len(rows), np.nan)
        mine = self.lockstep.share(rows)
        own = [rows[i] for i in mine]

        def read(indices: list[int]) -> tuple[np.ndarray, np.ndarray]:
            run = [own[i] for i in indices] or [IDLE_ROW]
            batch = self._batch(run)
            shape = (*batch.input_ids.shape, width) if by_token else (len(run), width)
            sink = torch.zeros(shape, dtype=self.dtype, device=self.device, requires_grad=True)
            self.probes.start(batch, sink)
            losses = self.row_loss(batch)
            self.probes.check(once=once)
            # The sum keeps every row apart; each is divided by its own token count afterwards, never rounded before.
            (readings,) = torch.autograd.grad(losses.sum(), sink)
            readings = readings.cpu().double()
            if by_token:
                readings = torch.stack([row.sum(dim=0) for row in batch.rows(readings)])
            readings, counts = readings.numpy(), np.array([row.num_trained for row in run])
            if norms:  # the last of them squared
                readings[:, -1] /= counts
            return readings / counts[:, None], losses.detach().cpu().double().numpy() / counts

        with scoring_mode(self.model), self.packing.applied(), self.probes.reading(readers):
            for indices, (readings, losses) in self._run(own, read, progress):
                places = [mine[i] for i in indices]
                found[places], loss[places] = readings, losses
        return self.lockstep.joined(mine, found), self.lockstep.joined(mine, loss)
