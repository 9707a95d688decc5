"""Run by test_chunks.py in a process of its own: two processes score a pool and are killed at random, again and again.

Prints, as JSON, the columns of the run that was left to finish and every chunk computation that was started.
selecting_processes.py does the same with a selection.
"""

import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from conftest import SENTENCES, chat, make_model, make_tokenizer
from datasets import Dataset, disable_progress_bars

from diq_hf import DIQScorer


POOL = [chat(SENTENCES[i % 4][: 5 + i % 50], SENTENCES[(i + 1) % 4] * (1 + i % 3)) for i in range(200)]
VALIDATION = [chat(SENTENCES[2], SENTENCES[3]), chat("Why?", SENTENCES[0])]
TOKENIZER = make_tokenizer()


def join(rank: int, world: int, port: int) -> None:
    """Makes this process one of a launcher's."""
    torch.set_num_threads(1)
    disable_progress_bars()
    os.environ["OMP_NUM_THREADS"] = "1"  # or accelerate sets the threads of several processes: other sums, other bits
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})


def log(scorer: DIQScorer, rank: int, folder: Path) -> None:
    """Writes down every chunk computation that is started, and makes it take longer than the rest."""
    real = scorer.engine.score

    def logged(rows, direction, progress=None):
        with open(folder / "log", "a") as log:
            log.write(f"{rank} {rows[0].input_ids.tolist()}\n")
        time.sleep(0.08)  # so that kills fall into it
        return real(rows, direction, progress)

    scorer.engine.score = logged


def score(rank: int, world: int, port: int, folder: Path) -> None:
    """One process of a launcher."""
    join(rank, world, port)
    scorer = DIQScorer(
        make_model(), VALIDATION, TOKENIZER, extra_columns=("loss", "num_tokens", "num_trained", "mismatch")
    )
    log(scorer, rank, folder)
    scored = scorer.score(Dataset.from_list(POOL), chunk_size=2, cache_dir=folder / "chunks")
    columns = {name: scored[name][:] for name in scorer.columns}
    (folder / f"columns-{rank}.json").write_text(json.dumps(columns))


def launch(task: Callable, world: int, folder: Path, kill_after: tuple[int, float] | None = None) -> bool:
    """Starts the processes and kills them so many chunks and seconds later; True if they ended by themselves."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=task, args=(rank, world, port, folder)) for rank in range(world)]
    for process in processes:
        process.start()
    if kill_after is not None:
        chunks, seconds = kill_after
        target = len(started(folder)) + chunks
        while len(started(folder)) < target and any(process.is_alive() for process in processes):
            time.sleep(0.005)
        time.sleep(seconds)
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.join()
    return all(process.exitcode == 0 for process in processes)


def started(folder: Path) -> list[str]:
    """The chunk computations that were begun, in every run so far."""
    log = folder / "log"
    return log.read_text().splitlines() if log.exists() else []


def main(task: Callable) -> None:
    """Runs a task and kills it, by the command line's folder, number of kills and of processes."""
    folder, kills, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    moment = random.Random(0)
    # By chunks done and not by the clock, so that a fast machine does not finish before the last kill.
    killed = sum(not launch(task, world, folder, (moment.randint(0, 4), moment.uniform(0, 0.1))) for _ in range(kills))
    assert launch(task, world, folder)
    columns = [json.loads((folder / f"columns-{rank}.json").read_text()) for rank in range(world)]
    assert all(other == columns[0] for other in columns)
    print(json.dumps({"columns": columns[0], "started": len(started(folder)), "killed": killed}))


if __name__ == "__main__":
    main(score)
