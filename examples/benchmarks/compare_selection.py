"""Does choosing rows again while training help? Held-out loss of LoRA runs of one length, over several seeds.

    python compare_selection.py --model MODEL --pool pool.jsonl --validation val.jsonl --heldout test.jsonl

Every run trains on `--ratio` of the pool for as many steps: rows chosen again after each pass by `DIQCallback`, rows
chosen once by DIQ, and random rows. The pool is scored once, by the model before training.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from diq_hf import DIQCallback, DIQScorer


METHODS = {
    "again after each pass": {},
    "once": {"rescore_every": None},
    "random": {"strategy": "random", "rescore_every": None},
}


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="Hub id or folder")
    for name in ("pool", "validation", "heldout"):
        parser.add_argument(f"--{name}", required=True, help="JSON lines, in any format of SFTTrainer")
    parser.add_argument("--ratio", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num_train_epochs", type=float, default=4, help="passes over the selection")
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--per_device_train_batch_size", type=int, default=4)
    parser.add_argument("--max_length", type=int, default=512)
    parser.add_argument("--output", type=Path, default=Path("compare_output"))
    options = parser.parse_args(arguments)

    pool, validation, heldout = (
        load_dataset("json", data_files=getattr(options, name), split="train")
        for name in ("pool", "validation", "heldout")
    )
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    scorer = DIQScorer(options.model, validation, tokenizer, max_length=options.max_length)
    start = time.perf_counter()
    pool = scorer.score(pool, cache_dir=options.output / "chunks")
    print(f"{len(pool)} rows scored in {time.perf_counter() - start:.0f} s", flush=True)

    results = {name: [] for name in METHODS}
    for seed in options.seeds:
        for name, settings in METHODS.items():
            trainer = SFTTrainer(
                AutoModelForCausalLM.from_pretrained(options.model, dtype="float32"),
                args=SFTConfig(
                    output_dir=str(options.output / f"{name.replace(' ', '_')}-{seed}"),
                    num_train_epochs=options.num_train_epochs,
                    learning_rate=options.learning_rate,
                    lr_scheduler_type="cosine",
                    per_device_train_batch_size=options.per_device_train_batch_size,
                    per_device_eval_batch_size=options.per_device_train_batch_size,
                    max_length=options.max_length,
                    seed=seed,
                    use_cpu=not torch.accelerator.is_available(),
                    save_strategy="no",
                    logging_steps=10,
                    disable_tqdm=True,
                    report_to=[],
                ),
                train_dataset=pool,
                eval_dataset=heldout,
                processing_class=tokenizer,
                peft_config=LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj"]),
                callbacks=[DIQCallback(ratio=options.ratio, validation=validation, **settings)],
            )
            trainer.train()
            shares = [line["diq/share_of_time"] for line in trainer.state.log_history if "diq/share_of_time" in line]
            overlaps = [line["diq/overlap"] for line in trainer.state.log_history if "diq/overlap" in line]
            results[name].append(
                {
                    "seed": seed,
                    "steps": trainer.state.global_step,
                    "heldout_loss": trainer.evaluate()["eval_loss"],
                    "scorings": len(overlaps),
                    "overlaps": overlaps,
                    "share_of_time": shares[-1],
                }
            )
            print(name, results[name][-1], flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "results.json").write_text(json.dumps(results, indent=2))
    for name, runs in results.items():
        losses = np.array([run["heldout_loss"] for run in runs])
        print(f"{name:24} held-out loss {losses.mean():.4f} (from {losses.min():.4f} to {losses.max():.4f})")
    return results


if __name__ == "__main__":
    main()
