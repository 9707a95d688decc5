"""The mean validation gradient, in memory and on disk."""

import math
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils.memory import should_reduce_batch_size

from .tensor_files import load_tensors, save_tensors


@dataclass(frozen=True, eq=False)
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
        return math.sqrt(sum(float(tensor.cpu().double().square().sum()) for tensor in self.tensors.values()))

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


@contextmanager
def fitting(what: str, weights: Iterable[torch.Tensor]):
    """Says of what there was too much, where memory runs out before any row is run."""
    try:
        yield
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        raise RuntimeError(
            f"{what} of {sum(weight.numel() for weight in weights):,} parameters does not fit into memory beside the "
            "model. Score fewer modules (`target_modules`) or an adapter's, or use a larger device."
        ) from error
