"""Run by test_selecting_processes.py in a process of its own: a selection on processes that are killed at random."""

import json
from pathlib import Path

from conftest import SENTENCES, chat, make_model
from datasets import Dataset
from killed_runs import TOKENIZER, VALIDATION, join, log, main

from diq_hf import DIQScorer


WORDS = " ".join(SENTENCES).split()
POOL = [
    chat(f"{WORDS[i % 31]} {i % 100}?", " ".join(WORDS[(i * j) % 37 % len(WORDS)] for j in range(2, 5 + i % 7)))
    | {"source": "ab"[i % 2]}
    for i in range(110)
]


def select(rank: int, world: int, port: int, folder: Path) -> None:
    """One process of a launcher."""
    join(rank, world, port)
    scorer = DIQScorer(make_model(), VALIDATION, TOKENIZER, difficulty="loss", extra_columns=["mismatch"])
    log(scorer, rank, folder)
    settings = {"num_rows": 9, "max_mismatch": 1, "per": "row", "balance": "source", "max_scored": 0.75}
    subset, audit, pool = scorer.select(
        Dataset.from_list(POOL), chunk_size=4, cache_dir=folder / "chunks", return_pool=True, **settings
    )
    found = {"subset": subset.to_list(), "pool": pool.select_columns(["influence", "diq_reason"]).to_list()}
    found |= {"audit": str(audit), "selection": scorer.recipe().selection.to_json()}
    (folder / f"columns-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(select)
