"""`diq` end to end, and its errors in one line."""

import json
import subprocess
import sys

import pytest
from datasets import load_from_disk
from typer.testing import CliRunner

from diq_hf import __version__
from diq_hf.cli import app


@pytest.fixture
def files(tmp_path, pool, validation):
    for name, rows in (("pool", pool), ("validation", validation)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_score_then_select(files, model_folder):
    arguments = ["score", f"{files}/pool.jsonl", "--model", model_folder, "--validation", f"{files}/validation.jsonl"]
    result = CliRunner().invoke(app, [*arguments, "--output", f"{files}/scored"], catch_exceptions=False)
    assert result.exit_code == 0 and "7 scored rows" in result.output
    assert {"difficulty", "influence", "loss", "num_tokens"} <= set(load_from_disk(files / "scored").column_names)
    arguments = ["select", f"{files}/scored", "--ratio", "0.4", "--output", f"{files}/subset"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0 and "3 of 7 rows" in result.output
    assert load_from_disk(files / "subset")["diq_rank"][:] == [1, 2, 3]


def test_groups_and_projections(files, model_folder, validation):
    rows = [row | {"task": f"t{i % 2}"} for i, row in enumerate(validation)]
    (files / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["score", f"{files}/pool.jsonl", "--model", model_folder, "--validation", f"{files}/validation.jsonl"]
    arguments += ["--output", f"{files}/scored", "--group-column", "task", "--projection-dim", "32"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    scored = load_from_disk(files / "scored")
    assert {"influence", "influence_t0", "influence_t1"} <= set(scored.column_names)
    (gradients,) = (name for name in scored.column_names if name.startswith("projected_gradient_"))
    assert len(scored[0][gradients]) == 32


@pytest.mark.parametrize(
    ("dataset", "message"),
    [("pool.jsonl", "no column ['difficulty', 'influence']"), ("nothing.jsonl", "There is no file")],
)
def test_errors_are_one_line(files, dataset, message):
    command = [sys.executable, "-m", "diq_hf.cli", "select", dataset, "--ratio", "0.1", "--output", "subset"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=files)
    assert result.returncode == 1
    assert message in result.stderr and "Traceback" not in result.stderr


def test_version():
    assert CliRunner().invoke(app, ["--version"]).output.strip() == __version__
