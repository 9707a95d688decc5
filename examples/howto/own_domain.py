"""Your own questions and answers, of any field: no difficulty classifier, no validation set to prepare.

    python examples/howto/own_domain.py rows.jsonl --question question --answer answer

Difficulty is IFD under the model itself. A part of the rows is held out as validation rows: what most of the data is
about counts as what the model should learn. Replace them by rows of your real task as soon as you have some.
"""

import argparse

from datasets import load_dataset

from diq_hf import DIQScorer, select_subset


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("rows", help="JSONL with a question and an answer in each row")
parser.add_argument("--question", default="question", help="its column of the question")
parser.add_argument("--answer", default="answer", help="its column of the answer")
parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
parser.add_argument("--num_validation", type=int, default=100, help="rows to hold out")
parser.add_argument("--ratio", type=float, default=0.1)
parser.add_argument("--output", default="own_subset")
options = parser.parse_args()


def chat(row: dict) -> dict:
    return {
        "prompt": [{"role": "user", "content": row[options.question]}],
        "completion": [{"role": "assistant", "content": row[options.answer]}],
    }


def is_filled(row: dict) -> bool:
    return all((row[column] or "").strip() for column in (options.question, options.answer))


rows = load_dataset("json", data_files=options.rows, split="train").filter(is_filled).map(chat)
parts = rows.train_test_split(test_size=options.num_validation, seed=0)

scored = parts["train"].map(DIQScorer(options.model, parts["test"]), batched=True)
subset = select_subset(scored, ratio=options.ratio)
subset.save_to_disk(options.output)

print(f"{len(subset)} of {len(scored)} rows in {options.output}. The first:")
for row in subset.select(range(min(3, len(subset)))):
    print(f"difficulty {row['difficulty']:.3f}, influence {row['influence']:.3f}: {row[options.question][:90]}")
