"""The examples run, on a tiny model, and say true things about what they show."""

import inspect
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset, load_from_disk

from diq_hf import DIQScorer


EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))

from clinical_pool import clinical_pool, clinical_validation  # noqa: E402


def test_demo(model_folder, tmp_path):
    command = [sys.executable, EXAMPLES / "demo.py", "--model", model_folder, "--output", tmp_path, "--ratio", "0.1"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    for shown in (
        "120 rows in the pool",
        "whole pool",
        "Q1",
        "Taken first",
        "Taken last",
        "Q1 against the whole pool",
    ):
        assert shown in result.stdout
    assert (tmp_path / "quadrants.png").read_bytes().startswith(b"\x89PNG")
    subset = load_from_disk(tmp_path / "subset")
    assert subset["diq_rank"][:] == list(range(1, 13))


def test_documented_code_runs(model_folder, pool, validation):
    """The README's and the scorer's docstring, with a tiny model in the place of the real one."""
    text = inspect.getdoc(DIQScorer) + (EXAMPLES.parent / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    results = []
    for block in blocks:
        names = {"ds": Dataset.from_list(pool), "validation_rows": validation}
        names["other_validation_rows"] = Dataset.from_list(validation)
        exec(block.replace("HuggingFaceTB/SmolLM2-135M-Instruct", model_folder), names)
        results.append(names)
    docstring, first_use, projected = results
    assert docstring["subset"]["diq_rank"][:] == first_use["subset"]["diq_rank"][:] == [1]
    assert "influence_other" in projected["pool"].column_names


@pytest.mark.parametrize("seed", [0, 7])
def test_pool_is_what_it_says(seed):
    pool, validation = clinical_pool(seed), clinical_validation(seed + 1)
    assert pool == clinical_pool(seed)
    assert len(pool) == 120 and len(validation) == 24
    kinds = Counter(row["kind"] for row in pool)
    assert kinds["duplicate"] == kinds["corrupted"] == kinds["trivial"] == 12
    by_id = {row["id"]: row for row in pool}
    assert len(by_id) == 120
    for row in pool:
        source = by_id[row["source_id"]]
        assert (row["prompt"] == source["prompt"]) == (row["kind"] in ("duplicate", "corrupted") or row is source)
        assert (row["completion"] == source["completion"]) == (row["kind"] != "corrupted")
        assert 1 <= row["steps"] <= 6
    questions = {row["prompt"][0]["content"] for row in pool}
    assert not questions & {row["prompt"][0]["content"] for row in validation}
