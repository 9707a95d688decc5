"""The mean validation gradient: its sums, in memory, on disk, and made ready to be read against."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import distributed
from torch.distributed.tensor import DTensor

from ..digest import tensors_digest
from .modules import as_linear, computed_dtype
from .probes import Reader, RowProducts, Shares, TokenShares, WeightGradient
from .projections import Projection
from .sharding import device_of
from .spread import Spread, in_shards
from .tensor_files import load_tensors, save_tensors
from .zero import shape_of


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
        return math.sqrt(sum(map(_squared, self.tensors.values())))

    @property
    def in_shards(self) -> bool:
        """Whether each process holds a part only, as it does of the weights. All of them then ask for what it says of
        the whole, and all save it."""
        return in_shards(self.tensors.values())

    @cached_property
    def digest(self) -> str:
        """Names its values."""
        return tensors_digest(self.tensors)

    def save(self, path: str | Path, recipe: str) -> None:
        """Writes it as safetensors, under a recipe that names the model, the validation rows and the settings."""
        first, tensors = not self.in_shards or distributed.get_rank() == 0, {}
        for name, tensor in self.tensors.items():
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if first:
                tensors[name] = whole.cpu()
        if first:
            save_tensors(path, tensors, {"recipe": recipe, "num_rows": self.num_rows, "loss": self.loss})

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
        count = sum(shape_of(weight).numel() for weight in weights)
        raise RuntimeError(
            f"{what} of {count:,} parameters does not fit into memory beside the "
            "model. Score fewer modules (`target_modules`) or an adapter's, or use a larger device."
        ) from error


def zeros_of(spread: Spread, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A sum for each module's weight, where the module computes; one for modules that share it."""
    owners = {id(module.weight): name for name, module in spread.modules.items()}
    with fitting("The validation gradient", [spread.modules[name].weight for name in owners.values()]):
        sums = {key: spread.zeros(name, dtype) for key, name in owners.items()}
    return {name: sums[id(module.weight)] for name, module in spread.modules.items()}


def gradient_readers(spread: Spread, sums: Mapping[str, torch.Tensor]) -> dict[str, WeightGradient]:
    """Readers that add a batch's gradient to the sums, by module."""
    return {
        name: WeightGradient(as_linear(spread.modules[name], total), spread.adder(name, total))
        for name, total in sums.items()
    }


class PreparedDirections:
    """Readers of directions, and what is made of each before it is read, once, for as long as there is the direction.

    Args:
        spread ([`~diq_hf.engine.spread.Spread`]):
            Where directions lie.
    """

    def __init__(self, spread: Spread):
        self.spread, self.modules = spread, spread.modules
        self._kept: WeakKeyDictionary[Direction, dict[Any, dict[str, Any]]] = WeakKeyDictionary()

    def shares(self, directions: Sequence[Direction]) -> dict[str, Reader]:
        """Readers of the tokens' shares of each direction, by module."""

        def make(name: str, part: torch.Tensor) -> TokenShares:
            module = self.modules[name]
            device = device_of(module)
            return self._token_shares(name, part, len(directions)).to(device, computed_dtype(module.weight, device))

        prepared = [self._of(direction, len(directions), make) for direction in directions]
        return {name: Shares([of_one[name] for of_one in prepared]) for name in self.modules}

    def token_shares(self, direction: Direction) -> dict[str, TokenShares]:
        """Readers of one direction in other passes than these, made ready there, by module."""
        return {name: self._token_shares(name, self._part(direction, name)) for name in self.modules}

    def products(
        self,
        directions: Sequence[Direction],
        projection: Projection | None = None,
        norm: bool = False,
        transforms: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] | None = None,
    ) -> dict[str, Reader]:
        """Readers of the rows' products with each direction, by module."""

        def flat(name: str, part: torch.Tensor) -> torch.Tensor:
            return part if in_shards([part]) else part.reshape(-1).to(device_of(self.modules[name]))

        prepared = [self._of(direction, "flat", flat) for direction in directions]
        return {
            name: RowProducts(
                [of_one[name] for of_one in prepared],
                projection and projection.of(name),
                norm,
                transforms and transforms[name],
                self.spread.whole(name),
            )
            for name in self.modules
        }

    def _token_shares(self, name: str, part: torch.Tensor, beside: int = 1) -> TokenShares:
        return TokenShares(part, beside, self.spread.whole(name))

    def _part(self, direction: Direction, name: str) -> torch.Tensor:
        return as_linear(self.modules[name], direction.tensors[f"{name}.weight"])

    def _of(self, direction: Direction, kind: Any, make: Callable[[str, torch.Tensor], Any]) -> dict[str, Any]:
        kept = self._kept.setdefault(direction, {})
        if kind not in kept:
            with fitting("The direction", [module.weight for module in self.modules.values()]):
                kept[kind] = {name: make(name, self._part(direction, name)) for name in self.modules}
        return kept[kind]


def _squared(tensor: torch.Tensor) -> float:
    if isinstance(tensor, DTensor):
        return float(tensor.double().square().sum().full_tensor())
    return float(tensor.cpu().double().square().sum())  # not every device has float64
