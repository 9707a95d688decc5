"""Run by test_streams.py in a process of its own: processes score a stream and are killed, again and again.

Prints, as JSON, the rows with their scores of the run that was left to finish, on one process, and how often a chunk
was begun.
"""

import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

import torch
from conftest import make_model
from datasets import Dataset, disable_progress_bars
from killed_runs import POOL, TOKENIZER, VALIDATION

from diq_hf import DIQScorer


CHUNK = 8


def score(rank: int, world: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    disable_progress_bars()
    os.environ["OMP_NUM_THREADS"] = "1"
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
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


def launch(world: int, folder: Path, kill_at: int | None = None) -> bool:
    """Starts processes, kills them when so many chunks were begun, and says whether they ended by themselves."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=score, args=(rank, world, port, folder)) for rank in range(world)]
    for process in processes:
        process.start()
    while kill_at is not None and any(process.is_alive() for process in processes):
        if begun(folder) >= kill_at:
            time.sleep(random.uniform(0, 0.1))
            for process in processes:
                if process.is_alive():
                    os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.005)
    for process in processes:
        process.join()
    return all(process.exitcode == 0 for process in processes)


def begun(folder: Path) -> int:
    log = folder / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


if __name__ == "__main__":
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    random.seed(0)
    killed = sum(not launch(2, folder, begun(folder) + 4) for _ in range(kills))
    assert launch(1, folder)
    print(
        json.dumps({"rows": json.loads((folder / "rows.json").read_text()), "begun": begun(folder), "killed": killed})
    )
