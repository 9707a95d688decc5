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
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from .batching import TokenBudget, pad
from .files import load_tensors, save_tensors
from .formats import EncodedRow
from .loss import RowLoss
from .modules import check_whole, fixed_rotary_length, scored_modules, some


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
        self.row_loss = RowLoss(model)
        self.device = model.get_input_embeddings().weight.device
        if max_tokens_per_batch is None:
            max_tokens_per_batch = 2048 if self.device.type == "cpu" else 16384
        self.budget = TokenBudget(max_tokens_per_batch)
        self.max_row_length = fixed_rotary_length(model.config.get_text_config())
        self.dtype = torch.promote_types(model.get_input_embeddings().weight.dtype, torch.float32)

    def validation_gradient(
        self, rows: Sequence[EncodedRow], progress: Callable[[int], None] | None = None
    ) -> Direction:
        """Mean gradient of the rows' losses with respect to φ.

        Args:
            rows (`Sequence[EncodedRow]`):
                Validation rows.
            progress (`Callable`, *optional*):
                Called with the number of rows just done.

        Raises:
            `ValueError`: There are no rows, a loss is not finite, or a parameter of φ takes no part in the loss.
        """
        if not rows:
            raise ValueError("There are no validation rows. Pass at least one; the paper takes 20 a task.")
        weights = {f"{name}.weight": module.weight for name, module in self.modules.items()}
        sums = {name: torch.zeros_like(weight, dtype=self.dtype) for name, weight in weights.items()}
        total = 0.0

        def gradients(batch: list[int]) -> tuple[np.ndarray, tuple[torch.Tensor | None, ...]]:
            losses = self._mean_losses([rows[i] for i in batch])
            parts = (None,) * len(weights)
            if losses.requires_grad:
                # About undoes the division by the row's tokens, exactly: fp16 gradients would vanish otherwise.
                scale = 2.0 ** round(math.log2(sum(rows[i].num_trained for i in batch) / len(batch)))
                parts = torch.autograd.grad(losses.sum() * scale, list(weights.values()), allow_unused=True)
                parts = [None if part is None else part.to(self.dtype) / scale for part in parts]
            return losses.detach().cpu().double().numpy(), parts

        with scoring_mode(self.model, weights.values()):
            for batch, (losses, parts) in self.budget.run(rows, gradients):
                for i, loss in zip(batch, losses, strict=True):
                    if not math.isfinite(loss):
                        raise ValueError(
                            f"Validation row {i} has a loss of {loss}. Check the row and the model's dtype "
                            "(fp16 overflows where bf16 and fp32 do not)."
                        )
                for name, part in zip(weights, parts, strict=True):
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
        self, rows: Sequence[EncodedRow], direction: Direction, progress: Callable[[int], None] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Influence and loss of each row.

        Args:
            rows (`Sequence[EncodedRow]`):
                Rows to score.
            direction ([`Direction`]):
                The validation gradient, taken at the same weights.
            progress (`Callable`, *optional*):
                Called with the number of rows just done.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: influence and loss (nats), float64, of shape `(len(rows),)`. A row
            whose loss overflows has non-finite values here.
        """
        influence, loss = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
        tokens: torch.Tensor | None = None
        fired: set[str] = set()

        def shares(batch: list[int]) -> tuple[np.ndarray, np.ndarray]:
            nonlocal tokens
            picked = [rows[i] for i in batch]
            input_ids, labels = self._pad(picked)
            tokens = torch.zeros(input_ids.shape, dtype=self.dtype, device=self.device, requires_grad=True)
            fired.clear()
            losses = self.row_loss(input_ids, labels)
            if silent := [name for name in self.modules if name not in fired]:
                raise ValueError(
                    f"The forward pass uses the weight of {some(silent)} without calling the module, so its share of "
                    "the influence cannot be taken. Leave it out of the adapter or of `target_modules` "
                    "(`target_parameters` of PEFT, for one)."
                )
            # The sum keeps every row apart; each is divided by its own token count afterwards, never rounded before.
            (share,) = torch.autograd.grad(losses.sum(), tokens)
            counts = np.array([row.num_trained for row in picked])
            share = share.sum(dim=1, dtype=torch.float64).cpu().numpy()
            return share / counts, losses.detach().cpu().double().numpy() / counts

        with scoring_mode(self.model), _probes(self.modules, direction, lambda: tokens, fired):
            for batch, (dots, losses) in self.budget.run(rows, shares):
                influence[batch], loss[batch] = dots, losses
                if progress is not None:
                    progress(len(batch))
        return influence, loss

    def losses(self, rows: Sequence[EncodedRow], progress: Callable[[int], None] | None = None) -> np.ndarray:
        """Loss of each row, by a forward pass alone: nats, float64, of shape `(len(rows),)`."""
        loss = np.full(len(rows), np.nan)
        with scoring_mode(self.model), torch.no_grad():
            forward = lambda batch: self._mean_losses([rows[i] for i in batch]).cpu().double().numpy()  # noqa: E731
            for batch, found in self.budget.run(rows, forward):
                loss[batch] = found
                if progress is not None:
                    progress(len(batch))
        return loss

    def _pad(self, rows: Sequence[EncodedRow]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(map(len, rows))
        if self.max_row_length is not None and longest > self.max_row_length:
            raise ValueError(
                f"A row has {longest} tokens, and beyond {self.max_row_length} this model's rotary embedding changes "
                "with the longest row of a batch: scores would depend on the batch. Set "
                f"`max_length={self.max_row_length}`."
            )
        return pad(rows, self.device)

    def _mean_losses(self, rows: Sequence[EncodedRow]) -> torch.Tensor:
        losses = self.row_loss(*self._pad(rows))
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


@contextmanager
def _probes(modules: dict[str, nn.Module], direction: Direction, tokens: Callable[[], torch.Tensor], fired: set[str]):
    """Hooks that let one backward pass collect every module's shares in the gradient of `tokens()`.

    Each adds its module's name to `fired` when it runs.
    """
    handles = []
    try:
        for name, module in modules.items():
            hook = _probe_hook(name, module, direction.tensors[f"{name}.weight"], tokens, fired)
            handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _probe_hook(
    name: str, module: nn.Module, gradient: torch.Tensor, tokens: Callable[[], torch.Tensor], fired: set[str]
):
    gradient = gradient.T if isinstance(module, Conv1D) else gradient  # to (out, in)
    # A power of two, so that nothing is rounded: an fp16 product of small numbers would vanish otherwise.
    largest = float(gradient.abs().max())
    scale = 2.0 ** math.floor(math.log2(largest)) if largest > 0 and math.isfinite(largest) else 1.0
    cast: torch.Tensor | None = None

    def hook(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        nonlocal cast
        fired.add(name)
        if output.shape[:-1] != tokens().shape:
            raise ValueError(
                f"`{name}` gives {tuple(output.shape)} for a batch of {tuple(tokens().shape)} tokens: it does not see "
                "one vector a token (experts of a mixture, for one). Leave it out of `target_modules`."
            )
        if cast is None or (cast.dtype, cast.device) != (output.dtype, output.device):
            cast = (gradient / scale).to(output.device, output.dtype)
        # A model spread over devices has modules away from the tokens.
        return _Probe.apply(output, args[0], cast, scale, tokens().to(output.device))

    return hook


class _Probe(torch.autograd.Function):
    """Identity on a linear module's output. Its backward adds ⟨b_t, ΔW a_t⟩ of every token t to `tokens`' gradient."""

    @staticmethod
    def forward(ctx, output, inputs, gradient, scale, tokens):
        out_features, in_features = gradient.shape
        ctx.narrow_output = out_features <= in_features
        ctx.scale, ctx.dtype = scale, tokens.dtype
        inputs = inputs.to(gradient.dtype)
        # ⟨b, ΔW a⟩ = ⟨ΔWᵀ b, a⟩: keep whichever is smaller, ΔW a or a itself.
        ctx.save_for_backward(nn.functional.linear(inputs, gradient) if ctx.narrow_output else inputs, gradient)
        return output.view_as(output)

    @staticmethod
    def backward(ctx, grad_output):
        kept, gradient = ctx.saved_tensors
        pulled = grad_output if ctx.narrow_output else grad_output @ gradient
        share = (pulled.to(ctx.dtype) * kept.to(ctx.dtype)).sum(dim=-1) * ctx.scale
        return grad_output, None, None, None, share
