"""Scores a pool, publishes its best tenth and its best percent on the Hub, and checks what was published.

    hf auth login
    python examples/howto/publish.py pool.jsonl me/medical-diq --validation validation.jsonl --license apache-2.0

Both are configurations of one dataset repository: `load_dataset("me/medical-diq", "diq_10pct", split="train")`.
"""

import argparse

from datasets import load_dataset

from diq_hf import DIQScorer, load_subset, push_subset, select_subset, verify_subset


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pool", help="JSON lines, in any format of SFTTrainer")
    parser.add_argument("repo_id", help="dataset repository; made if it is not there")
    parser.add_argument("--validation", required=True, help="rows that stand for what the model should become good at")
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--license", help="license of the pool's rows")
    parser.add_argument("--private", action="store_true", default=None)
    options = parser.parse_args(arguments)

    pool, validation = (
        load_dataset("json", data_files=name, split="train") for name in (options.pool, options.validation)
    )
    diq_score = DIQScorer(options.model, validation, extra_columns=["num_tokens"])
    scored = diq_score.score(pool)
    for name, ratio in (("diq_10pct", 0.1), ("diq_1pct", 0.01)):
        push_subset(
            select_subset(scored, ratio=ratio),
            options.repo_id,
            name,
            scored=scored,
            recipe=diq_score.recipe(),
            license=options.license,
            private=options.private,
        )
        subset, recipe = load_subset(options.repo_id, name)
        print(f"{name}: {len(subset)} of {len(scored)} rows, made by {recipe.model.name}")
    for name, found in verify_subset(options.repo_id).items():
        print(f"{name}: {'; '.join(found.problems) or ('proven' if found.proven else 'as published')}")


if __name__ == "__main__":
    main()
