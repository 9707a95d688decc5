"""The comparison in the README: 2,810 rows of MedQuAD, PubMedQA, Huatuo and others, SmolLM2-135M, a budget in tokens.

    python evidence.py DATA --model MODEL --strategies diq random less --ratio 0.05 --seeds 0 1 2

`DATA` is a folder with evidence_pool.jsonl, evidence_validation.jsonl and evidence_heldout.jsonl (`prompt`,
`completion`, `source`, and `fact`: what is wrong with a row), which are not part of this repository. The pool's scores
are kept in `evidence/scores.parquet` and the runs that are done in `evidence/runs`, so that the table grows from one
machine and day to the next: the same command goes on, on as many processes as it is started.
"""

import argparse
from pathlib import Path

import numpy as np
from datasets import Dataset, load_dataset

from diq_hf import DIQScorer, compare
from diq_hf.comparison.page import markdown_table


HERE = Path(__file__).parent / "evidence"
SCORES = HERE / "scores.parquet"
MAX_LENGTH = 256
MEDICAL = ("medquad", "pubmedqa", "huatuo")
COLUMNS = ("difficulty", "influence", "influence_medquad", "influence_pubmedqa", "loss", "mismatch", "gradient_norm")
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
    parser.add_argument("--finished-only", action="store_true", help="the table of what is done, and no run")
    options = parser.parse_args(arguments)
    pool, validation, heldout = (
        load_dataset("json", data_files=str(options.data / f"evidence_{name}.jsonl"), split="train")
        for name in ("pool", "validation", "heldout")
    )
    result = compare(
        with_scores(pool, validation, options.model),
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


def with_scores(pool: Dataset, validation: Dataset, model: str) -> Dataset:
    """The pool with its exact scores: those that are kept, or computed and kept."""
    if not SCORES.is_file():
        scorer = DIQScorer(
            model,
            validation,
            group_column="source",
            max_length=MAX_LENGTH,
            projection_dim=1024,  # for the gradients' norms
            extra_columns=("loss", "mismatch"),
            model_init_kwargs={"dtype": "float32"},
        )
        keep_scores(scorer.score(pool, cache_dir=HERE / "chunks"))
    scores = Dataset.from_parquet(str(SCORES))
    if len(scores) != len(pool):
        raise ValueError(f"{SCORES} has {len(scores)} rows and the pool {len(pool)}: it is of another one. Remove it.")
    for name in scores.column_names:
        pool = pool.add_column(name, np.array(scores[name][:]))
    # The mark that nobody can know beforehand: right rows of the right field, drawn at random. `column:right` has it.
    right = np.array(pool["fact"][:]) == "clean"
    right &= np.isin(pool["source"][:], MEDICAL)
    drawn = np.random.default_rng(12345).permutation(len(pool)).astype(float)
    return pool.add_column("right", np.where(right, drawn, drawn - 1e6))


def keep_scores(scored: Dataset) -> None:
    """Writes the score columns alone."""
    (projected,) = (name for name in scored.column_names if name.startswith("projected_gradient_"))
    norms = np.linalg.norm(np.array(scored[projected][:]), axis=1).astype(np.float32)
    scored = scored.add_column("gradient_norm", norms)
    scored.select_columns(list(COLUMNS)).to_parquet(str(SCORES))


if __name__ == "__main__":
    main()
