"""The benchmark and `make gpu`, as far as a CPU goes: every part runs, and counts what it says it counts."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import benchmark
import numpy as np
import pytest
import torch
from benchmark import parse, run
from benchmark_table import COLUMNS, METHODS, SFT, agreement, operations
from benchmark_worker import LLAMA_8B, PEERS, batches, row_losses
from conftest import make_model
from scipy.stats import spearmanr
from torch.utils.flop_counter import FlopCounterMode


ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "examples" / "benchmarks"
CHOSEN = ["forward", "diq", "kronfluence", "sft_best", "online", "row_by_row_fp32"]


@pytest.fixture(scope="module")
def commands() -> list[list[str]]:
    """The benchmark's commands of `make gpu`, without the Python."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    shown = subprocess.run(["make", "-n", "gpu"], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    lines = shown.replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in line.split(";") if "benchmark.py" in part]
    return [shlex.split(part.partition("||")[0])[2:] for part in parts]


def peer(folder: Path, name: str, script: str) -> None:
    """An environment whose Python does something else."""
    python = folder / name / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)


def tiny(model_folder, pool, validation, folder: Path) -> list[str]:
    """Options that make any of the benchmark's commands a small one."""
    for name, rows in (("pool", pool), ("validation", validation)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs = ["--rows", folder / "pool.jsonl", "--validation", folder / "validation.jsonl", "--output", folder / "out"]
    return list(map(str, ["--model", model_folder, "--dtype", "float32", "--use_cpu", *inputs]))


def test_the_command_of_make_gpu_on_a_cpu(commands, model_folder, pool, validation, tmp_path):
    peer(tmp_path / "peers", "kronfluence", "echo Traceback >&2; echo 'OSError: no | such luck' >&2; exit 1")
    small = tiny(model_folder, pool, validation, tmp_path)
    command = [sys.executable, BENCHMARKS / "benchmark.py", *commands[0], *small]
    command += ["--methods", *CHOSEN, "--peers", tmp_path / "peers"]
    result = subprocess.run(command, capture_output=True, text=True)
    # One that fails is told, and costs the others nothing.
    assert result.returncode == 1 and "Some methods, or" in result.stderr, result.stderr + result.stdout
    report = json.loads((tmp_path / "out/results.json").read_text())
    lines = report["methods"]
    assert list(lines) == CHOSEN
    assert lines.pop("kronfluence") == {"error": "OSError: no | such luck"}
    for name, line in lines.items():
        assert set(COLUMNS) <= set(line)
        assert line["rows_per_second"] > 0 and line["ratio_to_forward"] > 0
        assert line["peak_gib"] >= line["baseline_gib"] > 0
        assert name == "row_by_row_fp32" or 0 < line["peak_share"] < 1
    assert lines["forward"]["ratio_to_forward"] == 1 and lines["row_by_row_fp32"]["spearman"] == 1
    assert lines["diq"]["spearman"] > 0.99 and lines["diq"]["top_overlap"] == 1
    assert lines["diq"]["largest_loss_difference"] < 1e-5 and lines["diq"]["largest_score_difference"] < 1e-4
    assert lines["online"]["validation_seconds"] > 0
    shares = report["scoring_over_three_epochs"]
    assert 0 < shares["pool"][SFT[1]] < shares["validation + pool"][SFT[1]]
    assert shares["validation + pool"][SFT[1]] < shares["validation + pool + difficulty"][SFT[1]]
    table = (tmp_path / "out/results.md").read_text()
    assert all(heading in table for heading in (*COLUMNS.values(), *(METHODS[name] for name in CHOSEN)))
    assert f"| {METHODS['kronfluence']} | failed: OSError: no / such luck |" in table
    assert "aten::mm" in (tmp_path / "out/profile_diq.txt").read_text()


def test_make_gpu_names_what_there_is(commands, tmp_path):
    for name in PEERS:
        peer(tmp_path, name, "true")
    small, large = (parse([*command, "--peers", str(tmp_path)]) for command in commands)
    assert not small.llama_8b and large.llama_8b and small.timeout and large.timeout
    for options in (small, large):
        assert set(PEERS) < set(options.methods) and {"forward", "diq", "online", "sft_best"} < set(options.methods)
    assert small.output.parent == large.output.parent and small.output != large.output
    made = subprocess.run(["make", "-n", "gpu"], capture_output=True, text=True, cwd=ROOT).stdout
    assert "pytest -m gpu" in made
    script = (BENCHMARKS / "peer_env.sh").read_text()
    for name, package in PEERS.items():
        assert f"{name}) packages=(" in script and package in script
    refused = subprocess.run([BENCHMARKS / "peer_env.sh", "nobody", tmp_path / "x"], capture_output=True, text=True)
    assert refused.returncode == 2 and "kronfluence" in refused.stderr and not (tmp_path / "x").exists()


def test_a_peer_without_its_environment(capsys, tmp_path):
    with pytest.raises(SystemExit):
        parse(["--methods", "diq", "dattri_tokens", "--peers", str(tmp_path)])
    assert "`peer_env.sh dattri FOLDER/dattri` makes it" in capsys.readouterr().err


def test_a_peak_that_cannot_be_measured(model_folder, pool, validation, tmp_path, monkeypatch, capsys):
    """Table and log say why the column is empty, and the exit status that something failed."""
    forward = {"seconds": {"pool": 1.0}, "baseline_bytes": 1, "peak_bytes_after": {"pool": 1}, "settings": "none"}
    found = {"matmul": {"error": "OutOfMemoryError: no | room"}, "forward": forward}
    monkeypatch.setattr(benchmark, "run", lambda method, *_: found[method])
    with pytest.raises(SystemExit, match="the measurement of the peak, failed"):
        benchmark.main([*tiny(model_folder, pool, validation, tmp_path), "--methods", "forward"])
    told = capsys.readouterr().out
    assert "The machine's peak could not be measured: OutOfMemoryError: no | room" in told
    table = (tmp_path / "out/results.md").read_text()
    assert "Of peak: not known, for the machine's could not be measured (OutOfMemoryError: no / room)." in table
    assert "Of peak: operations" not in table and table in told


def test_a_method_that_takes_too_long(tmp_path):
    peer(tmp_path, "bergson", "exec sleep 60")
    python = str(tmp_path / "bergson/bin/python")
    assert run("bergson", {}, tmp_path, python, timeout=0.2) == {"error": "not done in 0.2 s"}


@pytest.mark.parametrize("name", PEERS)
def test_peers_give_the_same_scores(name, model_folder, pool, validation, tmp_path):
    """Where `make gpu`, or peer_env.sh by hand, has made their environments."""
    folder = ROOT / ".venv-peers"
    if not (folder / name / "bin" / "python").exists():
        pytest.skip(f"no environment in {folder}")
    methods = [method for method in METHODS if method.split("_")[0] == name]
    command = [sys.executable, BENCHMARKS / "benchmark.py", *tiny(model_folder, pool, validation, tmp_path)]
    command += ["--peers", folder, "--methods", "row_by_row_fp32", *methods]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr + result.stdout
    report = json.loads((tmp_path / "out/results.json").read_text())
    for method in methods:
        line = report["methods"][method]
        assert line["largest_score_difference"] < 1e-4 and line["largest_loss_difference"] < 1e-5
    assert PEERS[name] in report["peer_versions"][name]


def encoded(lengths: list[int]) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    rows = []
    for length in lengths:
        ids = rng.integers(5, 300, length)
        rows.append({"input_ids": ids, "labels": np.where(np.arange(length) < length // 3, -100, ids)})
    return rows


def test_batches_and_losses_that_peers_are_given():
    model, rows = make_model().double().eval(), encoded([5, 17, 9, 30, 30, 6])
    order, made = batches(rows, 64)
    assert sorted(order) == list(range(6)) and [len(batch["input_ids"]) for batch in made] == [2, 3, 1]
    assert all(batch["input_ids"].numel() <= 64 for batch in made)
    found = torch.cat([row_losses(model, batch) for batch in made])
    for place, loss in zip(order, found, strict=True):
        row = {name: torch.from_numpy(values)[None] for name, values in rows[place].items()}
        assert loss.item() == pytest.approx(model(**row).loss.item(), rel=1e-6)
    assert len(batches(rows, 3)[1]) == 6  # a row longer than the budget is a batch


def test_operations_are_those_that_torch_counts(model_folder):
    """Products with weights, by torch's own counter, over rows of which every token is trained."""
    rows = [{name: values.tolist() for name, values in row.items()} for row in encoded([12, 20])]
    for row in rows:
        row["labels"] = row["input_ids"]
    model = make_model().requires_grad_(False)
    model.get_input_embeddings().requires_grad_(True)
    projections = [p.requires_grad_(True) for name, p in model.named_parameters() if name.split(".")[-2][0] in "qkv"]
    assert len(projections) == 6
    forward, scores = 0, 0
    for row in rows:
        batch = {name: torch.tensor([values]) for name, values in row.items()}
        with FlopCounterMode(display=False) as counter:
            loss = model(**batch).loss
        forward += counter.flop_counts["Global"][torch.ops.aten.mm]
        with FlopCounterMode(display=False) as counter:
            torch.autograd.grad(loss, [model.get_input_embeddings().weight, *projections])
        scores += counter.flop_counts["Global"][torch.ops.aten.mm]
    # The model's own head runs at each row's last token too.
    last = 2 * len(rows) * model.get_output_embeddings().weight.numel()
    found = operations(model_folder, None, rows)
    assert found["forward"] + last == forward
    assert found["scores"] + 2 * last == forward + scores
    assert found["training"] == 2 * found["forward"]


def test_operations_of_llama_8b():
    """Its published 8,030,261,248 parameters, less the embeddings that are looked up and the norms."""
    head, norms = 128256 * 4096, 65 * 4096
    body, phi = 8_030_261_248 - 2 * head - norms, 32 * 4096 * (4096 + 2 * 1024)
    found = operations(LLAMA_8B, None, [{"input_ids": [1, 2, 3], "labels": [-100, -100, 3]}])
    assert found["forward"] == 2 * (3 * body + head)
    assert found["scores"] == 2 * found["forward"] + 2 * 3 * phi


def test_agreement_with_the_truth():
    rng = np.random.default_rng(0)
    truth, scores = rng.integers(0, 9, size=(2, 40)).astype(float)  # with ties
    assert agreement(scores, truth)[0] == pytest.approx(spearmanr(scores, truth)[0])
    assert agreement(truth, truth) == (pytest.approx(1), 1)
    assert agreement(-np.arange(20.0), np.arange(20.0)) == (pytest.approx(-1), 0)
    assert agreement([3, 9, 8, 0], [1, 8, 9, 0])[1] == 0
