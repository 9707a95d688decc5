"""Processes that hold shards of one model, kept in step: each pass of one is a pass of all.

A pass gathers every layer's weights from all processes, so they must run equally many, and one that leaves a pass
half way would keep the others waiting. Rows are therefore shared out, a process that has none left runs a row that
counts for nothing, and one that fails runs such a row through what is left of its pass before it tells the others.
"""

import contextlib
import gc
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import distributed, nn
from torch.distributed.tensor import DTensor

from ..rows.batching import TokenBudget, free_memory, longest_first
from ..rows.encoded import IGNORE_INDEX, EncodedRow
from .sharding import Sharding
from .zero import in_zero


Result = TypeVar("Result")

# A row that counts for nothing, for a process that has no other.
IDLE_ROW = EncodedRow(np.full(13, 1), np.array([*[IGNORE_INDEX] * 12, 1]))

# What a process says between two passes; the largest is what all of them do.
DONE, MORE, ANEW, FAILED = range(4)


class Again(Exception):
    """The rows' work begins anew, on every process: no error."""


class _OtherFailedError(RuntimeError):
    pass


class Lockstep:
    """Runs batches on all processes that share a model, or on the only one.

    Args:
        sharding ([`Sharding`]):
            The model's.
        device (`torch.device`):
            Where its rows go.
    """

    def __init__(self, sharding: Sharding, device: torch.device):
        self.sharding, self.device, self.group = sharding, device, sharding.group
        self.size = 1 if self.group is None else distributed.get_world_size(self.group)
        self.rank = 0 if self.group is None else distributed.get_rank(self.group)
        self.gathering = Gathering(sharding)
        self._told: BaseException | None = None  # an error that the others have heard of

    def share(self, rows: Sequence[EncodedRow]) -> list[int]:
        """Positions of this process's rows: of each length about as many as every other has."""
        if self.size == 1:
            return list(range(len(rows)))
        return longest_first(rows)[self.rank :: self.size]

    def run(
        self,
        rows: Sequence[EncodedRow],
        budget: TokenBudget,
        function: Callable[[list[int]], Result],
        relief: Callable[[bool], bool] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[list[int], Result]]:
        """Yields `(row positions, function(row positions))` batch by batch, longest rows first.

        Args:
            rows (`Sequence[EncodedRow]`):
                This process's own.
            budget ([`~diq_hf.rows.batching.TokenBudget`]):
                Makes the batches. Where memory runs out it is halved, for good and on every process.
            function (`Callable`):
                One pass over a batch. Without positions it is a pass over `IDLE_ROW`.
            relief (`Callable`, *optional*):
                Says whether a row that does not fit alone can be run at less memory, and on `True` sees to it.
            progress (`Callable`, *optional*):
                Called with the number of rows that all processes have just done.

        Raises:
            `RuntimeError`: A single row does not fit into memory, or another process has failed.
        """
        waiting, done, wanted, self._told = longest_first(rows), 0, False, None
        with self.gathering.counted(self.size > 1), self.together(), self.sharding.settled():
            while True:
                told = self._exchange(MORE if waiting else DONE, budget.max_tokens, done, int(wanted))
                done, budget.max_tokens = 0, int(told[:, 1].min())
                if relief is not None and told[:, 3].max():
                    relief(True)
                wanted = False
                if progress is not None and (finished := int(told[:, 2].sum())):
                    progress(finished)
                if told[:, 0].max() == DONE:
                    return
                batch = budget.first(waiting, rows)
                try:
                    result = self._pass(function, batch)
                except Exception as error:
                    if not should_reduce_batch_size(error):
                        raise
                    # A pass over no row has been brought to its end since, which is all that the others need of it.
                    if len(batch) == 1 and relief is not None and relief(False):
                        wanted = True
                    elif batch:
                        budget.halve(batch, rows, error)
                else:
                    if batch:
                        waiting, done = waiting[len(batch) :], len(batch)
                        yield batch, result
                    continue
                free_memory()  # outside the handler, whose traceback still holds the failed batch's tensors

    def _pass(self, function: Callable[[list[int]], Result], batch: list[int]) -> Result:
        """One pass, from sharded weights on. If it fails, the others' is brought to its end all the same."""
        self.sharding.settle()
        self.gathering.begin()
        try:
            return function(batch)
        except Exception as error:
            if self.size > 1 and self.sharding.zero:
                # Whose gatherings cannot be counted: the others are in the midst of a pass and hear of nothing.
                self._told = error
                self.sharding.zero.leave()
                if should_reduce_batch_size(error):
                    self._told = RuntimeError(
                        "Memory ran out in the midst of a pass, which the processes of a ZeRO-3 model cannot take up "
                        "again in smaller batches. Lower `max_tokens_per_batch`, or use FSDP2, where they can."
                    )
                    raise self._told from error
            elif self.size > 1:
                self._bring_to_end(function, error)
            raise

    def _bring_to_end(self, function: Callable[[list[int]], Result], error: Exception) -> None:
        """Lets the others' pass come to its end where this process's failed.

        Raises:
            `Exception`: It cannot. The others, in the midst of the pass, hear of nothing, and end with this process.
        """
        traceback.clear_frames(error.__traceback__)  # which hold the failed batch's tensors
        gc.collect()
        self.sharding.settle()
        self.gathering.begin(again=True)
        try:
            function([])
        except Exception as again:
            self._told = error
            if should_reduce_batch_size(error):
                self._told = RuntimeError(
                    "Memory ran out in the midst of a pass, and did so again without any row of this process: there "
                    "is no room for the weights of a layer beside what else is there. Use a smaller dtype, more "
                    "devices or larger ones."
                )
            raise self._told from again

    def sum(self, *tensors: torch.Tensor) -> None:
        """Adds up what each process has, in place."""
        if self.size > 1:
            for tensor in tensors:
                distributed.all_reduce(tensor, group=self.group)

    def joined(self, mine: Sequence[int], values: np.ndarray) -> np.ndarray:
        """Rows that each process has its own part of, whole on all of them."""
        if self.size == 1:
            return values
        whole = torch.zeros(values.shape, dtype=torch.float64)
        whole[list(mine)] = torch.from_numpy(values)[list(mine)]
        whole = whole.to(self.device)
        self.sum(whole)
        return whole.cpu().numpy()

    def all_agree(self, answer: bool) -> bool:
        """Whether the answer is yes on every process."""
        return bool(self._exchange(DONE, int(answer))[:, 1].min())

    def check_alike(self, modules: Mapping[str, nn.Module]) -> None:
        """Looks whether weights that are whole on every process are the same there.

        Raises:
            `ValueError`: They are not, as where an adapter was put on a sharded model with another seed on each.
        """
        self.end_together()
        if self.size == 1:
            return
        whole = {name: m.weight.detach() for name, m in modules.items() if not _in_shards(m.weight)}
        sums = [weight.double().square().sum().to(self.device) for weight in whole.values()]
        told = torch.stack([*sums, torch.zeros((), dtype=torch.float64, device=self.device)])
        least, most = told.clone(), told
        distributed.all_reduce(least, distributed.ReduceOp.MIN, group=self.group)
        distributed.all_reduce(most, distributed.ReduceOp.MAX, group=self.group)
        if other := [name for name, differs in zip(whole, (least != most).tolist(), strict=False) if differs]:
            raise ValueError(
                f"`{other[0]}` is not the same on every process, so there is no one model to score. Set a seed before "
                "the adapter is made, or make it before the model is sharded."
            )

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Ends on every process with an error if one of them has one, each with its own or with another's words."""
        try:
            yield
        except Exception as error:
            if self.size > 1 and error is not self._told:
                if isinstance(error, Again):
                    self._exchange(ANEW)  # which raises as much, or another's error
                self._tell(error)
            raise

    def end_together(self) -> None:
        """Waits for the others, of whom one may have failed."""
        self._exchange(DONE)

    def _tell(self, error: Exception) -> None:
        with contextlib.suppress(_OtherFailedError):  # what this process raises is its own
            self._exchange(FAILED, message=f"{type(error).__name__}: {error}")
        self._told = error

    def _exchange(self, status: int, *numbers: int, message: str | None = None) -> np.ndarray:
        """What each process says: its status and its numbers.

        Raises:
            `RuntimeError`: One of them has failed.
            [`Again`]: One of them begins anew, and so do all.
        """
        mine = np.zeros((1, 4), dtype=np.int64)
        mine[0, : 1 + len(numbers)] = [status, *numbers]
        if self.size == 1:
            return mine
        own = torch.from_numpy(mine).to(self.device)
        told = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(told, own, group=self.group)
        said = torch.cat(told).cpu().numpy()
        if said[:, 0].max() == FAILED:
            words: list[Any] = [None] * self.size
            distributed.all_gather_object(words, message, group=self.group)
            self._told = _OtherFailedError(f"Another process failed, so none goes on. {next(filter(None, words))}")
            raise self._told
        if said[:, 0].max() == ANEW:
            self._told = Again()
            raise self._told
        return said


