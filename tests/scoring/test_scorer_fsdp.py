"""`DIQScorer.score` on a model in shards, on two processes, against one whole."""

import json

import numpy as np
import pytest
from fsdp_scoring import SETTINGS, scored
from processes import launched, needs_shards
from transformers.distributed import DistributedConfig

from diq_hf.engine.loading import launched_shards


@pytest.fixture(scope="module")
def found(tmp_path_factory, model_folder):
    folder = tmp_path_factory.mktemp("fsdp")
    result = launched("fsdp_scoring.py", model_folder, folder)
    assert result.returncode == 0, result.stderr[-6000:]
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", SETTINGS)
def test_fsdp_scores_as_one_whole_model(name, found, model_folder, tmp_path):
    scorer, expected = scored(model_folder, name, tmp_path)
    for rank in found:
        assert list(rank[name]) == list(expected)
        for column, values in expected.items():
            near = {"rtol": 1e-4, "atol": 1e-5 * np.nanmax(np.abs(values)), "equal_nan": True}
            assert np.allclose(np.array(rank[name][column], dtype=float), np.array(values, dtype=float), **near), (
                column
            )
        assert rank[f"{name} digest"] == scorer.weights_digest()
        assert rank[f"{name} reliability"] == pytest.approx(scorer.reliability.split_half, abs=0.02)
    assert json.dumps(found[0][name]) == json.dumps(found[1][name])


def test_fsdp_resumes_and_refuses(found):
    for rank in found:
        assert rank["again"] and "Use `diq_score.score(ds)`" in rank["map"]
    assert found[0]["disk"] == "OSError: disk full"
    assert found[1]["disk"].endswith("OSError: disk full")


@needs_shards
def test_fsdp_as_launched(monkeypatch):
    assert launched_shards() == {}
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert launched_shards() == {}  # one process
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launched_shards() == {"distributed_config": {"fsdp_size": 4}}
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(ValueError, match="--fsdp_version 2"):
        launched_shards()


@needs_shards
def test_shards_that_an_older_transformers_cannot_read(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr(DistributedConfig, "__dataclass_fields__", {"tp_size": None})
    with pytest.raises(ImportError, match=r"transformers 5\.14.*pip install -U transformers"):
        launched_shards()
