"""How long `select_subset` takes for a large pool with all its options on, and how much memory.

Rows are prompts and answers of random words, of which a twentieth each are exact and near copies; scores are random.

    python examples/benchmarks/benchmark_selection.py --rows 1000000 --ratio 0.1
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, List, Value, load_from_disk

from diq_hf import select_subset


WORDS, MADE_AT_ONCE, VALIDATION = 30_000, 50_000, 90
FEATURES = Features(
    {
        "prompt": Value("string"),
        "completion": Value("string"),
        "source": ClassLabel(names=["a", "b", "c", "d", "e"]),
        "difficulty": Value("float32"),
        "influence": Value("float32"),
        "alignment": List(Value("float32")),
        "mismatch": Value("float32"),
        "num_trained": Value("int32"),
    }
)


def make_pool(rows: int, words: int, seed: int = 0):
    """Rows of so many words, the first third of them the prompt."""
    rng = np.random.default_rng(seed)
    vocabulary = np.array([f"word{i}" for i in range(WORDS)])
    chances = 1 / np.arange(1, WORDS + 1)  # as in any language
    chances /= chances.sum()
    earlier = None
    for start in range(0, rows, MADE_AT_ONCE):
        size = min(MADE_AT_ONCE, rows - start)
        ids = rng.choice(WORDS, (size, words), p=chances)
        if earlier is not None:
            copied, changed = np.split(rng.choice(size, size // 10, replace=False), 2)
            for copies in (copied, changed):
                ids[copies] = earlier[rng.integers(0, len(earlier), len(copies))]
            ids[changed, rng.integers(0, words, len(changed))] = rng.integers(0, WORDS, len(changed))
        earlier = ids
        alignment = rng.standard_normal((size, VALIDATION), dtype=np.float32)
        for row, text in enumerate(vocabulary[ids]):
            yield {
                "prompt": " ".join(text[: words // 3]),
                "completion": " ".join(text[words // 3 :]),
                "source": int(rng.integers(5)),
                "difficulty": rng.standard_normal(),
                "influence": rng.standard_normal(),
                "alignment": alignment[row],
                "mismatch": rng.random() ** 4,
                "num_trained": words - words // 3,
            }


def measure(folder: str, ratio: float) -> dict:
    """One selection, in a process of its own."""
    pool = load_from_disk(folder)
    before, start = peak_gib(), time.perf_counter()
    _, told = select_subset(
        pool,
        ratio=ratio,
        per="token",
        max_difficulty_percentile=95,
        max_mismatch=0.2,
        max_similarity=0.7,
        balance="source",
        order="alignment",
        return_pool=True,
    )
    seconds = time.perf_counter() - start
    names = told.features["diq_reason"].names
    counts = np.bincount(told.with_format("numpy")["diq_reason"][:], minlength=len(names))
    return {
        "rows": len(pool),
        "ratio": ratio,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(time.process_time(), 1),
        "baseline_gib": round(before, 2),
        "peak_gib": round(peak_gib(), 2),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "reasons": {name: int(count) for name, count in zip(names, counts, strict=True)},
    }


def peak_gib() -> float:
    """The most memory this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=30, help="of a row")
    parser.add_argument("--ratio", type=float, default=0.1)
    parser.add_argument("--pool", type=Path, help="where the pool is kept for another run")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure(str(options.pool), options.ratio), indent=2))
        return
    with tempfile.TemporaryDirectory() as folder:
        pool = options.pool or Path(folder) / "pool"
        if not pool.exists():
            arguments = {"rows": options.rows, "words": options.words}
            made = Dataset.from_generator(make_pool, gen_kwargs=arguments, features=FEATURES, cache_dir=folder)
            made.save_to_disk(pool)
        command = [sys.executable, __file__, "--measure", "--pool", str(pool), "--ratio", str(options.ratio)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
