"""The comparison in the README: 2,810 rows of MedQuAD, PubMedQA, Huatuo and others, SmolLM2-135M, budgets in tokens.

    python evidence.py DATA --model MODEL --strategies diq random less --ratio 0.05 --seeds 0 1 2
    python evidence.py DATA --model MODEL --name mixed --output evidence/mixed ...

`DATA` is a folder with NAME_pool.jsonl, NAME_validation.jsonl and evidence_heldout.jsonl (`prompt`, `completion`,
`source`, and `fact`: what is wrong with a row), which are not part of this repository. The pool's scores are kept in
`scores.parquet` of the output and the runs that are done in `runs`, so that the table grows from one machine and day
to the next: the same command goes on, on as many processes as it is started.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_dataset
from filelock import FileLock

from diq_hf import DIQScorer, compare
from diq_hf.comparison.page import markdown_table
from diq_hf.selection.turns import ALIGNMENT, places_in_turns


HERE = Path(__file__).parent / "evidence"
MAX_LENGTH = 256
MEDICAL = ("medquad", "pubmedqa", "huatuo")
KEPT = ("difficulty", "influence", "loss", "mismatch")
TRAINING = {
    "per_device_train_batch_size": 4,
    "learning_rate": 1.0e-3,
    "lr_scheduler_type": "cosine",
    "gradient_checkpointing": False,
    "max_length": MAX_LENGTH,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--strategies", nargs="+", default=["diq", "diq-paper", "random"])
    parser.add_argument("--ratio", type=float, nargs="+", default=[0.05])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=HERE)
    parser.add_argument("--name", default="evidence", help="of the pool and its validation rows")
    parser.add_argument("--influence", help="the column that stands for the influence: cosine, influence_tokens")
    parser.add_argument("--difficulty", help="the column that stands for the difficulty: loss")
    parser.add_argument("--finished-only", action="store_true", help="the table of what is done, and no run")
    options = parser.parse_args(arguments)
    pool, validation, heldout = (
        load_dataset("json", data_files=str(options.data / f"{name}.jsonl"), split="train")
        for name in (f"{options.name}_pool", f"{options.name}_validation", "evidence_heldout")
    )
    scored = with_scores(pool, validation, options.model, options.output / "scores.parquet")
    for name in ("influence", "difficulty"):
        if other := getattr(options, name):
            scored = scored.remove_columns(name).rename_column(other, name)
    result = compare(
        scored,
        options.model,
        validation,
        heldout,
        options.output,
        options.strategies,
        options.ratio,
        options.seeds,
        training=TRAINING,
        model_init_kwargs={"dtype": "float32"},
        group_column="source",
        on_leak="drop",
        finished_only=options.finished_only,
    )
    print(markdown_table(result))


def with_scores(pool: Dataset, validation: Dataset, model: str, kept: Path) -> Dataset:
    """The pool with its exact scores: those that are kept, or computed and kept."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(kept.with_suffix(".lock")):
        if not kept.is_file():
            scores(pool, validation, model).to_parquet(str(kept))
    columns = Dataset.from_parquet(str(kept))
    if len(columns) != len(pool):
        raise ValueError(f"{kept} has {len(columns)} rows and the pool {len(pool)}: it is of another one. Remove it.")
    for name in columns.column_names:
        pool = pool.add_column(name, np.array(columns[name][:]))
    # In place of a cosine for each validation row what comes of all of them: who is named first.
    pool = pool.add_column(ALIGNMENT, [[-place] for place in pool["place"]]).remove_columns("place")
    # The mark that nobody can know beforehand: right rows of the right field, drawn at random. `column:right` has it.
    right = np.array(pool["fact"][:]) == "clean"
    right &= np.isin(pool["source"][:], MEDICAL)
    drawn = np.random.default_rng(12345).permutation(len(pool)).astype(float)
    return pool.add_column("right", np.where(right, drawn, drawn - 1e6))


def scores(pool: Dataset, validation: Dataset, model: str) -> Dataset:
    """All columns that somebody may rank by."""

    def score(validation: Dataset, group_column: str, **settings: Any) -> Dataset:
        settings |= {"group_column": group_column, "max_length": MAX_LENGTH}
        return DIQScorer(model, validation, model_init_kwargs={"dtype": "float32"}, **settings).score(pool)

    asked = ("loss", "mismatch", "num_trained", ALIGNMENT)
    # The projections are for the gradients' norms, which they keep.
    scored = score(validation, "source", projection_dim=16384, extra_columns=asked)
    (projected,) = (name for name in scored.column_names if name.startswith("projected_gradient_"))
    norms = np.linalg.norm(np.array(scored[projected][:]), axis=1)
    influence, num_trained = (np.array(scored[name][:]) for name in ("influence", "num_trained"))
    # Each validation row's own gradient, in full.
    single = score(validation.add_column("row", list(map(str, range(len(validation))))), "row", difficulty=None)
    each = np.array([single[f"influence_{row}"][:] for row in range(len(validation))])
    columns = {name: np.array(scored[name][:]) for name in KEPT}
    columns |= {"place": places_in_turns(np.array(scored[ALIGNMENT][:]).T), "turns": -places_in_turns(each / norms)}
    columns |= {"cosine": influence / norms, "influence_tokens": influence * num_trained}
    return Dataset.from_dict({name: np.asarray(values, dtype=np.float32) for name, values in columns.items()})


if __name__ == "__main__":
    main()
