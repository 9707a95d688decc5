"""Rows that a training passes over: wrong answers and copies, told by which rows the model is given."""

import numpy as np
import pytest
from conftest import chat
from datasets import Dataset
from trainings import Recorder, make_trainer, rows_of_chat
from transformers.utils import logging

from diq_hf import DIQCallback


pytest_plugins = "pools"

WRONG, FIRST, COPY, NEAR, SECOND = 3, 5, 11, 17, 19


@pytest.fixture
def scored():
    """24 rows, of which the best four are a wrong answer and one row three times, once with another last word."""
    rows = rows_of_chat(24)
    question, answer = "Which drug lowers potassium?", " ".join(f"word{i}" for i in range(30))
    for row, last in ((FIRST, "end"), (COPY, "end"), (NEAR, "stop")):
        rows[row] |= chat(question, f"{answer} {last}")
    influence = np.linspace(1, 2, 24)
    influence[[WRONG, FIRST, COPY, NEAR, SECOND]] = 9, 8, 8, 7, 6
    for i, row in enumerate(rows):
        row |= {"difficulty": 1.0, "influence": float(influence[i]), "mismatch": 0.9 if i == WRONG else 0.1}
    return Dataset.from_list(rows)


def trained(scored, eval_rows, folder, **settings):
    """Rows that were trained, a copy by its first row."""
    callback = DIQCallback(num_rows=3, rescore_every=None, **settings)
    trainer = make_trainer("sft", scored, eval_rows, folder, callback, num_train_epochs=2)
    recorder = Recorder()
    recorder.watch(trainer)
    trainer.train()
    rows = {row for step in recorder.steps for row in step}
    return sorted(FIRST if row == COPY else row for row in rows)


def test_wrong_rows_and_copies_are_passed_over(scored, eval_rows, tmp_path):
    """By default; each bound can be lifted by itself."""
    assert trained(scored, eval_rows, tmp_path / "a") == [FIRST, SECOND, 23]
    assert trained(scored, eval_rows, tmp_path / "b", max_mismatch=None) == [WRONG, FIRST, SECOND]
    assert trained(scored, eval_rows, tmp_path / "c", max_similarity=1) == [FIRST, NEAR, SECOND]
    assert trained(scored, eval_rows, tmp_path / "d", max_mismatch=0.95, max_similarity=None) == [WRONG, FIRST]
    assert trained(scored, eval_rows, tmp_path / "e", strategy="influence") == [FIRST, SECOND, 23]


def test_token_ids_alone(scored, eval_rows, tmp_path, caplog):
    """Without texts rows of the same ids are copies, and it is said once that no others are found."""
    logging.warning_once.cache_clear()  # other tests may have heard it
    tokenized = make_trainer("sft", scored, eval_rows, tmp_path / "made", None).train_dataset
    tokenized = tokenized.remove_columns(["prompt", "completion"])
    assert trained(tokenized, eval_rows, tmp_path / "a") == [FIRST, NEAR, SECOND]
    assert trained(tokenized, eval_rows, tmp_path / "b") == [FIRST, NEAR, SECOND]
    assert len([record for record in caplog.records if "has no texts any more" in record.message]) == 1


def test_scored_again(scored, eval_rows, tmp_path):
    """With every scoring anew, whatever the scores are by then."""
    scored = scored.add_column("number2", list(range(24))).remove_columns(["difficulty", "influence"])
    callback = DIQCallback(num_rows=20, rescore_every=1, candidates=None)
    trainer = make_trainer("sft", scored, eval_rows, tmp_path, callback, num_train_epochs=3)
    recorder = Recorder()
    recorder.watch(trainer)
    trainer.train()
    rows = [row for step in recorder.steps for row in step]
    assert WRONG not in rows and len({FIRST, COPY, NEAR} & set(rows)) == 1
    assert len(set(rows)) > 18


def test_refused(scored, eval_rows, tmp_path):
    with pytest.raises(ValueError, match="`ratio` or `num_rows`, not both"):
        DIQCallback(ratio=0.1, num_rows=3)
    with pytest.raises(ValueError, match="`max_similarity` is a share between 0 and 1"):
        DIQCallback(max_similarity=7)
    with pytest.raises(ValueError, match=r"the training set has none. Score it with"):
        trained(scored.remove_columns("mismatch"), eval_rows, tmp_path, max_mismatch=0.1)
    everything = scored.remove_columns("mismatch").add_column("mismatch", [0.5] * 24)
    with pytest.raises(ValueError, match="No row can be trained: all are without scores, or passed over"):
        trained(everything, eval_rows, tmp_path)
