"""Random projections of gradients to a few thousand numbers, so that later validation sets need no second pass.

Each coordinate of the gradient goes, with a random sign, to one of `dim` sums, about equally many to each: a sparse
Johnson-Lindenstrauss map (https://arxiv.org/abs/1012.1577). Products of projections estimate products of gradients
without bias, with a standard deviation of about |g|·|h| / √dim, as a dense matrix would have, which for a model's
gradients could not be stored.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch


# Projected gradients stand in a column of this name and the digest of what they depend on: others cannot be mixed in.
COLUMN = "projected_gradient_"


class Projection:
    """A seeded linear map from the gradient of named modules to `dim` numbers.

    Args:
        dim (`int`):
            Numbers it projects to.
        names (`Sequence[str]`):
            The modules, in order.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the map.
    """

    def __init__(self, dim: int, names: Sequence[str], seed: int = 0):
        if dim < 1:
            raise ValueError(f"`projection_dim` must be at least 1, got {dim}.")
        self.dim, self.seed = dim, seed
        self._index = {name: i for i, name in enumerate(names)}
        self._tables: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}

    def of(self, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """The map of one module's flat gradient; a whole gradient's projection is the sum over its modules."""
        turn, shift = divmod(self._index[name], self.dim)

        def project(gradient: torch.Tensor) -> torch.Tensor:
            slots, signs = self._table(len(gradient), turn, gradient)
            filled = gradient.new_zeros(-(-len(gradient) // self.dim) * self.dim)
            filled[slots] = gradient * signs
            # Modules of one size share a table, each turned by another amount: no two of their coordinates that the
            # table treats alike meet in one sum.
            return filled.view(-1, self.dim).sum(dim=0).roll(shift)

        return project

    def __call__(self, gradient: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Projects a whole gradient, by module name, each part of shape `(out_features, in_features)`."""
        return sum(self.of(name)(part.reshape(-1)) for name, part in gradient.items())

    def _table(self, size: int, turn: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        key = (size, turn, like.device, like.dtype)
        if key not in self._tables:
            # Drawn on the CPU, whose generator gives the same numbers everywhere.
            seed = hashlib.sha256(f"{self.seed}|{self.dim}|{size}|{turn}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(seed[:7], "little"))
            slots = torch.randperm(-(-size // self.dim) * self.dim, generator=generator)[:size]
            signs = torch.randint(0, 2, (size,), generator=generator).mul_(2).sub_(1)
            self._tables[key] = slots.to(like.device), signs.to(like.device, like.dtype)
        return self._tables[key]


def projected_influence(dataset, validation, batch_size: int = 1000) -> np.ndarray:
    """Influence of rows on a validation set, from stored projected gradients: no model, no second pass.

    It estimates what scoring computes exactly. The estimate's standard deviation is about |g|·|ḡ_val| / √dim, which
    for long rows, whose gradients are nearly orthogonal to ḡ_val, is no small part of the spread of influences.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows scored with `DIQScorer(..., projection_dim=...)`.
        validation ([`~datasets.Dataset`]):
            Validation rows, scored with the same model and projection.
        batch_size (`int`, *optional*, defaults to `1000`):
            Rows read at a time.

    Returns:
        `np.ndarray` of shape `(len(dataset),)`, float32; NaN for rows that were not scored.

    Raises:
        `ValueError`: The two have no projected gradients of the same model and projection.

    Example:

    ```python
    diq_score = DIQScorer(model, validation=exam_rows, projection_dim=4096)
    pool, other = diq_score.score(pool), diq_score.score(other_validation_rows)
    pool = pool.add_column("influence_other", projected_influence(pool, other))
    ```
    """
    names = [name for name in dataset.column_names if name.startswith(COLUMN)]
    if not (common := [name for name in names if name in validation.column_names]):
        theirs = [name for name in validation.column_names if name.startswith(COLUMN)]
        raise ValueError(
            f"The rows have the projected gradients {names} and the validation rows {theirs}: not of one model, "
            "target modules and projection. Score both with the same `DIQScorer(..., projection_dim=...)`."
        )

    def batches(rows):
        for batch in rows.select_columns(common[:1]).with_format("numpy").iter(batch_size):
            # Rows that came from elsewhere, by `concatenate_datasets`, have null.
            size = next((len(row) for row in batch[common[0]] if row is not None), 1)
            unscored = np.full(size, np.nan)
            yield np.array([unscored if row is None else row for row in batch[common[0]]], dtype=np.float32)

    total, count = np.float64(0), 0
    for batch in batches(validation):
        scored = batch[np.isfinite(batch).all(axis=1)].astype(np.float64)
        total, count = total + scored.sum(axis=0), count + len(scored)
    if not count:
        raise ValueError("No validation row was scored.")
    found = [batch @ (total / count) for batch in batches(dataset)]
    return np.concatenate([np.empty(0), *found]).astype(np.float32)
