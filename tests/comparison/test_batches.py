"""Equal tokens in equal steps, as the model sees them."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from small_comparisons import LORA, TRAINING, make_rows

from diq_hf.comparison.batches import TokenBatches, cut
from diq_hf.comparison.training import Training
from diq_hf.rows.formats import RowEncoder


@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.data())
@settings(max_examples=200, deadline=None)
def test_batches_are_all_rows_in_their_order_and_about_equal(num_trained, data):
    count = data.draw(st.integers(1, len(num_trained)))
    batches = cut(num_trained, count)
    assert [i for batch in batches for i in batch] == list(range(len(num_trained)))
    assert len(batches) == count and all(len(batch) for batch in batches)
    share, longest = sum(num_trained) / count, max(num_trained)
    if longest <= share:
        assert all(abs(sum(num_trained[i] for i in batch) - share) <= longest for batch in batches)


def test_fewer_rows_than_batches_are_refused():
    with pytest.raises(ValueError, match="2 rows cannot make 3 batches"):
        cut([5, 5], 3)


def test_each_pass_has_an_order_of_its_own():
    batches = [row for batch in TokenBatches([3] * 12, 6, num_epochs=2, seed=1) for row in batch]
    assert sorted(batches[:12]) == sorted(batches[12:]) == list(range(12)) and batches[:12] != batches[12:]
    again, other = TokenBatches([3] * 12, 6, 2, seed=1), TokenBatches([3] * 12, 6, 2, seed=2)
    assert [row for batch in again for row in batch] == batches != [row for batch in other for row in batch]


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("epochs", [1, 2])
def test_the_model_is_trained_on_just_these_tokens(model, tokenizer, model_folder, tmp_path, accumulated, epochs):
    """Short rows and long ones: as many labels a step, and as many steps, as were planned."""
    config = TRAINING | {"gradient_accumulation_steps": accumulated, "num_train_epochs": epochs}
    training, encoder = Training(model_folder, config, LORA), RowEncoder(tokenizer, max_length=128)
    seen = []
    by_length = sorted(make_rows(120, 0), key=lambda row: encoder(row).num_trained)
    for rows in (by_length[:60], by_length[60:]):
        num_trained = np.array([encoder(row).num_trained for row in rows])
        # As many rows of each kind as have about 500 tokens.
        count = int(np.searchsorted(np.cumsum(num_trained), 500))
        rows, num_trained = rows[:count], num_trained[:count]
        labels = []

        def count_labels(module, args, kwargs, labels=labels):
            if torch.is_grad_enabled() and kwargs.get("labels") is not None:
                labels.append(int((kwargs["labels"][:, 1:] != -100).sum()))

        loaded = training.load()
        hook = loaded[0].register_forward_pre_hook(count_labels, with_kwargs=True)
        batches = TokenBatches(num_trained, 5 * accumulated, epochs, seed=0)
        data = Dataset.from_list(rows).select_columns(["prompt", "completion"])
        trainer = training.run(data, lambda _: batches, 5, 0, str(tmp_path), loaded=loaded)  # noqa: B023
        hook.remove()
        assert sum(labels) == epochs * num_trained.sum()
        assert trainer.state.global_step == 5 and len(labels) == 5 * accumulated
        seen.append((len(rows), labels))
    (short, of_short), (long, of_long) = seen
    assert short > 1.5 * long
    assert np.mean(of_short) == pytest.approx(np.mean(of_long), rel=0.1)


def test_what_a_comparison_decides_itself_is_refused(model_folder):
    for name, value in {"max_steps": 3, "seed": 1, "packing": True, "output_dir": "x"}.items():
        with pytest.raises(ValueError, match=f"'{name}', which is not yours"):
            Training(model_folder, {name: value})
    with pytest.raises(ValueError, match="no such field"):
        Training(model_folder, {"learnin_rate": 1e-3})
    with pytest.raises(ValueError, match="whole passes"):
        Training(model_folder, {"num_train_epochs": 0.5})
