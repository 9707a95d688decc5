"""`DIQCallback` in two processes, against one."""

import json

import numpy as np
import pytest
from datasets import load_dataset
from processes import launched
from trainings import Recorder, make_trainer, selections

from diq_hf import DIQCallback


pytest_plugins = "pools"


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    result = launched("callback_processes.py", folder, timeout=500)
    assert result.returncode == 0, result.stderr[-5000:]
    return folder, [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", ["lora", "full"])
def test_scoring_leaves_no_trace_in_two_processes(name, two_processes):
    for found in two_processes[1]:
        for part in ("steps", "weights"):
            assert found[f"{name} reporting"][part] == found[f"{name} alone"][part]
        assert len(found[f"{name} alone"]["steps"]) == 10


@pytest.mark.parametrize("name", ["chosen", "dispatched"])
def test_only_chosen_rows_are_trained_in_two_processes(name, two_processes):
    folder, (first, second) = two_processes
    together = Recorder()
    together.steps = [a + b for a, b in zip(first[name]["steps"], second[name]["steps"], strict=True)]
    assert all(len(rows) == 4 for rows in together.steps)
    assert first[name]["weights"] == second[name]["weights"]
    chosen = selections(folder / name)
    assert sorted(chosen) == [0, 3, 6, 9] and all(len(rows) == 5 for rows in chosen.values())
    for number, rows in enumerate(together.steps):
        current = max(step for step in chosen if step <= number)
        if current == 0 or number - current >= 1:
            assert set(rows) <= chosen[current]


def test_two_processes_score_as_one(two_processes, train_rows, eval_rows, tmp_path):
    callback = DIQCallback(num_rows=5, rescore_every=None)
    make_trainer("sft", train_rows, eval_rows, tmp_path, callback, max_steps=1).train()
    both = [
        load_dataset("parquet", data_files=f"{folder}/diq/step-00000000.parquet", split="train")
        for folder in (tmp_path, two_processes[0] / "chosen")
    ]
    assert np.allclose(both[0]["influence"][:], both[1]["influence"][:], rtol=1e-5)
    assert both[0]["selected"][:] == both[1]["selected"][:]


def test_resumed_in_two_processes(two_processes):
    for found in two_processes[1]:
        assert found["resumed"]["steps"] == found["chosen"]["steps"][5:]
        assert found["resumed"]["weights"] == found["chosen"]["weights"]


def test_bad_validation_row_in_two_processes(two_processes):
    for found in two_processes[1]:
        assert "text to train on is empty" in found["error"]


def test_processes_agree_where_a_selection_starts(two_processes):
    """Also where one of them reads for both: rows that are read off the other's batches are the right ones."""
    _, (first, second) = two_processes
    for name in ("chosen", "dispatched", "dispatched online", "online"):
        assert first[name]["selections"] == second[name]["selections"] and first[name]["selections"]
        assert first[name]["scores"] == second[name]["scores"]


def test_online_in_two_processes_resumed_into_another_folder(two_processes):
    for found in two_processes[1]:
        assert found["online resumed"]["steps"] == found["online"]["steps"][5:]
        for name in ("weights", "selections", "scores"):
            assert found["online resumed"][name] == found["online"][name]


def test_a_direction_that_one_process_sees(two_processes):
    for found in two_processes[1]:
        whole, absent, torn = found["directions"]
        assert whole is True and absent is None and "torn" in torn
