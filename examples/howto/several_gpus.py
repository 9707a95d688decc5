"""Scores a pool on all GPUs of a machine; a killed run that is started again goes on where it stopped.

    torchrun --nproc_per_node 8 examples/howto/several_gpus.py pool.jsonl --validation validation.jsonl

On several machines add torchrun's --nnodes and --rdzv_endpoint, and a --cache_dir that all of them see. On CPUs set
ACCELERATE_USE_CPU=true.
"""

import argparse

from accelerate import Accelerator
from datasets import load_dataset

from diq_hf import DIQScorer


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("pool", help="JSONL in any format SFTTrainer takes")
parser.add_argument("--validation", required=True, help="JSONL in any format SFTTrainer takes")
parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
parser.add_argument("--chunk_size", type=int, default=512, help="rows that each process takes at a time")
parser.add_argument("--cache_dir", help="folder for finished chunks")
parser.add_argument("--output", default="scored")
options = parser.parse_args()

accelerator = Accelerator()
with accelerator.main_process_first():  # one process prepares the files, the others find them prepared
    pool = load_dataset("json", data_files=options.pool, split="train")
    validation = load_dataset("json", data_files=options.validation, split="train")

diq_score = DIQScorer(options.model, validation, extra_columns=["loss", "num_tokens"])
scored = diq_score.score(pool, options.chunk_size, options.cache_dir, accelerator)  # the same in every process

if accelerator.is_main_process:
    scored.save_to_disk(options.output)
    print(f"{len(scored)} rows scored by {accelerator.num_processes} processes, in {options.output}")
accelerator.end_training()
