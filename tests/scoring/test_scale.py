"""Memory and speed do not depend on the number of rows. A minute or two: `pytest -m slow`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SENTENCES, chat


pytestmark = pytest.mark.slow

SCORE = """
import json, resource, sys, time
from datasets import load_dataset, disable_progress_bars
from diq_hf import DIQScorer
disable_progress_bars()
model, pool, cache = sys.argv[1:]
rows = load_dataset("json", data_files=pool, split="train", cache_dir=cache)
scorer = DIQScorer(model, rows.select(range(4)), model_init_kwargs={"dtype": "float32"})
scorer.score(rows.select(range(100)), chunk_size=100, cache_dir=cache + "/warm")
start = time.perf_counter()
scored = scorer.score(rows, chunk_size=100, cache_dir=cache)
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"rows": len(scored), "rows_per_second": len(scored) / seconds, "peak_mib": peak}))
"""


def test_flat_from_200_to_20000_rows(model_folder, tmp_path):
    found = {}
    for size in (200, 20_000):
        rows = [chat(f"{i}? {SENTENCES[i % 4]}", SENTENCES[(i + 1) % 4] * (1 + i % 3)) for i in range(size)]
        pool = tmp_path / f"{size}.jsonl"
        pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = [sys.executable, "-c", SCORE, model_folder, pool, tmp_path / f"cache{size}"]
        # One thread: a tiny model's threads would wait for each other more than they work.
        result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert result.returncode == 0, result.stderr[-2000:]
        found[size] = json.loads(result.stdout.splitlines()[-1])
        print(found[size])
    small, large = found.values()
    assert large["peak_mib"] < 1.1 * small["peak_mib"]
    assert large["rows_per_second"] > 0.5 * small["rows_per_second"]  # other work on the machine counts too


def test_a_stream_flat_from_20000_to_200000_rows(model_folder):
    script = Path(__file__).parents[2] / "examples" / "benchmarks" / "benchmark_streams.py"
    command = [sys.executable, script, "--model", model_folder, "--sizes", "20000", "200000"]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr[-2000:]
    small, large = (json.loads(line) for line in result.stdout.splitlines())
    print(small, large)
    assert (small["rows"], large["rows"]) == (20_000, 200_000)
    assert large["peak_mib"] < small["peak_mib"] + 100  # the numbers that are projected alone are 50 MB
    assert large["rows_per_second"] > 0.5 * small["rows_per_second"]
