"""Rows of a trainer scored on two processes of torchrun; each writes what it found. See test_rescoring.py."""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from scored_trainers import make_scorer
from trainings import rows_of_chat

from diq_hf.difficulty.sources import NumTokensDifficulty, difficulty_source
from diq_hf.rows.encoded import RowError
from diq_hf.training import rescoring


class Picky(NumTokensDifficulty):
    def __init__(self):
        self.asked = []

    def prepare(self, row, encoder):
        self.asked.append(row["number"])
        if row["number"] == 5:
            raise RowError("it is bad.")


def error_of(function, *args):
    try:
        function(*args)
    except Exception as error:
        return str(error)


def main(folder: Path) -> dict:
    rescoring.CHUNK = 2
    rows, validation = Dataset.from_list(rows_of_chat(13)), Dataset.from_list(rows_of_chat(3, seed=1))
    scorer = make_scorer("sft", rows, validation, folder)
    assert scorer.accelerator.num_processes == 2
    direction = scorer.direction()
    found = {
        name: values.tolist() for name, values in scorer.score(range(13), direction, difficulty_source("ifd")).items()
    }
    source = Picky()
    found |= {"direction": direction.loss, "error": error_of(scorer.score, range(13), None, source)}
    found["asked"] = source.asked

    def broken(items):
        raise RuntimeError("out of rows")

    if scorer.accelerator.process_index == 1:
        scorer.objective.gradient = broken
    return found | {"lost": error_of(scorer.direction)}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = main(folder)
    rank = torch.distributed.get_rank()
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()
