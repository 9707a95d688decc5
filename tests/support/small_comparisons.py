"""A small comparison: made of rows drawn by a seed, run in this process or, as a script, in one of its own."""

import json
import random
import sys

from conftest import SENTENCES, chat, make_model, make_tokenizer
from datasets import Dataset, disable_progress_bars


WORDS = " ".join(SENTENCES).split()
TRAINING = {"per_device_train_batch_size": 4, "max_length": 128, "learning_rate": 1e-2}
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"]}


def make_rows(count: int, seed: int) -> list[dict]:
    rng, rows = random.Random(seed), []
    for i in range(count):
        row = chat(" ".join(rng.choices(WORDS, k=5 + i % 5)), " ".join(rng.choices(WORDS, k=3 + i % 12)))
        rows.append(row | {"source": "ab"[i % 2]})
    return rows


def make_arguments(folder: str) -> dict:
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return {
        "pool": Dataset.from_list(make_rows(80, 0)),
        "model": folder,
        "validation": make_rows(6, 1),
        "heldout": make_rows(8, 2),
        "strategies": ["influence", "random"],
        "ratio": 0.25,
        "seeds": (0, 1),
        "training": TRAINING,
        "lora": LORA,
        "model_init_kwargs": {"dtype": "float32"},
        "group_column": "source",
    }


if __name__ == "__main__":
    import torch

    from diq_hf import compare

    torch.set_num_threads(1)
    disable_progress_bars()
    model, output = sys.argv[1:]
    result = compare(**make_arguments(model), output=output)
    print(json.dumps([[run.strategy, run.seed, run.losses] for run in result.runs]))
