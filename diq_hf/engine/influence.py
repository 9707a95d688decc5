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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..rows.batching import Batch, TokenBudget
from ..rows.encoded import EncodedRow
from .attention import Packing
from .loss import RowLoss
from .modules import as_linear, check_quantization, check_whole, fixed_rotary_length, scored_modules
from .probes import Probes, Reader, RowProducts, TokenShares
from .projections import Projection
from .tensor_files import load_tensors, save_tensors


class NonFiniteLossError(ValueError):
    """A validation row's loss is infinite or no number, so there is no mean gradient."""


@dataclass(frozen=True)
class Direction:
    """The mean validation gradient ḡ_val.

    Args:
        tensors (`dict[str, torch.Tensor]`):
            For each scored parameter, by name, its gradient: fp32, or fp64 for an fp64 model; the parameter's shape.
        num_rows (`int`):
            Number of validation rows in the mean.
        loss (`float`):
            Mean validation loss in nats.
    """

    tensors: dict[str, torch.Tensor]
    num_rows: int
    loss: float

    @property
    def norm(self) -> float:
        return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in self.tensors.values()))

    def save(self, path: str | Path, recipe: str) -> None:
        """Writes it as safetensors, under a recipe that names the model, the validation rows and the settings."""
        save_tensors(path, self.tensors, {"recipe": recipe, "num_rows": self.num_rows, "loss": self.loss})

    @classmethod
    def load(cls, path: str | Path, recipe: str) -> "Direction":
        """Reads one back.

        Raises:
            `ValueError`: The file is torn, or was made by another recipe.
        """
        tensors, found = load_tensors(path)
        if found.pop("recipe") != recipe:
            raise ValueError(f"{path} belongs to another model, validation set or setting, and cannot be used here.")
        return cls(tensors, **found)


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
        self.row_loss = RowLoss(model)
        self.packing = Packing(self.row_loss.backbone, self.row_loss.decoder)
        self.probes = Probes(self.modules)
        self.device = model.get_input_embeddings().weight.device
        if max_tokens_per_batch is None:
            max_tokens_per_batch = 2048 if self.device.type == "cpu" else 16384
        self.budget = TokenBudget(max_tokens_per_batch, self.packing.possible)
        self.max_row_length = fixed_rotary_length(model.config.get_text_config())
        self.dtype = torch.promote_types(model.get_input_embeddings().weight.dtype, torch.float32)

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
            `ValueError`: There are no rows, a loss is not finite, or a parameter of φ takes no part in the loss.
        """
        if not rows:
            raise ValueError("There are no validation rows. Pass at least one; the paper takes 20 a task.")
        phi = {f"{name}.weight": module.weight for name, module in self.modules.items()}
        sums = {name: torch.zeros_like(weight, dtype=self.dtype) for name, weight in phi.items()}
        total = 0.0

        def gradients(batch: list[int]) -> tuple[np.ndarray, tuple[torch.Tensor | None, ...]]:
            losses = self._mean_losses([rows[i] for i in batch])
            parts = (None,) * len(phi)
            if losses.requires_grad:
                # About undoes the division by the row's tokens, exactly: fp16 gradients would vanish otherwise.
                scale = 2.0 ** round(math.log2(sum(rows[i].num_trained for i in batch) / len(batch)))
                weighted = losses if weights is None else losses * losses.new_tensor([weights[i] for i in batch])
                parts = torch.autograd.grad(weighted.sum() * scale, list(phi.values()), allow_unused=True)
                parts = [None if part is None else part.to(self.dtype) / scale for part in parts]
            return losses.detach().cpu().double().numpy(), parts

        with scoring_mode(self.model, list(phi.values())), self.packing.applied():
            for batch, (losses, parts) in self.budget.run(rows, gradients):
                for i, loss in zip(batch, losses, strict=True):
                    if not math.isfinite(loss):
                        raise NonFiniteLossError(
                            f"Validation row {i} has a loss of {loss}. Check the row and the model's dtype "
                            "(fp16 overflows where bf16 and fp32 do not)."
                        )
                for name, part in zip(phi, parts, strict=True):
                    if part is None:
                        raise ValueError(
                            f"`{name}` takes no part in the loss, so rows cannot be scored by it. Is its adapter "
                            "active and unmerged? Otherwise leave it out of `target_modules`."
                        )
                    sums[name] += part
                total += float(losses.sum())
                if progress is not None:
                    progress(len(batch))
        tensors = {name: tensor.div_(len(rows)) for name, tensor in sums.items()}
        return Direction(tensors, len(rows), total / len(rows))

    def score(
        self,
        rows: Sequence[EncodedRow],
        direction: Direction | Sequence[Direction],
        progress: Callable[[int], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Influence and loss of each row.

        Args:
            rows (`Sequence[EncodedRow]`):
                Rows to score.
            direction ([`Direction`] or `Sequence[Direction]`):
                The validation gradient, taken at the same weights; or several, read in the same pass.
            progress (`Callable`, *optional*):
                Called with the number of rows just done.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: influence, float64, of shape `(len(rows),)` or `(len(rows), directions)`,
            and loss (nats), float64, of shape `(len(rows),)`. A row whose loss overflows has non-finite values here.
        """
        if isinstance(direction, Direction):
            readers: dict[str, Reader] = {
                name: TokenShares(as_linear(module, direction.tensors[f"{name}.weight"]))
                for name, module in self.modules.items()
            }
            found, loss = self._read(rows, readers, None, progress)
            return found[:, 0], loss
        return self.project(rows, direction, None, progress)[1:]

    def project(
        self,
        rows: Sequence[EncodedRow],
        directions: Sequence[Direction],
        projection: Projection | None,
        progress: Callable[[int], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Projected gradient of each row, and its influences and loss from the same pass.

        Args:
            rows (`Sequence[EncodedRow]`):
                Rows to score.
            directions (`Sequence[Direction]`):
                Validation gradients, taken at the same weights.
            projection ([`~diq_hf.engine.projections.Projection`], *optional*):
                The map, made for this engine's modules.
            progress (`Callable`, *optional*):
                Called with the number of rows just done.

        Returns:
            `tuple[np.ndarray, np.ndarray, np.ndarray]`: projected gradients, of shape `(len(rows), projection.dim)`,
            influences, of shape `(len(rows), len(directions))`, and losses, of shape `(len(rows),)`; float64.
        """
        readers: dict[str, Reader] = {
            name: RowProducts(
                [as_linear(module, direction.tensors[f"{name}.weight"]) for direction in directions],
                projection and projection.of(name),
            )
            for name, module in self.modules.items()
        }
        width = len(directions) + (projection.dim if projection else 0)
        found, loss = self._read(rows, readers, width, progress)
        return found[:, len(directions) :], found[:, : len(directions)], loss

    def _read(
        self,
        rows: Sequence[EncodedRow],
        readers: Mapping[str, Reader],
        width: int | None,
        progress: Callable[[int], None] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """One backward pass a batch, in which every module is read: `width` numbers a row, or one a token."""
        found, loss = np.full((len(rows), width or 1), np.nan), np.full(len(rows), np.nan)

        def read(indices: list[int]) -> tuple[np.ndarray, np.ndarray]:
            batch = self._batch([rows[i] for i in indices])
            shape = batch.input_ids.shape if width is None else (len(indices), width)
            sink = torch.zeros(shape, dtype=self.dtype, device=self.device, requires_grad=True)
            self.probes.start(batch, sink)
            losses = self.row_loss(batch)
            self.probes.check()
            # The sum keeps every row apart; each is divided by its own token count afterwards, never rounded before.
            (readings,) = torch.autograd.grad(losses.sum(), sink)
            readings = batch.row_sums(readings.double())[:, None] if width is None else readings
            counts = np.array([rows[i].num_trained for i in indices])
            readings = readings.cpu().double().numpy() / counts[:, None]
            return readings, losses.detach().cpu().double().numpy() / counts

        with scoring_mode(self.model), self.packing.applied(), self.probes.reading(readers):
            for indices, (readings, losses) in self.budget.run(rows, read):
                found[indices], loss[indices] = readings, losses
                if progress is not None:
                    progress(len(indices))
        return found, loss

    def losses(self, rows: Sequence[EncodedRow], progress: Callable[[int], None] | None = None) -> np.ndarray:
        """Loss of each row, by a forward pass alone: nats, float64, of shape `(len(rows),)`."""
        loss = np.full(len(rows), np.nan)
        with scoring_mode(self.model), self.packing.applied(), torch.no_grad():
            forward = lambda batch: self._mean_losses([rows[i] for i in batch]).cpu().double().numpy()  # noqa: E731
            for batch, found in self.budget.run(rows, forward):
                loss[batch] = found
                if progress is not None:
                    progress(len(batch))
        return loss

    def _batch(self, rows: Sequence[EncodedRow]) -> Batch:
        longest = max(map(len, rows))
        if self.max_row_length is not None and longest > self.max_row_length:
            raise ValueError(
                f"A row has {longest} tokens, and beyond {self.max_row_length} this model's rotary embedding changes "
                "with the longest row of a batch: scores would depend on the batch. Set "
                f"`max_length={self.max_row_length}`."
            )
        return Batch.of(rows, self.packing.possible, self.device)

    def _mean_losses(self, rows: Sequence[EncodedRow]) -> torch.Tensor:
        losses = self.row_loss(self._batch(rows))
        return losses / losses.new_tensor([row.num_trained for row in rows])


@contextmanager
def scoring_mode(model: nn.Module, differentiate: Sequence[torch.Tensor] = ()):
    """Eval mode, with gradients for the given parameters alone; everything is put back, whatever happens.

    Eval mode also turns gradient checkpointing off, which in training mode can return no gradients without a word.
    """
    training = [module for module in model.modules() if module.training]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    devices = {parameter.device for parameter, _ in flags if parameter.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            model.eval()
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            for parameter in differentiate:
                parameter.requires_grad_(True)
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module in training:
            module.training = True
