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

    Rows that were handed out are trained, whatever is selected meanwhile. A loader asks for one batch ahead, and with
    `dataloader_num_workers` for `prefetch_factor` more a worker: where a pass over the selection is as short as that,
    most of it is still the selection before.

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
        # Selections in order, each with the position it starts at: those that rows may still be asked for.
        self.selections: list[tuple[int, np.ndarray]] = []
        self._handed_out = 0  # positions of this epoch that were asked for, by prefetching too
        self._unread = 0  # steps of the epoch a training was resumed in that count without having been read
        self._pass: tuple[tuple[int, int], np.ndarray] | None = None

    def __len__(self) -> int:
        return self.length

    @property
    def steps_per_epoch(self) -> int:
        """Update steps in an epoch; the last may be of fewer batches."""
        return -(-self.length // self.step_size)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before it begins the epoch."""
        self.epoch, self._handed_out = epoch, 0

    def begin(self, step: int, skip: bool = True) -> None:
        """The training begins after so many update steps.

        Args:
            step (`int`):
                Steps that are done, by a training that is resumed.
            skip (`bool`, *optional*, defaults to `True`):
                The trainer skips what that epoch has handed out; otherwise it reads the epoch from its start.
        """
        epoch, within = divmod(step, self.steps_per_epoch)
        self._unread = 0 if skip else within
        self.set_epoch(epoch)

    def position(self, step: int) -> int:
        """The first position of the update step that follows after so many."""
        epoch, within = divmod(step - self._unread, self.steps_per_epoch)
        return epoch * self.length + within * self.step_size

    def next_start(self, step: int = 0) -> int:
        """The next update step's position of which no row was handed out, from the one after so many steps on."""
        within = min(-(-self._handed_out // self.step_size) * self.step_size, self.length)
        return max(self.epoch * self.length + within, self.position(step))

    def select(self, rows: Sequence[int], start: int | None = None, step: int = 0) -> int:
        """Draws from these rows from now on.

        Args:
            rows (`Sequence[int]`):
                Rows of the pool.
            start (`int`, *optional*):
                The position to start at; by default [`~SelectionSampler.next_start`].
            step (`int`, *optional*, defaults to `0`):
                Steps that are done, of whose rows nobody asks any more.

        Returns:
            `int`: The position that the selection starts at.
        """
        start = self.next_start(step) if start is None else start
        begun = [i for i, (begin, _) in enumerate(self.selections) if begin <= self.position(step)]
        kept = self.selections[begun[-1] if begun else 0 :]
        self.selections = [(begin, chosen) for begin, chosen in kept if begin < start]
        self.selections.append((start, np.sort(np.asarray(rows, dtype=np.int64))))
        return start

    def restore(self, selections: Sequence[tuple[int, np.ndarray]], moved: bool = False) -> None:
        """Goes on with another sampler's selections.

        Args:
            selections (`Sequence[tuple[int, np.ndarray]]`):
                Its `selections`.
            moved (`bool`, *optional*, defaults to `False`):
                Positions mean other rows here: the latest goes on from the start of the epoch.
        """
        self.selections = list(selections)
        if moved and selections:
            self.selections = [(self.epoch * self.length, selections[-1][1])]

    def rows(self, start: int, stop: int) -> list[int]:
        """The rows at some positions, counted over all epochs."""
        return [self._row(position) for position in range(start, stop)]

    def batch_rows(self, step: int, batch: int, process: int = 0, num_processes: int = 1) -> list[int]:
        """The rows that a process takes in one of the batches of the update step that follows after so many."""
        each = self.batch_size // num_processes
        start = self.position(step) + batch * self.batch_size + process * each
        return self.rows(start, start + each)

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
