"""Fine-tunes LoRA on a selected subset, as the DIQ paper trains: r = 8 on q, k and v, 3 epochs, cosine from 1e-4.

python examples/howto/sft_on_subset.py scored_pool/subset --model HuggingFaceTB/SmolLM2-135M-Instruct
"""

import argparse

import torch
from datasets import load_from_disk
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("subset", help="folder of a subset, as score_and_select.py or `diq select` saves it")
parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
parser.add_argument("--epochs", type=float, default=3)
parser.add_argument("--output", default="sft_output")
options = parser.parse_args()

trainer = SFTTrainer(
    options.model,
    train_dataset=load_from_disk(options.subset),  # its score columns are ignored
    args=SFTConfig(
        output_dir=options.output,
        num_train_epochs=options.epochs,
        learning_rate=1e-4,
        lr_scheduler_type="cosine",
        max_length=1024,  # as the rows were scored
        use_cpu=not torch.accelerator.is_available(),
        report_to="none",
    ),
    peft_config=LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj"], task_type="CAUSAL_LM"),
)
trainer.train()
trainer.save_model()
print(f"Adapter in {options.output}; final loss {trainer.state.log_history[-1]['train_loss']:.4f}")
