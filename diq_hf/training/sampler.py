"""A sampler whose rows may change while a trainer is reading from it."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class SelectionSampler(Sampler[int]):
    """Reshuffled passes over a selection of rows, for as many positions an epoch as the whole pool has.

    A trainer plans its steps and its learning rate from the number of batches before training starts, so the length
    never changes: a smaller selection is passed over more often. Position p of the whole training is a function of
    the seed and of the selections so far, and of nothing else, so processes agree and a resumed run goes on exactly.

    Args:
        num_rows (`int`):
            Rows of the pool.
        batch_size (`int`):
            Rows that all processes together take at once.
        step_batches (`int`, *optional*, defaults to `1`):
            Batches in an update step (gradient accumulation).
        seed (`int`, *optional*, defaults to `0`):
            Seed of the shuffling.
        shuffle (`bool`, *optional*, defaults to `True`):
            Shuffle each pass; otherwise rows come in the pool's order.
        lengths (`Sequence[int]`, *optional*):
            Tokens of each row of the pool, to shuffle rows of like length together.
        drop_last (`bool`, *optional*, defaults to `False`):
            Leave the pool's last incomplete batch out of an epoch, instead of filling it.
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        step_batches: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        lengths: Sequence[int] | None = None,
        drop_last: bool = False,
    ):
        # Whole batches: an incomplete one would be filled from the epoch's first batches, whatever was chosen since.
        self.length = (num_rows // batch_size if drop_last else -(-num_rows // batch_size)) * batch_size
        self.batch_size, self.step_size = batch_size, batch_size * step_batches
        self.seed, self.shuffle, self.lengths = seed, shuffle, lengths
        self.epoch = 0
        # Selections in order, each with the position it starts at.
        self.selections: list[tuple[int, np.ndarray]] = []
        self._handed_out = 0  # positions of this epoch that were asked for, by prefetching too
        self._pass: tuple[tuple[int, int], np.ndarray] | None = None

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before it begins the epoch."""
        self.epoch, self._handed_out = epoch, 0

    def select(self, rows: Sequence[int], at: int = 0) -> int:
        """Draws from these rows from now on.

        Args:
            rows (`Sequence[int]`):
                Rows of the pool.
            at (`int`, *optional*, defaults to `0`):
                Not before this position.

        Returns:
            `int`: The position the selection starts at: the next update step of which no row was handed out yet.
        """
        within = min(-(-self._handed_out // self.step_size) * self.step_size, self.length)
        start = max(self.epoch * self.length + within, at)
        self.selections = [(begin, chosen) for begin, chosen in self.selections if begin < start]
        self.selections.append((start, np.sort(np.asarray(rows, dtype=np.int64))))
        return start

    def recent(self) -> list[tuple[int, np.ndarray]]:
        """The selections that this epoch's and later positions come from."""
        begun = [i for i, (start, _) in enumerate(self.selections) if start <= self.epoch * self.length]
        return self.selections[begun[-1] if begun else 0 :]

    def rows(self, start: int, stop: int) -> list[int]:
        """The rows at some positions, counted over all epochs."""
        return [self._row(position) for position in range(start, stop)]

    def __iter__(self) -> Iterator[int]:
        self._handed_out = 0
        first = self.epoch * self.length
        for position in range(self.length):
            self._handed_out = position + 1
            yield self._row(first + position)

    def _row(self, position: int) -> int:
        start, chosen = next(
            selection
            for selection in reversed(self.selections)
            if selection[0] <= position or selection is self.selections[0]
        )
        turn, place = divmod(position - start, len(chosen))
        if self._pass is None or self._pass[0] != (start, turn):
            self._pass = (start, turn), chosen[self._order(chosen, start, turn)]
        return int(self._pass[1][place])

    def _order(self, chosen: np.ndarray, start: int, turn: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(len(chosen))
        seeds = np.random.SeedSequence([self.seed, start, turn % 2**32])
        if self.lengths is None:
            return np.random.default_rng(seeds).permutation(len(chosen))
        generator = torch.Generator().manual_seed(int(seeds.generate_state(1)[0]))
        lengths = [self.lengths[row] for row in chosen]
        return np.array(get_length_grouped_indices(lengths, self.step_size, generator=generator))
