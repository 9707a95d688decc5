"""The sampler that a selection is changed in, read the way accelerate's loaders read it."""

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from diq_hf.training.sampler import SelectionSampler


def epoch(sampler, number):
    sampler.set_epoch(number)
    return list(sampler)


def test_passes_over_the_selection():
    sampler = SelectionSampler(12, batch_size=2, seed=3)
    sampler.select([7, 2, 5])
    rows = epoch(sampler, 0) + epoch(sampler, 1)
    passes = [rows[i : i + 3] for i in range(0, 24, 3)]
    assert all(sorted(part) == [2, 5, 7] for part in passes)
    assert len({tuple(part) for part in passes}) > 1
    other = SelectionSampler(12, batch_size=2, seed=4)
    other.select([7, 2, 5])
    assert epoch(other, 0) != rows[:12]


def test_length_is_whole_batches():
    assert len(SelectionSampler(10, batch_size=4)) == 12
    assert len(SelectionSampler(10, batch_size=4, drop_last=True)) == 8
    assert len(SelectionSampler(8, batch_size=4)) == 8


def test_selection_starts_at_the_next_step_nobody_has_begun():
    sampler = SelectionSampler(16, batch_size=2, step_batches=2)
    sampler.select(range(8))
    reader, seen = iter(sampler), []
    for _ in range(5):  # one row into the second step of four
        seen.append(next(reader))
    assert sampler.select([9, 10]) == 8
    seen += list(reader)
    assert set(seen[:8]) == set(range(8)) and set(seen[8:]) == {9, 10}
    assert sampler.select([11]) == 16  # the epoch is over: the next one
    assert set(epoch(sampler, 1)) == {11}


def test_a_selection_nobody_reached_is_dropped():
    sampler = SelectionSampler(8, batch_size=2)
    sampler.select([0])
    sampler.select([1])
    assert len(sampler.selections) == 1 and set(epoch(sampler, 0)) == {1}


def test_resumed_position_is_a_function_of_the_selections():
    whole = SelectionSampler(10, batch_size=2, seed=1)
    whole.select(range(5))
    first = epoch(whole, 0)
    whole.set_epoch(1)
    reader = iter(whole)
    second = [next(reader) for _ in range(4)]
    whole.select([8, 9])
    resumed = SelectionSampler(10, batch_size=2, seed=1)
    resumed.selections = list(whole.selections)
    second += list(reader)
    assert epoch(resumed, 1) == second
    assert whole.rows(0, 20) == first + second


def test_order_of_the_pool_and_by_length():
    sampler = SelectionSampler(6, batch_size=2, shuffle=False)
    sampler.select([5, 1, 3])
    assert epoch(sampler, 0) == [1, 3, 5, 1, 3, 5]
    sampler = SelectionSampler(400, batch_size=4, lengths=list(range(400)))
    sampler.select(range(0, 400, 2))
    one_pass = epoch(sampler, 0)[:200]
    assert sorted(one_pass) == list(range(0, 400, 2))
    spans = [max(one_pass[i : i + 4]) - min(one_pass[i : i + 4]) for i in range(0, 200, 4)]
    assert np.median(spans) < 60  # about 230 in a plain shuffle


@pytest.mark.parametrize(("processes", "dispatch"), [(1, False), (1, True), (2, False)])
def test_in_accelerates_loaders(processes, dispatch):
    """Ten rows, two processes, batches of two: every batch is whole and of the selection."""
    seen = []
    for process in range(processes):
        loader = prepare_data_loader(
            DataLoader(list(range(10)), batch_size=2),
            num_processes=processes,
            process_index=process,
            put_on_device=True,
            device=torch.device("cpu"),
            dispatch_batches=dispatch,
        )
        sampler = SelectionSampler(10, batch_size=2 * processes)
        loader.set_sampler(sampler)
        sampler.select([1, 4, 6])
        batches = [batch.tolist() for batch in loader]
        assert len(batches) == len(loader) == len(sampler) // (2 * processes)
        assert all(len(batch) == 2 for batch in batches)
        seen.append(batches)
    rows = [row for together in zip(*seen, strict=True) for batch in together for row in batch]
    assert rows == sampler.rows(0, len(sampler))


def test_selections_that_nobody_asks_for_any_more_are_dropped():
    """A thousand selections leave what the present step and later ones come from."""
    sampler, step = SelectionSampler(40, batch_size=2), 0
    sampler.select(range(40))
    for number in range(50):
        sampler.set_epoch(number)
        for position, _ in enumerate(sampler, start=1):
            if position % 2 == 0:
                step += 1
                sampler.select([step % 40], step=step)
                before = sampler.rows(sampler.position(step), sampler.position(step) + 2)
                assert before == [step % 40] * 2
    assert step == 1000 and len(sampler.selections) <= 2


def test_rows_that_were_fetched_ahead_are_still_known():
    """What is being trained was handed out before later selections, and is told by them still."""
    sampler = SelectionSampler(40, batch_size=2)
    sampler.select(range(40))
    reader = iter(sampler)
    fetched = [next(reader) for _ in range(12)]  # five steps ahead
    for step in range(1, 6):
        sampler.select([step], step=step)
        assert sampler.rows(2 * step, 12) == fetched[2 * step :]
    assert next(reader) == 5


@pytest.mark.parametrize(("step_batches", "steps"), [(1, 5), (2, 3)])
def test_positions_of_steps(step_batches, steps):
    """Ten rows in batches of two: with two batches a step the epoch's last step has one."""
    sampler = SelectionSampler(10, batch_size=2, step_batches=step_batches)
    assert sampler.steps_per_epoch == steps
    sampler.begin(0)
    starts = [sampler.position(step) for step in range(2 * steps + 1)]
    assert starts == [*range(0, 10, 2 * step_batches), *range(10, 20, 2 * step_batches), 20]
    sampler.begin(steps + 1)
    assert sampler.epoch == 1 and sampler.position(steps + 1) == 10 + 2 * step_batches
    sampler.begin(steps + 1, skip=False)  # that epoch is read from its start, and the one behind it comes in time
    assert sampler.epoch == 1 and sampler.position(steps + 1) == 10
    assert sampler.position(2 * steps + 1) == 20


def test_rows_of_a_processes_batch():
    sampler = SelectionSampler(16, batch_size=4, step_batches=2)
    sampler.select(range(16))
    for step in (0, 1, 2, 3):
        rows = sampler.rows(8 * step, 8 * step + 8)
        found = [sampler.batch_rows(step, batch, process, 2) for batch in (0, 1) for process in (0, 1)]
        assert found == [rows[:2], rows[2:4], rows[4:6], rows[6:]]


def test_restored_where_positions_mean_other_rows():
    sampler = SelectionSampler(10, batch_size=2)
    sampler.begin(7)
    sampler.restore([(0, np.arange(10)), (4, np.array([1, 3]))], moved=True)
    assert set(epoch(sampler, 1)) == {1, 3}
