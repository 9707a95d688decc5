"""What one process runs into while it shares a model with another: neither waits for the other for ever."""

import json
import re

import pytest
from oracle import relative_error
from processes import launched


PLACES = ["first", "last", "embeddings", "norm"]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    result = launched("fsdp_faults.py", folder)
    assert result.returncode == 0, result.stderr[-6000:]
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(params=["lora", "full"])
def found(request, both):
    """An adapter's validation gradient is whole on every process, that of full weights in shards."""
    return [rank[request.param] for rank in both]


@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.parametrize("place", PLACES)
def test_fsdp_memory_that_runs_out_on_one(place, way, found):
    """Wherever in a pass: that process tries again in smaller batches, and so does the other from then on."""
    if (place, way) == ("embeddings", "backward"):  # nothing is asked of them
        return
    for rank in found:
        assert rank[f"{place} {way} memory"] == rank["expected"]
        assert rank[f"{place} {way} memory budget"] < 80


@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.parametrize("place", PLACES)
def test_fsdp_error_of_one_ends_both(place, way, found):
    if (place, way) == ("embeddings", "backward"):
        return
    name = f"{place} {way}"
    assert found[1][f"{name} error"] == f"KeyError: 'lost in {name}'"
    assert found[0][f"{name} error"].endswith(f"none goes on. KeyError: 'lost in {name}'")


def test_fsdp_error_between_passes(found):
    assert found[1]["before"] == "OSError: no such shard of rows"
    assert found[0]["before"].endswith("OSError: no such shard of rows")


def test_fsdp_loss_that_is_no_number_on_one(found):
    """Both say the same of the row, by its place among all of them."""
    first, second = (rank["nan"] for rank in found)
    assert first == second and re.fullmatch(
        r"NonFiniteLossError: Validation row \d has a loss of nan. Check the row.*", first
    )


def test_fsdp_memory_that_runs_out_without_a_row(found):
    """The other's row is scored all the same."""
    for rank in found:
        assert relative_error(rank["idle"][0], rank["expected"][0]) < 1e-6


def test_fsdp_memory_that_is_nowhere_to_be_had(tmp_path):
    """A pass that cannot be brought to its end ends that process, and so the launcher the others: none waits."""
    result = launched("fsdp_faults.py", tmp_path, "exhausted", timeout=200)
    assert result.returncode != 0
    assert "RuntimeError: Memory ran out in the midst of a pass, and did so again without any row" in result.stderr


def test_fsdp_gradient_begins_anew(found):
    for rank in found:
        assert rank["gradient"] < 1e-6 * rank["largest"]


def test_fsdp_fewer_rows_than_processes(found):
    for rank in found:
        assert relative_error(rank["one"][0], rank["expected"][0]) < 1e-6 and rank["none"] == []


def test_fsdp_goes_on_after_faults(found):
    for rank in found:
        assert rank["again"] == rank["expected"] and rank["whole"] == [] and rank["weights"] == rank["alone"]
