"""What `DIQCallback(online=True)` costs: update steps with and without its readings, in turn, in one training.

python examples/benchmarks/benchmark_online.py --model MODEL --steps 40
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from diq_hf.training.online import OnlineInfluence
from diq_hf.training.rescoring import TrainerScorer


sys.path.append(str(Path(__file__).parents[1] / "demo"))

from clinical_pool import clinical_pool, clinical_validation


class Reading(TrainerCallback):
    """Reads the influence of each row of an epoch as it is trained.

    Set `trainer` to the trainer, which has an `eval_dataset`, before it trains.

    Args:
        max_validation_rows (`int`, *optional*):
            So many of its rows at most.
    """

    def __init__(self, max_validation_rows: int | None = None):
        self.max_validation_rows = max_validation_rows

    def on_train_begin(self, args, state, control, **kwargs):
        scorer = TrainerScorer(self.trainer, kwargs["model"], max_validation_rows=self.max_validation_rows)
        self.online = OnlineInfluence(scorer.engine)
        self.online.use(scorer.direction())
        self.rows = len(self.trainer.train_dataset)

    def on_step_begin(self, args, state, control, **kwargs):
        size, batches = args.per_device_train_batch_size, args.gradient_accumulation_steps
        first = state.global_step % math.ceil(self.rows / (size * batches)) * size * batches
        # Which rows they are is of no matter here, but how many: an epoch's last batch may be smaller.
        self.online.attach()
        self.online.begin_step(
            lambda batch: list(range(first + batch * size, min(first + (batch + 1) * size, self.rows)))
        )

    def on_step_end(self, args, state, control, **kwargs):
        self.online.collect()
        self.online.detach()


class InTurn(Reading):
    """Reads every other step's influences, and takes the time of all."""

    def __init__(self):
        super().__init__(max_validation_rows=8)
        self.seconds = {True: [], False: []}
        self.reading = False

    def on_step_begin(self, args, state, control, **kwargs):
        if self.reading:
            super().on_step_begin(args, state, control)
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        if self.reading:
            super().on_step_end(args, state, control)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[self.reading].append(time.perf_counter() - self.start)
        self.reading = not self.reading


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="Hub id or folder")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--per_device_train_batch_size", type=int, default=4)
    parser.add_argument("--full", action="store_true", help="train all weights instead of LoRA")
    options = parser.parse_args(arguments)
    pool = Dataset.from_list([{name: row[name] for name in ("prompt", "completion")} for row in clinical_pool()])
    validation = Dataset.from_list(
        [{name: row[name] for name in ("prompt", "completion")} for row in clinical_validation()]
    )
    callback = InTurn()
    with tempfile.TemporaryDirectory() as folder:
        callback.trainer = SFTTrainer(
            options.model,
            args=SFTConfig(
                output_dir=folder,
                max_steps=options.steps,
                per_device_train_batch_size=options.per_device_train_batch_size,
                pad_to_multiple_of=256,  # steps of one size
                max_length=256,
                use_cpu=not torch.accelerator.is_available(),
                save_strategy="no",
                disable_tqdm=True,
                report_to=[],
            ),
            train_dataset=pool,
            eval_dataset=validation,
            peft_config=None if options.full else LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj"]),
            callbacks=[callback],
        )
        callback.trainer.train()
    pairs = list(zip(callback.seconds[True][1:], callback.seconds[False][1:], strict=False))
    ratio = statistics.median(reading / plain for reading, plain in pairs)
    print(f"A step with readings takes {ratio:.3f} times one without (median of {len(pairs)} pairs).")
    return ratio


if __name__ == "__main__":
    main()
