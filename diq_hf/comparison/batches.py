"""Equal tokens in equal steps: whoever takes short rows must not get more steps for them.

The trainer's loss is a mean over the trained tokens of a step, so a step of few tokens moves the weights as far as one
of many. Compared fairly, all train as many tokens in as many steps, and batches are cut by tokens instead of rows.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


def cut(num_trained: Sequence[int], num_batches: int) -> list[range]:
    """Cuts rows, in their order, into batches of about equally many trained tokens.

    Args:
        num_trained (`Sequence[int]`):
            Trained tokens of each row.
        num_batches (`int`):
            Batches to cut them into. Each gets a row at least.

    Returns:
        `list[range]`: the positions of each batch. None is further from its share than the longest row is long, unless
        a row is longer than a batch.

    Raises:
        `ValueError`: There are fewer rows than batches.

    Example:

    ```python
    >>> cut([5, 5, 9, 1], num_batches=2)
    [range(0, 2), range(2, 4)]

    ```
    """
    if len(num_trained) < num_batches:
        raise ValueError(
            f"{len(num_trained)} rows cannot make {num_batches} batches. Raise the budget, or make batches larger "
            "(`per_device_train_batch_size`)."
        )
    ends = np.cumsum(num_trained)
    # A row belongs where its middle lies.
    middles = ends - np.asarray(num_trained) / 2
    inner = np.searchsorted(middles, ends[-1] * np.arange(1, num_batches) / num_batches)
    bounds = np.concatenate([[0], inner, [len(ends)]])
    for i in range(1, num_batches):  # no batch is empty, from either side
        bounds[i] = max(bounds[i], bounds[i - 1] + 1)
    for i in range(num_batches - 1, 0, -1):
        bounds[i] = min(bounds[i], bounds[i + 1] - 1)
    return [range(int(start), int(end)) for start, end in itertools.pairwise(bounds)]


class TokenBatches(Sampler[list[int]]):
    """Batches of a training set by trained tokens, the same number of them whatever the rows' lengths.

    Args:
        num_trained (`Sequence[int]`):
            Trained tokens of each row.
        num_batches (`int`):
            Batches in all; they are shared out among the passes.
        num_epochs (`int`, *optional*, defaults to `1`):
            Passes over the rows, each in an order of its own.
        seed (`int`, *optional*, defaults to `0`):
            Of the orders.
    """

    def __init__(self, num_trained: Sequence[int], num_batches: int, num_epochs: int = 1, seed: int = 0):
        self.num_trained, self.num_batches = np.asarray(num_trained), num_batches
        self.num_epochs, self.seed = num_epochs, seed
        list(self)  # what cannot be cut is refused here, before the training

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng(self.seed)
        orders = [generator.permutation(len(self.num_trained)) for _ in range(self.num_epochs)]
        order = np.concatenate(orders)
        for batch in cut(self.num_trained[order], self.num_batches):
            yield order[batch.start : batch.stop].tolist()
