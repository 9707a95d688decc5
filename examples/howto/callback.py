"""LoRA fine-tuning that chooses its rows again after each pass over them.

    python examples/howto/callback.py pool.jsonl --validation validation.jsonl --model MODEL --output adapter

The pool is scored before the first step, unless it has `difficulty` and `influence` columns already. Each later choice
is made with the weights by then, among as many candidates as the training since the last one has paid for.
"""

import argparse

import torch
from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from diq_hf import DIQCallback


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pool", help="JSON lines, in any format of SFTTrainer")
    parser.add_argument("--validation", required=True, help="rows that stand for what the model should become good at")
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--output", default="adapter")
    parser.add_argument("--ratio", type=float, default=0.1, help="share of the pool that is trained at a time")
    options = parser.parse_args(arguments)

    pool, validation = (
        load_dataset("json", data_files=name, split="train") for name in (options.pool, options.validation)
    )
    trainer = SFTTrainer(
        options.model,
        args=SFTConfig(
            output_dir=options.output,
            num_train_epochs=3,  # passes over the selection
            learning_rate=1e-4,
            lr_scheduler_type="cosine",
            per_device_train_batch_size=4,
            logging_steps=10,
            report_to=[],
            use_cpu=not torch.accelerator.is_available(),
        ),
        train_dataset=pool,
        eval_dataset=validation,
        peft_config=LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj"]),
        callbacks=[DIQCallback(ratio=options.ratio)],
    )
    trainer.train()
    trainer.save_model(options.output)
    print(f"{trainer.state.global_step} steps; which rows were trained when: {options.output}/diq")


if __name__ == "__main__":
    main()
