"""Scores a pool, writes a report of it and keeps the best 10 %.

python examples/howto/score_and_select.py pool.jsonl --validation validation.jsonl --output scored_pool
"""

import argparse
from pathlib import Path

from datasets import load_dataset

from diq_hf import DIQScorer, QuadrantRule, select_subset, write_report


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("pool", help="JSONL in any format SFTTrainer takes")
parser.add_argument("--validation", required=True, help="JSONL; rows that stand for what the model should learn")
parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
parser.add_argument("--ratio", type=float, default=0.1)
parser.add_argument("--output", type=Path, default=Path("scored_pool"))
options = parser.parse_args()

pool = load_dataset("json", data_files=options.pool, split="train")
validation = load_dataset("json", data_files=options.validation, split="train")

diq_score = DIQScorer(options.model, validation, extra_columns=["num_tokens"])
scored = pool.map(diq_score, batched=True)  # cached: a second run is instant

rule = QuadrantRule.fit(scored)
print(f"Hard from {rule.difficulty_threshold:.4g}, influential from {rule.influence_threshold:.4g}")
subset = select_subset(scored, ratio=options.ratio, rule=rule)
subset.save_to_disk(options.output / "subset")
write_report(scored, options.output / "report.html", ratio=options.ratio, rule=rule)
print(
    f"{len(subset)} of {len(scored)} rows in {options.output / 'subset'}, report in {options.output / 'report.html'}"
)
