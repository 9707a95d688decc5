"""Batches of rows by a budget of tokens: packed side by side without padding, or padded beside rows of like length."""

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import should_reduce_batch_size

from .encoded import IGNORE_INDEX, EncodedRow


Result = TypeVar("Result")


@dataclass(frozen=True)
class Batch:
    """Rows as one forward pass takes them.

    Args:
        input_ids (`torch.Tensor` of shape `(rows, longest)`, or `(1, tokens)` when packed):
            Token ids.
        labels (`torch.Tensor`):
            Labels, of the same shape; -100 where a token is not trained.
        lengths (`list[int]`):
            Tokens of each row.
        packed (`bool`):
            Rows stand one after another in a single sequence, instead of being padded on the right.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    lengths: list[int]
    packed: bool

    @classmethod
    def of(cls, rows: Sequence[EncodedRow], packed: bool, device: torch.device) -> "Batch":
        lengths = [len(row) for row in rows]
        shape = (1, sum(lengths)) if packed else (len(rows), max(lengths))
        input_ids = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORE_INDEX, dtype=torch.long)
        start = 0
        for i, row in enumerate(rows):
            place = (0, slice(start, start + len(row))) if packed else (i, slice(len(row)))
            input_ids[place] = torch.from_numpy(row.input_ids)
            labels[place] = torch.from_numpy(row.labels)
            if packed:
                labels[0, start] = IGNORE_INDEX  # nothing before it predicts it
            start += len(row)
        return cls(input_ids.to(device), labels.to(device), lengths, packed)

    @property
    def model_inputs(self) -> dict[str, Any]:
        """What the model is called with. Padding stands on the right, where causal attention never looks back from a
        real token, so neither form needs an attention mask; a packed one tells where rows begin."""
        inputs: dict[str, Any] = {"input_ids": self.input_ids, "use_cache": False}
        if self.packed:
            device = self.input_ids.device
            starts = torch.tensor([0, *self.lengths], device=device).cumsum(0, dtype=torch.int32)
            inputs["position_ids"] = torch.cat([torch.arange(n, device=device) for n in self.lengths])[None]
            inputs["cu_seq_lens_q"] = inputs["cu_seq_lens_k"] = starts
            inputs["max_length_q"] = inputs["max_length_k"] = max(self.lengths)
        return inputs

    def rows(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Each row's own part, of shape `(its tokens, ...)`, of a tensor with one entry a token."""
        if self.packed:
            return list(values[0].split(self.lengths))
        return [row[:length] for row, length in zip(values, self.lengths, strict=True)]

    def row_sums(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over each row's tokens of a tensor of the shape of `input_ids`, in which padding is zero."""
        return torch.stack([row.sum() for row in self.rows(values)]) if self.packed else values.sum(dim=1)


def longest_first(rows: Sequence[EncodedRow]) -> list[int]:
    """Row positions by falling length; ties in row order. The largest batch comes first, so memory fails early."""
    return sorted(range(len(rows)), key=lambda i: -len(rows[i]))


class TokenBudget:
    """Runs a function over batches of at most `max_tokens` tokens, padding counted.

    When the device runs out of memory the budget is halved, for good, and the batch is tried again; what was done
    stays done.

    Args:
        max_tokens (`int`):
            Tokens a batch may hold. A longer row is a batch of its own.
        packed (`bool`, *optional*, defaults to `False`):
            Whether batches will be packed, so that only the rows' own tokens count.
    """

    def __init__(self, max_tokens: int, packed: bool = False):
        if max_tokens < 1:
            raise ValueError(f"`max_tokens_per_batch` must be at least 1, got {max_tokens}.")
        self.max_tokens = max_tokens
        self.packed = packed

    @classmethod
    def on(cls, device: torch.device, max_tokens: int | None = None, packed: bool = False) -> "TokenBudget":
        """A budget for a device: 2048 tokens on a CPU and 16384 elsewhere, unless it is given."""
        if max_tokens is None:
            max_tokens = 2048 if device.type == "cpu" else 16384
        return cls(max_tokens, packed)

    def run(
        self, rows: Sequence[EncodedRow], function: Callable[[list[int]], Result]
    ) -> Iterable[tuple[list[int], Result]]:
        """Yields `(row positions, function(row positions))` batch by batch, longest rows first.

        Raises:
            `RuntimeError`: Even a single row does not fit into memory.
        """
        waiting = longest_first(rows)
        while waiting:
            batch = self.first(waiting, rows)
            try:
                result = function(batch)
            except Exception as error:
                if not should_reduce_batch_size(error):
                    raise
                self.halve(batch, rows, error)
            else:
                waiting = waiting[len(batch) :]
                yield batch, result
                continue
            free_memory()  # outside the handler, whose traceback still holds the failed batch's tensors

    def halve(self, batch: list[int], rows: Sequence[EncodedRow], error: Exception) -> None:
        """Takes smaller batches than one that did not fit.

        Raises:
            `RuntimeError`: It is a single row.
        """
        longest = len(rows[batch[0]])
        if len(batch) == 1:
            raise RuntimeError(
                f"Row {batch[0]} with its {longest} tokens does not fit into memory alone. Lower `max_length`, or use "
                "a smaller dtype or a larger device."
            ) from error
        self.max_tokens = max(longest, self.size(batch, rows) // 2)

    def first(self, waiting: list[int], rows: Sequence[EncodedRow]) -> list[int]:
        """The batch that comes next of row positions by falling length."""
        size = tokens = 0
        for i in waiting:
            tokens += len(rows[i] if self.packed else rows[waiting[0]])
            if size and tokens > self.max_tokens:
                break
            size += 1
        return waiting[:size]

    def size(self, batch: list[int], rows: Sequence[EncodedRow]) -> int:
        """Tokens of a batch, padding counted."""
        return sum(len(rows[i]) for i in batch) if self.packed else len(batch) * len(rows[batch[0]])


def free_memory() -> None:
    """Gives back what nothing holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
