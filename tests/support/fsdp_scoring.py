"""`DIQScorer` on a model in shards, as `accelerate launch --use_fsdp` makes it. See test_scorer_fsdp.py."""

import json
import os
import sys
from pathlib import Path

import torch
from conftest import chat
from datasets import Dataset
from torch import distributed
from torch.distributed.tensor import DTensor
from trainings import rows_of_chat

from diq_hf import DIQScorer
from diq_hf.scoring import chunks


ROWS, VALIDATION = rows_of_chat(30), rows_of_chat(9, seed=1)
BAD = chat("", "") | {"number": 30}
SETTINGS = {
    "difficulty": {"difficulty": "ifd", "group_column": "group"},
    "mismatch": {"extra_columns": ["mismatch", "loss"], "difficulty": "num_tokens"},
    "projection": {"projection_dim": 16, "difficulty": None, "on_bad_row": "skip"},
}


def scored(model, name, cache_dir):
    validation = [row | {"group": "ab"[i % 2]} for i, row in enumerate(VALIDATION)]
    rows = [*ROWS, *([BAD] if name == "projection" else [])]
    # Enough different prompts for a null.
    rows = rows * 4 if name == "mismatch" else rows
    settings = SETTINGS[name] | ({"model_init_kwargs": {"dtype": torch.float32}} if isinstance(model, str) else {})
    scorer = DIQScorer(model, validation, **settings)
    table = scorer.score(Dataset.from_list(rows), chunk_size=16, cache_dir=cache_dir)
    return scorer, {
        column: table[column][:] for column in table.column_names if column not in ("prompt", "completion")
    }


def main(model: str, folder: Path) -> dict:
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    found = {}
    for name in SETTINGS:
        scorer, found[name] = scored(model, name, folder / "cache")
        assert all(isinstance(p, DTensor) for p in scorer.model.parameters())
        assert scorer.engine.lockstep.size == 2
        found[f"{name} digest"] = scorer.weights_digest(again=True)
        found[f"{name} reliability"] = scorer.reliability and scorer.reliability.split_half
    passes = []
    scorer.engine.model.register_forward_pre_hook(lambda *args: passes.append(1))
    scorer, again = scored(scorer.model, "difficulty", folder / "cache")  # from the cache
    found["again"] = again == found["difficulty"]
    try:
        scorer(Dataset.from_list(ROWS)[:2])
    except ValueError as error:
        found["map"] = str(error)
    write = chunks._write

    def broken(*args):
        raise OSError("disk full")

    chunks._write = broken
    try:
        scored(scorer.model, "difficulty", folder / "other")
    except Exception as error:
        found["disk"] = f"{type(error).__name__}: {error}"
    chunks._write = write
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    found = main(sys.argv[1], folder)
    (folder / f"rank-{distributed.get_rank()}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()
