"""The mean validation gradient: its sums, in memory, on disk, and made ready to be read against."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import nn

from .modules import as_linear, computed_dtype
from .probes import Reader, RowProducts, Shares, TokenShares
from .projections import Projection
from .sharding import device_of
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


def zeros_of(modules: Mapping[str, nn.Module], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A sum for each module's weight, where the module computes; one for modules that share it."""
    owners = {id(module.weight): module for module in modules.values()}
    with fitting("The validation gradient", [module.weight for module in owners.values()]):
        sums = {
            # By its shape, for the weight itself may be a shard.
            key: torch.zeros(module.weight.shape, dtype=dtype, device=device_of(module))
            for key, module in owners.items()
        }
    return {name: sums[id(module.weight)] for name, module in modules.items()}


class PreparedDirections:
    """Readers of directions, and what is made of each before it is read, once, for as long as there is the direction.

    Args:
        modules (`Mapping[str, nn.Module]`):
            The modules that are scored, by name.
    """

    def __init__(self, modules: Mapping[str, nn.Module]):
        self.modules = modules
        self._kept: WeakKeyDictionary[Direction, dict[Any, dict[str, Any]]] = WeakKeyDictionary()

    def shares(self, directions: Sequence[Direction]) -> dict[str, Reader]:
        """Readers of the tokens' shares of each direction, by module."""

        def make(module: nn.Module, part: torch.Tensor) -> TokenShares:
            device = device_of(module)
            return TokenShares(part, len(directions)).to(device, computed_dtype(module.weight, device))

        prepared = [self._of(direction, len(directions), make) for direction in directions]
        return {name: Shares([of_one[name] for of_one in prepared]) for name in self.modules}

    def products(
        self,
        directions: Sequence[Direction],
        projection: Projection | None = None,
        norm: bool = False,
        transforms: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] | None = None,
    ) -> dict[str, Reader]:
        """Readers of the rows' products with each direction, by module."""
        flat = lambda module, part: part.reshape(-1).to(device_of(module))  # noqa: E731
        prepared = [self._of(direction, "flat", flat) for direction in directions]
        return {
            name: RowProducts(
                [of_one[name] for of_one in prepared],
                projection and projection.of(name),
                norm,
                transforms and transforms[name],
            )
            for name in self.modules
        }

    def _of(self, direction: Direction, kind: Any, make: Callable[[nn.Module, torch.Tensor], Any]) -> dict[str, Any]:
        kept = self._kept.setdefault(direction, {})
        if kind not in kept:
            with fitting("The direction", [module.weight for module in self.modules.values()]):
                kept[kind] = {
                    name: make(module, as_linear(module, direction.tensors[f"{name}.weight"]))
                    for name, module in self.modules.items()
                }
        return kept[kind]
