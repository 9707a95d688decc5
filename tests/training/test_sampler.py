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
