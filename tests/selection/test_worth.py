"""What rows are worth, by the trainer's own step."""

import numpy as np
import torch
from conftest import chat, make_model
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from diq_hf import DIQScorer, select_subset
from diq_hf.rows.formats import RowEncoder
from diq_hf.selection.budgets import worth


RATE = 1e-3


def test_a_step_is_worth_what_its_tokens_are(tokenizer, validation, tmp_path):
    """One SGD step of SFTTrainer on rows of unequal length lowers the validation loss by η·Σ n·influence / Σ n."""
    rng = np.random.default_rng(0)
    words = ["fever", "sodium", "potassium", "heart", "drug", "blood", "calcium", "murmur", "gap", "cells"]

    def sentence(count):
        return " ".join(rng.choice(words, count))

    rows = Dataset.from_list([chat(sentence(3), sentence(int(rng.integers(1, 30)))) for _ in range(40)])
    model = make_model(dtype=torch.float64)
    encoder = RowEncoder(tokenizer)
    held_out = [encoder(row) for row in validation]

    @torch.no_grad()
    def validation_loss(model):
        batches = [{"input_ids": row.input_ids, "labels": row.labels} for row in held_out]
        losses = [model(**{name: torch.tensor(ids)[None] for name, ids in batch.items()}).loss for batch in batches]
        return torch.stack(losses).mean().item()

    scored = DIQScorer(model, validation=Dataset.from_list(validation), processing_class=tokenizer).score(rows)
    influence = np.array(scored["influence"][:], dtype=float)
    num_trained = np.array([encoder(row).num_trained for row in rows])
    before = validation_loss(model)
    batches = [rng.choice(len(rows), 4, replace=False) for _ in range(12)]
    dropped = []
    for i, batch in enumerate(batches):
        stepped = make_model(dtype=torch.float64)
        for name, parameter in stepped.named_parameters():
            parameter.requires_grad_(name.split(".")[-2] in ("q_proj", "k_proj", "v_proj"))
        arguments = SFTConfig(
            str(tmp_path / str(i)),
            per_device_train_batch_size=len(batch),
            max_steps=1,
            optim="sgd",
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_grad_norm=0,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        SFTTrainer(stepped, args=arguments, train_dataset=rows.select(batch), processing_class=tokenizer).train()
        dropped.append(before - validation_loss(stepped.eval()))
    tokens = num_trained[np.array(batches)]
    expected = RATE * (tokens * influence[np.array(batches)]).sum(1) / tokens.sum(1)
    assert np.corrcoef(dropped, expected)[0, 1] >= 0.99
    assert 0.9 < np.polyfit(expected, dropped, 1)[0] < 1.1
    # A mean over rows says something else.
    assert np.corrcoef(dropped, influence[np.array(batches)].mean(1))[0, 1] < 0.99


def test_worth():
    influence, tokens = np.array([3.0, 1.0, -1.0]), np.array([1.0, 10.0, 5.0])
    assert worth(influence, None, None, False).tolist() == influence.tolist()
    assert worth(influence, tokens, "token", True).tolist() == influence.tolist()
    assert worth(influence, tokens, "token", False).tolist() == [3, 10, -5]
    assert worth(influence, tokens, "row", False, 1.0).tolist() == [2, 0, -10]


def test_foreign_answers_have_no_part_in_the_mean():
    """Rows that are passed over for their mismatch do not move what `per="row"` ranks by."""
    draw = np.random.default_rng(3)
    for _ in range(20):
        size, foreign = 40, draw.random(40) < 0.3
        columns = {"influence": draw.normal(size=size) + 4 * foreign, "difficulty": np.ones(size)}
        columns |= {"num_trained": draw.integers(1, 60, size), "mismatch": foreign * 0.9, "row": np.arange(size)}
        scored = Dataset.from_dict(columns)
        options = {"num_rows": 8, "per": "row", "influence_percentile": 0}
        expected = select_subset(scored.select(np.flatnonzero(~foreign)), **options)["row"][:]
        assert select_subset(scored, **options)["row"][:] == expected