class Gathering:
    """Counts the gatherings of weights in a pass, and whatever else all processes do together in it, so that a pass
    which failed can be brought to its end.

    The pass is run again over a row that counts for nothing. Its first gatherings, which the other processes have
    behind them, are left out, and the rest take place.
    """

    def __init__(self, sharding: Sharding):
        self.sharding, self._counting = sharding, False
        self.done = self._turn = 0

    def begin(self, again: bool = False) -> None:
        """A new pass; or, `again`, the one that failed, of which `done` gatherings are made."""
        self._turn = 0
        if not again:
            self.done = 0

    def due(self) -> bool:
        """Whether the gathering that comes next takes place."""
        if not self._counting:
            return True
        self._turn += 1
        if self._turn <= self.done:
            return False
        self.done = self._turn
        return True

    @contextlib.contextmanager
    def counted(self, wanted: bool) -> Iterator[None]:
        """Counts while it lasts."""
        groups = [group for unit in self.sharding.units for group in _groups(unit)] if wanted else []
        former = [group._all_gather_comm for group in groups]
        try:
            self._counting = wanted
            for group, comm in zip(groups, former, strict=True):
                group._all_gather_comm = _Counted(comm, self)
            yield
        finally:
            self._counting = False
            for group, comm in zip(groups, former, strict=True):
                group._all_gather_comm = comm


class _Counted:
    """A way to gather weights, counted."""

    def __init__(self, comm: Any, gathering: Gathering):
        self.comm, self.gathering = comm, gathering

    def allocate(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.comm.allocate(*args, **kwargs)

    def __call__(self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: Any, async_op: bool = False):
        if self.gathering.due():
            return self.comm(output_tensor, input_tensor, group, async_op)
        output_tensor.zero_()
        return None


def _in_shards(weight: torch.Tensor) -> bool:
    return isinstance(weight, DTensor) or in_zero(weight)


def _groups(unit: Any) -> list[Any]:
    """A unit's groups of weights. torch has a way to set how they are gathered, and none to put it back."""
    groups = getattr(unit._get_fsdp_state(), "_fsdp_param_groups", [])
    return [group for group in groups if hasattr(group, "_all_gather_comm")]
