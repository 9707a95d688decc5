"""How long a row may be: where a model's positions end, or begin to depend on the rows beside it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..rows.encoded import EncodedRow, RowError
from .modes import evaluating
from .sharding import device_of
from .zero import shape_of


@dataclass(frozen=True)
class RowLimit:
    """The longest row a model takes.

    Args:
        tokens (`int`):
            Its length.
        reason (`str`):
            What happens to a longer one.
    """

    tokens: int
    reason: str

    def check(self, row: EncodedRow) -> None:
        """
        Raises:
            [`RowError`]: The row is longer.
        """
        if len(row) > self.tokens:
            raise RowError(f"it has {len(row)} tokens, and {self.reason}. Set `max_length={self.tokens}`.")


def row_limit(backbone: nn.Module, decoder: nn.Module, config: Any) -> RowLimit | None:
    """The limit of a model, or `None` where there is none."""
    limits = []
    if (length := last_position(backbone, decoder)) is not None:
        limits.append(RowLimit(length, f"the model has positions for {length} only"))
    if (length := fixed_rotary_length(config)) is not None:
        changes = (
            f"beyond {length} this model's rotary embedding changes with the longest row of a batch: scores would "
            "depend on the batch"
        )
        limits.append(RowLimit(length, changes))
    return min(limits, key=lambda limit: limit.tokens, default=None)


@torch.no_grad()
def last_position(backbone: nn.Module, decoder: nn.Module) -> int | None:
    """Number of positions in a model's table of them, seen in two short passes; `None` if it has no table.

    Looking beyond the end of one is an error on a CPU, and on a GPU the end of the process: it cannot be tried out.
    """
    embeddings = decoder.get_input_embeddings()
    # The same token throughout, which is not padding, so that what counts up with the tokens is their position.
    token = 3 if getattr(decoder.config, "pad_token_id", None) != 3 else 4
    seen = []
    with evaluating(backbone):
        for length in (8, 12):
            ids = torch.full((1, length), token % shape_of(embeddings.weight)[0], device=device_of(embeddings))
            with _Lookups(length) as lookups:
                backbone(input_ids=ids, use_cache=False)
            seen.append(lookups.found)
    # A table that grows with the tokens is no table of positions.
    return min((size - first for first, size in seen[0] & seen[1]), default=None)


class _Lookups(TorchDispatchMode):
    """Finds where a pass looks up `length` entries of a table, one after another."""

    supports_higher_order_operators = True  # FlexAttention is one

    def __init__(self, length: int):
        super().__init__()
        self.length = length
        self.found: set[tuple[int, int]] = set()  # the first entry, and the table's size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kind = getattr(function, "overloadpacket", None)
        if kind is torch.ops.aten.embedding:
            self._look(args[0], 0, args[1])
        elif kind in (torch.ops.aten.gather, torch.ops.aten.index_select):
            self._look(*args[:3])
        elif kind is torch.ops.aten.index:
            for dim, index in enumerate(args[1]):
                if index is not None and index.dtype in (torch.int64, torch.int32):
                    self._look(args[0], dim, index)
        return function(*args, **(kwargs or {}))

    def _look(self, table: torch.Tensor, dim: int, index: torch.Tensor) -> None:
        if self.length not in index.shape:
            return
        lines = index.movedim(index.shape.index(self.length), 0).reshape(self.length, -1).cpu()
        first = int(lines[0, 0])
        if bool((lines == torch.arange(first, first + self.length)[:, None]).all()):
            self.found.add((first, table.shape[dim]))


def fixed_rotary_length(config: Any) -> int | None:
    """Longest row whose rotary embedding does not depend on its batch, or `None` for no limit."""
    rope = getattr(config, "rope_parameters", None) or {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    if not any(part.get("rope_type") in ("dynamic", "longrope") for part in parts):
        return None
    lengths = [part.get("original_max_position_embeddings") for part in parts]
    lengths.append(getattr(config, "original_max_position_embeddings", None))
    return next(filter(None, lengths), config.max_position_embeddings)
