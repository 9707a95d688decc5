"""Batches of rows by a budget of tokens: rows of like length together, padded on the right."""

import gc
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from accelerate.utils.memory import should_reduce_batch_size

from .formats import IGNORE_INDEX, EncodedRow


Result = TypeVar("Result")


def longest_first(rows: Sequence[EncodedRow]) -> list[int]:
    """Row positions by falling length; ties in row order. The largest batch comes first, so memory fails early."""
    return sorted(range(len(rows)), key=lambda i: -len(rows[i]))


def pad(rows: Sequence[EncodedRow], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Stacks rows to `input_ids` and `labels` of shape `(rows, longest)`.

    Padding stands on the right: a causal model never looks at it from a real token, so no attention mask is needed.
    """
    shape = (len(rows), max(map(len, rows)))
    input_ids = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORE_INDEX, dtype=torch.long)
    for i, row in enumerate(rows):
        input_ids[i, : len(row)] = torch.from_numpy(row.input_ids)
        labels[i, : len(row)] = torch.from_numpy(row.labels)
    return input_ids.to(device), labels.to(device)


class TokenBudget:
    """Runs a function over batches of at most `max_tokens` tokens, padding counted.

    When the device runs out of memory the budget is halved, for good, and the batch is tried again; what was done
    stays done.

    Args:
        max_tokens (`int`):
            Tokens a batch may hold. A longer row is a batch of its own.
    """

    def __init__(self, max_tokens: int):
        if max_tokens < 1:
            raise ValueError(f"`max_tokens_per_batch` must be at least 1, got {max_tokens}.")
        self.max_tokens = max_tokens

    def run(
        self, rows: Sequence[EncodedRow], function: Callable[[list[int]], Result]
    ) -> Iterable[tuple[list[int], Result]]:
        """Yields `(row positions, function(row positions))` batch by batch, longest rows first.

        Raises:
            `RuntimeError`: Even a single row does not fit into memory.
        """
        waiting = longest_first(rows)
        while waiting:
            longest = len(rows[waiting[0]])
            batch = waiting[: max(1, self.max_tokens // longest)]
            try:
                result = function(batch)
            except Exception as error:
                if not should_reduce_batch_size(error):
                    raise
                if len(batch) == 1:
                    raise RuntimeError(
                        f"Row {batch[0]} with its {longest} tokens does not fit into memory alone. Lower "
                        "`max_length`, or use a smaller dtype or a larger device."
                    ) from error
                self.max_tokens = max(longest, len(batch) * longest // 2)
            else:
                waiting = waiting[len(batch) :]
                yield batch, result
                continue
            # Outside the handler, whose traceback still holds the failed batch's tensors.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
