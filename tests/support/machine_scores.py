"""Run by test_two_machines.py: one process of torchrun scores a pool with the others and writes what came of it."""

import itertools
import json
import os
import sys
import time
from pathlib import Path

import torch
from conftest import make_model
from datasets import Dataset, disable_progress_bars
from killed_runs import POOL, TOKENIZER, VALIDATION

from diq_hf import DIQScorer


def main(folder: Path, cache_dir: Path) -> None:
    torch.set_num_threads(1)
    disable_progress_bars()
    scorer = DIQScorer(make_model(), VALIDATION, TOKENIZER, extra_columns=("loss", "num_tokens", "mismatch"))
    machine, real, begun = os.environ.get("MACHINE", "alone"), scorer.engine.score, itertools.count(1)

    def logged(rows, direction, progress=None):
        with open(folder / "log", "a") as log:
            log.write(f"{machine}\n")
        last = next(begun) == 10
        while last and (folder / f"{machine}-stops").exists():
            time.sleep(0.1)  # until it is switched off, with this chunk in hand
        return real(rows, direction, progress)

    scorer.engine.score = logged
    scored = scorer.score(Dataset.from_list(POOL), chunk_size=2, cache_dir=cache_dir)
    found = {name: scored[name][:] for name in scorer.columns}
    found = {
        "columns": found,
        "world": int(os.environ.get("WORLD_SIZE", 1)),
        "network": os.readlink("/proc/self/ns/net"),
    }
    (folder / f"found-{machine}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
