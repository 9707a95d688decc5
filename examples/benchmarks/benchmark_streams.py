"""Rows a second and peak memory of a scored stream, by its length: tiny rows, and each size in a process of its own.

    python examples/benchmarks/benchmark_streams.py --model MODEL --sizes 20000 200000 2000000

The model's passes are replaced by numbers drawn at random (--passes makes them), so that what is measured is what a
stream costs beside them: reading, encoding, writing chunks and joining them, with 64 projected numbers a row. Each
size ends with a line of JSON.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from datasets import disable_progress_bars, load_dataset

from diq_hf import DIQScorer


DIM = 64


def write_rows(path: Path, size: int) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for i in range(size):
            row = {"prompt": f"How much is {i % 9973} and {i % 7}?", "completion": f"It is {i % 9973 + i % 7}."}
            file.write(json.dumps(row) + "\n")


def score(model: str, pool: Path, folder: Path, passes: bool) -> dict:
    disable_progress_bars()
    stream = load_dataset("json", data_files=str(pool), split="train", streaming=True)
    settings = {"difficulty": "num_tokens", "projection_dim": DIM, "model_init_kwargs": {"dtype": "float32"}}
    scorer = DIQScorer(model, list(stream.take(8)), **settings)
    draw = np.random.default_rng(0)
    if not passes:
        scorer.engine.project = lambda rows, directions, projection, progress: (
            draw.normal(size=(len(rows), DIM)),
            draw.normal(size=(len(rows), len(directions))),
            draw.normal(size=len(rows)),
        )
    started = time.perf_counter()
    scorer.score(stream, cache_dir=folder / "chunks", output_dir=folder / "scored")
    seconds = time.perf_counter() - started
    rows = sum(pq.ParquetFile(path).metadata.num_rows for path in (folder / "scored" / "data").iterdir())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": rows, "rows_per_second": round(rows / seconds), "peak_mib": round(peak)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--passes", action="store_true", help="Score with the model itself.")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(score(arguments.model, arguments.one / "pool.jsonl", arguments.one, arguments.passes)))
        return
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_rows(Path(folder, "pool.jsonl"), size)
            command = [sys.executable, __file__, "--model", arguments.model, "--one", folder]
            found = subprocess.run(
                [*command, *(["--passes"] if arguments.passes else [])], stdout=subprocess.PIPE, text=True, check=True
            )
            print(found.stdout.splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
