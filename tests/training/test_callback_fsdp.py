"""`DIQCallback` in trainings of a model in shards of FSDP2, on two processes, against a whole one on one."""

import json

import numpy as np
import pytest
from conftest import make_model
from datasets import load_dataset
from fsdp_trainings import CASES
from processes import launched
from trainings import make_trainer, selections

from diq_hf import DIQCallback


pytest_plugins = "pools"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fsdp")
    result = launched("fsdp_trainings.py", folder, timeout=500)
    assert result.returncode == 0, result.stderr[-6000:]
    return folder, [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_fsdp_scoring_leaves_no_trace(name, trained):
    for found in trained[1]:
        alone, reporting = found[f"{name} alone"], found[f"{name} reporting"]
        assert alone["steps"] == reporting["steps"] and alone["weights"] == reporting["weights"]
        assert alone["shards"] == reporting["shards"] > 0


@pytest.mark.parametrize("name", CASES)
def test_fsdp_scores_as_one_whole_model(name, trained, train_rows, eval_rows, tmp_path):
    callback = DIQCallback(num_rows=5, rescore_every=None)
    model = make_model(CASES[name][1])
    make_trainer("sft", train_rows, eval_rows, tmp_path, callback, model, max_steps=1, **CASES[name][2]).train()
    both = [
        load_dataset("parquet", data_files=f"{folder}/diq/step-00000000.parquet", split="train")
        for folder in (tmp_path, trained[0] / name.replace(" ", "-") / "chosen")
    ]
    influences = [np.array(scored["influence"][:]) for scored in both]
    if "lora" in name:  # of an adapter with another start
        assert np.abs(influences[1]).max() > 0
        return
    assert np.abs(influences[0] - influences[1]).max() < 1e-5 * np.abs(influences[0]).max()
    assert both[0]["selected"][:] == both[1]["selected"][:]


@pytest.mark.parametrize("name", ["full", "lora", "native lora"])
def test_fsdp_direction_beside_a_checkpoint(name, trained):
    """Written whole by one process, and found in shards where the weights are."""
    for found in trained[1]:
        assert found[f"{name} online"]["direction"] == [True, name == "full"]


@pytest.mark.parametrize("kind", ["chosen", "online"])
@pytest.mark.parametrize("name", CASES)
def test_fsdp_trains_chosen_rows_only(name, kind, trained):
    folder, (first, second) = trained
    key = f"{name} {kind}"
    if key not in first:
        return
    assert first[key]["selections"] == second[key]["selections"] and first[key]["scores"] == second[key]["scores"]
    chosen = selections(folder / name.replace(" ", "-") / kind)
    assert sorted(chosen) == [0, 2, 4] and all(len(rows) == 5 for rows in chosen.values())
    for number, rows in enumerate(a + b for a, b in zip(first[key]["steps"], second[key]["steps"], strict=True)):
        current = max(step for step in chosen if step <= number)
        assert set(rows) <= chosen[current] | (chosen[current - 2] if number == current > 0 else set())
