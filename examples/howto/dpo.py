"""Preference training (DPO) on the rows whose chosen answers DIQ selects.

    python examples/howto/dpo.py preferences.jsonl --validation validation.jsonl

A preference row is scored as the fine-tuning row that its prompt and its chosen answer make.
"""

import argparse

import torch
from datasets import load_dataset
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer

from diq_hf import DIQScorer, select_subset


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("preferences", help="JSONL with `prompt`, `chosen` and `rejected`")
parser.add_argument("--validation", required=True, help="JSONL in any format SFTTrainer takes")
parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
parser.add_argument("--ratio", type=float, default=0.1)
parser.add_argument("--epochs", type=float, default=1)
parser.add_argument("--output", default="dpo_output")
options = parser.parse_args()

preferences = load_dataset("json", data_files=options.preferences, split="train")
validation = load_dataset("json", data_files=options.validation, split="train")

scored = preferences.rename_column("chosen", "completion").map(DIQScorer(options.model, validation), batched=True)
subset = select_subset(scored, ratio=options.ratio).rename_column("completion", "chosen")
print(f"{len(subset)} of {len(preferences)} preference rows selected")

trainer = DPOTrainer(
    options.model,
    train_dataset=subset.select_columns(["prompt", "chosen", "rejected"]),
    args=DPOConfig(
        output_dir=options.output,
        num_train_epochs=options.epochs,
        use_cpu=not torch.accelerator.is_available(),
        report_to="none",
    ),
    peft_config=LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj"], task_type="CAUSAL_LM"),
)
trainer.train()
trainer.save_model()
print(f"Adapter in {options.output}; final loss {trainer.state.log_history[-1]['train_loss']:.4f}")
