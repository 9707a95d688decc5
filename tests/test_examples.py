"""The examples run, on a tiny model, and say true things about what they show."""

import inspect
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, load_from_disk
from scipy.stats import spearmanr

from diq_hf import DIQScorer


EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))

from benchmark import COLUMNS, METHODS, SFT, agreement  # noqa: E402
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


def test_benchmark(model_folder, pool, validation, tmp_path):
    for name, rows in (("pool", pool), ("validation", validation)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = ["forward", "diq", "sft_best", "row_by_row_fp32"]
    command = [sys.executable, EXAMPLES / "benchmark.py", "--model", model_folder, "--dtype", "float32", "--use_cpu"]
    command += ["--rows", tmp_path / "pool.jsonl", "--validation", tmp_path / "validation.jsonl"]
    command += ["--methods", *chosen, "--output", tmp_path]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr + result.stdout
    report = json.loads((tmp_path / "benchmark.json").read_text())
    lines = report["methods"]
    assert list(lines) == chosen
    for line in lines.values():
        assert set(COLUMNS) <= set(line)
        assert line["rows_per_second"] > 0 and line["ratio_to_forward"] > 0
        assert line["peak_gib"] >= line["baseline_gib"] > 0
    assert lines["forward"]["ratio_to_forward"] == 1 and lines["row_by_row_fp32"]["spearman"] == 1
    assert lines["diq"]["spearman"] > 0.99 and lines["diq"]["top_overlap"] == 1
    assert lines["diq"]["largest_loss_difference"] < 1e-5
    shares = report["scoring_over_three_epochs"]
    assert 0 < shares["pool"][SFT[1]] < shares["validation + pool"][SFT[1]]
    assert shares["validation + pool"][SFT[1]] < shares["validation + pool + difficulty"][SFT[1]]
    table = (tmp_path / "benchmark.md").read_text()
    assert all(heading in table for heading in (*COLUMNS.values(), *(METHODS[name] for name in chosen)))


def test_agreement_with_the_truth():
    rng = np.random.default_rng(0)
    truth, scores = rng.integers(0, 9, size=(2, 40)).astype(float)  # with ties
    assert agreement(scores, truth)[0] == pytest.approx(spearmanr(scores, truth)[0])
    assert agreement(truth, truth) == (pytest.approx(1), 1)
    assert agreement(-np.arange(20.0), np.arange(20.0)) == (pytest.approx(-1), 0)
    assert agreement([3, 9, 8, 0], [1, 8, 9, 0])[1] == 0


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
