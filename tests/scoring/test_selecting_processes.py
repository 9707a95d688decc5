"""A selection is the same on two processes as on one, and the same when it was killed again and again."""

import pytest
from killing import run_killed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run_killed("selecting_processes.py", tmp_path_factory.mktemp("one") / "run", 0, 1)


def test_two_processes_select_the_same_as_one(undisturbed, tmp_path):
    two = run_killed("selecting_processes.py", tmp_path / "two", 0, 2)
    assert two["columns"] == undisturbed["columns"]
    assert two["started"] == undisturbed["started"] >= 20
    found = undisturbed["columns"]
    assert len(found["subset"]) == 9 and found["selection"]["per"] == "row"
    assert {row["source"] for row in found["subset"]} == {"a", "b"}
    assert sum(row["influence"] is not None for row in found["pool"]) <= 82


def test_resumed_after_kills(undisturbed, tmp_path):
    """Each kill costs at most the chunk that each process had in hand; what is chosen does not know of it."""
    killed = run_killed("selecting_processes.py", tmp_path / "killed", 6, 2)
    assert killed["killed"] == 6
    assert killed["columns"] == undisturbed["columns"]
    assert killed["started"] <= undisturbed["started"] + 2 * 6
