"""Run by test_streams.py in a process of its own: processes score a stream and are killed, again and again.

Prints, as JSON, the rows with their scores of the run that was left to finish, on one process, and how often a chunk
was begun.
"""

import json
import random
import sys
from pathlib import Path

from conftest import make_model
from datasets import Dataset
from killed_runs import POOL, TOKENIZER, VALIDATION, join, launch, started

from diq_hf import DIQScorer


CHUNK = 8


def score(rank: int, world: int, port: int, folder: Path) -> None:
    join(rank, world, port)
    scorer = DIQScorer(make_model(), VALIDATION, TOKENIZER, extra_columns=["loss", "mismatch"], projection_dim=8)
    real = scorer.engine.project

    def logged(*arguments):
        with open(folder / "log", "a") as log:
            log.write(f"{rank}\n")
        return real(*arguments)

    scorer.engine.project = logged
    stream = Dataset.from_list(POOL).to_iterable_dataset(num_shards=7)
    scored = scorer.score(stream, chunk_size=CHUNK, cache_dir=folder / "chunks", output_dir=folder / "scored")
    if rank == 0:
        (folder / "rows.json").write_text(json.dumps(list(scored)))


if __name__ == "__main__":
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    moment = random.Random(0)
    killed = sum(not launch(score, 2, folder, (4, moment.uniform(0, 0.1))) for _ in range(kills))
    assert launch(score, 1, folder)
    rows = json.loads((folder / "rows.json").read_text())
    print(json.dumps({"rows": rows, "begun": len(started(folder)), "killed": killed}))
