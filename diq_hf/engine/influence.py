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
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from ..rows.batching import Batch, TokenBudget
from ..rows.encoded import EncodedRow, RowError
from .attention import Packing
from .direction import Direction, fitting
from .loss import RowLoss
from .modes import evaluating, scoring_mode
from .modules import as_linear, check_quantization, check_whole, computed_dtype, scored_modules
from .positions import row_limit
from .probes import Probes, Reader, RowProducts, Shares, TokenShares, WeightGradient
from .projections import Projection


class NonFiniteLossError(ValueError):
    """A validation row's loss is infinite or no number, so there is no mean gradient."""


class InfluenceEngine:
    """Validation gradients and exact influences of one model.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            A causal language model. It comes back from every call as it was.
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
        check_whole(model)
        self.model = model
        self.modules = scored_modules(model, target_modules)
        check_quantization(model)
        with evaluating(model):  # once, for all that is tried out
            self.row_loss = RowLoss(model)
            backbone, decoder = self.row_loss.backbone, self.row_loss.decoder
            self.row_limit = row_limit(backbone, decoder, model.config.get_text_config())
            self.packing = Packing(backbone, decoder)
        self.probes = Probes(self.modules)
        self.device = model.get_input_embeddings().weight.device
        if max_tokens_per_batch is None:
            max_tokens_per_batch = 2048 if self.device.type == "cpu" else 16384
        self.budget = TokenBudget(max_tokens_per_batch, self.packing.possible)
        # Several directions, off the CPU: a product a token and direction, in few and large operations. On a CPU a
        # product a row and direction, with the row's own gradient, is the least to compute.
        self.several_by_token = self.device.type != "cpu"
        self.dtype = torch.promote_types(model.get_input_embeddings().weight.dtype, torch.float32)
        # What is made of a direction before it is read, for as long as there is the direction.
        self._prepared: WeakKeyDictionary[Direction, dict[Any, dict[str, Any]]] = WeakKeyDictionary()

    def check_row(self, row: EncodedRow) -> None:
        """
        Raises:
            [`RowError`]: The row is longer than the model's positions.
        """
        if self.row_limit is not None:
            self.row_limit.check(row)

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
        sums = self._zeros()
        readers = {name: WeightGradient(as_linear(module, sums[name])) for name, module in self.modules.items()}
        torn = False

        def gradients(indices: list[int]) -> np.ndarray:
            nonlocal torn
            if torn:
                raise _TornError
            batch = self._batch([rows[i] for i in indices])
            # About undoes the division by the row's tokens, exactly: fp16 gradients would vanish otherwise.
            scale = 2.0 ** round(math.log2(sum(rows[i].num_trained for i in indices) / len(indices)))
            for reader in readers.values():
                reader.factor = 1 / scale
            sink = torch.zeros((), dtype=self.dtype, device=self.device, requires_grad=True)
            self.probes.start(batch, sink)
            losses = self._means(batch, [rows[i] for i in indices])
            self.probes.check()
            found = losses.detach().cpu().double().numpy()
            for i, loss in zip(indices, found, strict=True):
                if not math.isfinite(loss):
                    raise NonFiniteLossError(
                        f"Validation row {i} has a loss of {loss}. Check the row and the model's dtype (fp16 "
                        "overflows where bf16 and fp32 do not)."
                    )
            weighted = losses if weights is None else losses * losses.new_tensor([weights[i] for i in indices])
            torn = True  # until it is whole: some modules have added their part, and others not
            torch.autograd.grad(weighted.sum() * scale, sink)
            torn = False
            self.probes.check_read()
            return found

        with scoring_mode(self.model), self.packing.applied(), self.probes.reading(readers):
            while True:
                done, total = 0, 0.0
                try:
                    for indices, losses in self.budget.run(rows, gradients):
                        total, done = total + float(losses.sum()), done + len(indices)
                        if progress is not None:
                            progress(len(indices))
                    break
                # Memory ran out in the midst of a backward pass: from the start, in the smaller batches.
                except _TornError:
                    torn = False
                    for tensor in sums.values():
                        tensor.zero_()
                    if progress is not None:
                        progress(-done)
        tensors, seen = {}, set()
        for name, tensor in sums.items():
            # A weight that two modules share has one sum, which both take their shares of; files want two.
            tensors[f"{name}.weight"] = tensor.clone() if id(tensor) in seen else tensor.div_(len(rows))
            seen.add(id(tensor))
        return Direction(tensors, len(rows), total / len(rows))

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
        if by_token:
            shares = lambda module, part: self._shares(module, part, len(several))  # noqa: E731
            prepared = [self._prepare(one, len(several), shares) for one in several]
            readers = {name: Shares([of_one[name] for of_one in prepared]) for name in self.modules}
        else:
            readers = self._products(several, norm=norms, transforms=transforms)
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
        readers = self._products(directions, projection)
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

        def read(indices: list[int]) -> tuple[np.ndarray, np.ndarray]:
            batch = self._batch([rows[i] for i in indices])
            shape = (*batch.input_ids.shape, width) if by_token else (len(indices), width)
            sink = torch.zeros(shape, dtype=self.dtype, device=self.device, requires_grad=True)
            self.probes.start(batch, sink)
            losses = self.row_loss(batch)
            self.probes.check(once=once)
            # The sum keeps every row apart; each is divided by its own token count afterwards, never rounded before.
            (readings,) = torch.autograd.grad(losses.sum(), sink)
            readings = readings.cpu().double()
            if by_token:
                readings = torch.stack([row.sum(dim=0) for row in batch.rows(readings)])
            readings, counts = readings.numpy(), np.array([rows[i].num_trained for i in indices])
            if norms:  # the last of them squared
                readings[:, -1] /= counts
            return readings / counts[:, None], losses.detach().cpu().double().numpy() / counts

        with scoring_mode(self.model), self.packing.applied(), self.probes.reading(readers):
            for indices, (readings, losses) in self.budget.run(rows, read):
                found[indices], loss[indices] = readings, losses
                if progress is not None:
                    progress(len(indices))
        return found, loss

    def losses(self, rows: Sequence[EncodedRow], progress: Callable[[int], None] | None = None) -> np.ndarray:
        """Loss of each row, by a forward pass alone: nats, float64, of shape `(len(rows),)`."""
        self._check(rows)
        loss = np.full(len(rows), np.nan)

        def forward(indices: list[int]) -> np.ndarray:
            batch = [rows[i] for i in indices]
            return self._means(self._batch(batch), batch).cpu().double().numpy()

        with scoring_mode(self.model), self.packing.applied(), torch.no_grad():
            for indices, found in self.budget.run(rows, forward):
                loss[indices] = found
                if progress is not None:
                    progress(len(indices))
        return loss

    def _check(self, rows: Sequence[EncodedRow], name: str = "Row") -> None:
        for i, row in enumerate(rows):
            try:
                self.check_row(row)
            except RowError as error:
                raise RowError(f"{name} {i}: {error}") from error

    def _batch(self, rows: Sequence[EncodedRow]) -> Batch:
        return Batch.of(rows, self.packing.possible, self.device)

    def _means(self, batch: Batch, rows: Sequence[EncodedRow]) -> torch.Tensor:
        losses = self.row_loss(batch)
        return losses / losses.new_tensor([row.num_trained for row in rows])

    def _zeros(self) -> dict[str, torch.Tensor]:
        """A sum for each module's weight, on its device; one for modules that share it."""
        weights = {id(module.weight): module.weight for module in self.modules.values()}
        with fitting("The validation gradient", weights.values()):
            sums = {
                key: torch.zeros(weight.shape, dtype=self.dtype, device=weight.device)
                for key, weight in weights.items()
            }
        return {name: sums[id(module.weight)] for name, module in self.modules.items()}

    def _prepare(self, direction: Direction, kind: Any, make: Callable[[nn.Module, torch.Tensor], Any]) -> dict:
        """What `make` makes of each module and its part of a direction, once."""
        kept = self._prepared.setdefault(direction, {})
        if kind not in kept:
            with fitting("The direction", [module.weight for module in self.modules.values()]):
                kept[kind] = {
                    name: make(module, as_linear(module, direction.tensors[f"{name}.weight"]))
                    for name, module in self.modules.items()
                }
        return kept[kind]

    def _products(
        self,
        directions: Sequence[Direction],
        projection: Projection | None = None,
        norm: bool = False,
        transforms: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] | None = None,
    ) -> dict[str, Reader]:
        flat = lambda module, part: part.reshape(-1).to(module.weight.device)  # noqa: E731
        prepared = [self._prepare(direction, "flat", flat) for direction in directions]
        return {
            name: RowProducts(
                [of_one[name] for of_one in prepared],
                projection and projection.of(name),
                norm,
                transforms and transforms[name],
            )
            for name in self.modules
        }

    def _shares(self, module: nn.Module, direction: torch.Tensor, beside: int) -> TokenShares:
        return TokenShares(direction, beside).to(module.weight.device, computed_dtype(module.weight))


class _TornError(Exception):
    """A sum of gradients holds a part of a batch."""
