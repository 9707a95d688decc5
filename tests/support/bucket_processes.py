"""Run by test_buckets.py: two processes of a launcher that sets no more than `srun` is told, on one machine and two.

Prints what each of them got: the folder that it may use, or an error.
"""

import json
import multiprocessing
import platform
import socket

import torch
from killed_runs import join

from diq_hf.scoring import buckets


def take(rank: int, port: int, name: str, told: multiprocessing.Queue) -> None:
    """One of them, on a machine of that name."""
    join(rank, 2, port)
    platform.node = lambda: name
    buckets._Mirror.bring = buckets._Mirror.send = buckets._Mirror.remove_gone = lambda mirror: None  # there is no Hub
    try:
        with buckets.chunk_folder("hf://buckets/me/job", torch.device("cpu")) as folder:
            told.put((rank, str(folder)))
    except ValueError as error:
        told.put((rank, str(error)))


def taken(*names: str) -> list[str]:
    """What they got, on machines of these names."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")  # what is imported need not be so again
    told = context.Queue()
    processes = [context.Process(target=take, args=(i, port, name, told)) for i, name in enumerate(names)]
    for process in processes:
        process.start()
    said = [told.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    return [text for _, text in sorted(said)]


if __name__ == "__main__":
    print(json.dumps([taken("gpu07", "gpu07"), taken("gpu07", "gpu08")]))
