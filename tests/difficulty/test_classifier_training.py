"""Training a classifier: its loss, its hold-outs, what it refuses, and the figures of one trained for real."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SENTENCES, make_encoder, make_tokenizer
from datasets import Dataset, load_from_disk
from huggingface_hub import ModelCard
from sklearn import metrics
from transformers import Trainer
from transformers.modeling_outputs import SequenceClassifierOutput
from typer.testing import CliRunner

from diq_hf import DifficultyClassifier
from diq_hf.cli.__main__ import app
from diq_hf.difficulty.classifier_training import ordinal_loss, read_levels, split, train_classifier
from diq_hf.difficulty.holdout import hold_out


WORDS = ("Why?", "Which drug", "blood cultures", "the anion gap", "insulin moves")


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    make_encoder().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def labelled(size=200, groups=8):
    """A word gives the level of knowledge away, its number of repeats that of reasoning; every ninth has no label."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(size):
        knowledge, reasoning = (int(level) for level in rng.integers(1, 6, size=2))
        text = " ".join([SENTENCES[i % 4][:20], *[WORDS[knowledge - 1]] * reasoning])
        row = {"prompt": text, "knowledge": knowledge, "reasoning": reasoning, "template": f"t{i % groups}"}
        rows.append(row | {"reasoning": None} if i % 9 == 0 else row)
    return Dataset.from_list(rows)


def test_ordinal_loss_by_hand():
    logits = torch.tensor([[0.0, 1.0, 0.0, 0.0, 2.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    expected = []
    for scores, level in ((logits[0, :5], 2), (logits[0, 5:], 0)):
        p = (scores.exp() / scores.exp().sum()).tolist()
        reached = [sum(p[: k + 1]) - (k >= level) for k in range(5)]
        expected.append(-math.log(p[level]) + sum(x * x for x in reached))
    outputs = SequenceClassifierOutput(logits=logits)
    both, first = torch.tensor([[2, 0]]), torch.tensor([[2, -100]])
    assert float(ordinal_loss(outputs, both)) == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert float(ordinal_loss(outputs, first)) == pytest.approx(expected[0], rel=1e-5)
    assert float(ordinal_loss(outputs, both, 4)) == pytest.approx(sum(expected) / 4, rel=1e-5)


def test_hold_out_keeps_shares():
    rng = np.random.default_rng(1)
    levels = {"knowledge": rng.integers(1, 6, size=300).tolist(), "overall": rng.integers(0, 6, size=300).tolist()}
    held = hold_out(levels, 0.2, seed=3)
    for name, column in levels.items():
        for level in range(1, 6):
            rows = np.array(column) == level
            assert held[rows].mean() == pytest.approx(0.2, abs=3 / rows.sum()), (name, level)
    assert np.array_equal(held, hold_out(levels, 0.2, seed=3)) and not np.array_equal(held, hold_out(levels, 0.2))


def test_no_group_on_both_sides():
    data = labelled().shuffle(seed=0)
    groups = np.array(data["template"][:])
    parts = split(read_levels(data), groups.tolist(), 0.25, 0)
    held_groups, held_rows = parts["groups"], parts["rows"]
    assert set(groups[held_groups]).isdisjoint(groups[~held_groups]) and 0.15 < held_groups.mean() < 0.35
    assert not (held_groups & held_rows).any()
    rest = ~held_groups & ~held_rows
    assert set(groups[held_rows]) <= set(groups[rest])


def test_levels_however_they_are_written():
    expected = [2, 5, 0, 3]
    for values in ([2, 5, None, 3], [2.0, 5.0, None, 3.0], ["2", "5", None, "3"], ["2.0", "5", None, " 3"]):
        assert read_levels(Dataset.from_dict({"overall": values}))["overall"].tolist() == expected
    for prefix in ("", "level "):
        # Sorted as words and counted from 0: as ids these were the levels 1, 3, 0, 2.
        names = [None if level is None else f"{prefix}{level}" for level in (2, 5, None, 3)]
        data = Dataset.from_dict({"overall": names}).class_encode_column("overall")
        assert read_levels(data)["overall"].tolist() == expected
    words = Dataset.from_dict({"overall": ["easy", "hard", "medium"]}).class_encode_column("overall")
    with pytest.raises(ValueError, match=r"Column 'overall' is a ClassLabel of \['easy'"):
        read_levels(words)
    zero = Dataset.from_dict({"overall": ["0", "1", "2"]}).class_encode_column("overall")
    with pytest.raises(ValueError, match=r"Row 0 has 0.0 as 'overall', which is no level"):
        read_levels(zero)


def test_too_few_rows_of_a_level():
    with pytest.raises(ValueError, match="Level 5 of 'overall' has 1 rows, too few"):
        hold_out({"overall": [1] * 10 + [2] * 10 + [5]}, 0.2)
    with pytest.raises(ValueError, match="Level 2 of 'overall' has 1 groups, too few"):
        hold_out({"overall": [1, 1, 1, 1, 2, 2]}, 0.3, list("aabbcc"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"knowledge": 0}, "Row 3 has 0 as 'knowledge', which is no level"),
        ({"knowledge": 2.5}, "Row 3 has 2.5 as 'knowledge'"),
        ({"prompt": "  "}, "Row 3.*its prompt is empty"),
        ({"template": None}, "Row 3 has no group"),
    ],
)
def test_bad_rows(change, message, encoder_folder, tmp_path):
    rows = labelled().to_list()
    if isinstance(change.get("knowledge"), float):
        rows = [row | {"knowledge": float(row["knowledge"])} for row in rows]
    rows[3] |= change
    with pytest.raises(ValueError, match=message):
        train_classifier(Dataset.from_list(rows), tmp_path, encoder=encoder_folder, group_column="template")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": {"overall": "level"}}, "no column 'level' for 'overall'"),
        ({"labels": {"ethics": "knowledge"}}, r"not \['ethics'\]"),
        ({"group_column": "source"}, "no column 'source' to group by"),
        ({"holdout": 1.0}, "between 0 and 1"),
    ],
)
def test_bad_settings(settings, message, encoder_folder, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_classifier(labelled(40), tmp_path, encoder=encoder_folder, **settings)


def test_what_is_no_label():
    with pytest.raises(ValueError, match="None of the columns"):
        read_levels(Dataset.from_dict({"prompt": ["a"]}))
    with pytest.raises(ValueError, match=r"holds the levels \[3\]"):
        read_levels(Dataset.from_dict({"overall": [3, 3, None]}))
    with pytest.raises(ValueError, match="'two' as 'overall', which is no level"):
        read_levels(Dataset.from_dict({"overall": ["2", "two"]}))


def test_train_judge_score_select(encoder_folder, model_folder, pool, validation, tmp_path):
    """The how-to from end to end: labelled rows to a selected subset, by the command and its checkpoint."""
    data = labelled()
    data.to_json(tmp_path / "labelled.jsonl")
    out = tmp_path / "classifier"
    arguments = ["train-difficulty", f"{tmp_path}/labelled.jsonl", "--encoder", encoder_folder, "--output", str(out)]
    arguments += ["--group-column", "template", "--num-train-epochs", "12", "--learning-rate", "0.005"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0 and "held-out groups, knowledge: kappa" in result.output
    assert not list(out.glob("checkpoints*"))
    # The card's figures, again by scikit-learn from the checkpoint's own levels.
    parts = split(read_levels(data), data["template"][:], 0.2, 0)
    classifier = DifficultyClassifier.from_pretrained(out)
    held = data.select(np.flatnonzero(parts["groups"]))
    found, observed = classifier(held["prompt"][:])["knowledge"], held["knowledge"][:]
    kappa = metrics.cohen_kappa_score(observed, found.level, labels=[1, 2, 3, 4, 5], weights="quadratic")
    assert kappa > 0.8
    card = ModelCard.load(out / "README.md")
    results = {(r.dataset_split, r.dataset_config, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert results["groups", "knowledge", "kappa"] == pytest.approx(kappa, abs=1e-3)
    mae = metrics.mean_absolute_error(observed, found.expected)
    assert results["groups", "knowledge", "mae"] == pytest.approx(mae, abs=1e-3)
    assert f"| Quadratic weighted kappa | {kappa:.3f} |" in card.text
    assert "/" not in re.search(r"from `(.*?)`", card.text)[1] and "base_model" not in card.content
    assert (out / "confusion.png").read_bytes().startswith(b"\x89PNG")

    for name, rows in (("pool", pool), ("validation", validation)):
        Dataset.from_list(rows).to_json(tmp_path / f"{name}.jsonl")
    arguments = ["score", f"{tmp_path}/pool.jsonl", "--model", model_folder, "--difficulty", str(out)]
    arguments += ["--perspective", "knowledge", "--validation", f"{tmp_path}/validation.jsonl"]
    arguments += ["--output", f"{tmp_path}/scored", "--cache-dir", f"{tmp_path}/chunks"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    scored = load_from_disk(tmp_path / "scored")
    assert scored["difficulty"][:] == scored["difficulty_knowledge"][:] != scored["difficulty_reasoning"][:]
    expected = classifier([row["prompt"][0]["content"] for row in pool])["knowledge"].expected
    assert scored["difficulty"][:] == pytest.approx(expected, rel=1e-2)
    arguments = ["select", f"{tmp_path}/scored", "--ratio", "0.4", "--output", f"{tmp_path}/subset"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    assert load_from_disk(tmp_path / "subset")["diq_rank"][:] == [1, 2, 3]


def test_killed_run_goes_on(encoder_folder, tmp_path, monkeypatch):
    settings = {"encoder": encoder_folder, "labels": {"overall": "knowledge"}, "num_train_epochs": 3, "seed": 5}
    real = Trainer.training_step
    steps = []

    def counted(self, *args, **kwargs):
        if len(steps) == stop:
            raise KeyboardInterrupt
        steps.append(1)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", counted)
    stop = None
    whole, figures = train_classifier(labelled(100), tmp_path / "whole", **settings)
    in_all = len(steps)
    steps.clear()
    stop = 2 * in_all // 3 + 1  # in the last epoch
    with pytest.raises(KeyboardInterrupt):
        train_classifier(labelled(100), tmp_path / "killed", **settings)
    steps.clear()
    stop = None
    resumed, _ = train_classifier(labelled(100), tmp_path / "killed", **settings)
    assert len(steps) == in_all // 3
    assert resumed.fingerprint == whole.fingerprint
    assert figures["rows"]["overall"]["confusion"].sum() == figures["rows"]["overall"]["rows"]


def test_card_needs_its_packages(monkeypatch, encoder_folder, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs matplotlib: `pip install 'diq-hf\[report\]'`"):
        train_classifier(labelled(40), tmp_path, encoder=encoder_folder)


def test_push(encoder_folder, tmp_path, monkeypatch):
    """What is uploaded; a real Hub is not needed to see it."""
    classifier = DifficultyClassifier.from_encoder(encoder_folder, ["overall"])
    classifier.card_files["README.md"] = b"A card."
    sent = {}

    class Api:
        def __init__(self, token=None):
            sent["token"] = token

        def get_full_repo_name(self, repo_id):
            return f"me/{repo_id}"

        def repo_exists(self, repo_id, repo_type):
            return sent.setdefault("looked at", (repo_id, repo_type)) is None

        def create_repo(self, repo_id, private=None, exist_ok=False):
            sent.update(repo_id=repo_id, private=private)
            return type("Url", (), {"repo_id": f"me/{repo_id}"})

        def upload_folder(self, repo_id, folder_path, **kwargs):
            sent.update(uploaded=repo_id, files=sorted(path.name for path in Path(folder_path).iterdir()))
            return type("Commit", (), {"commit_url": "https://hub/commit"})

    monkeypatch.setattr("diq_hf.difficulty.classifier.HfApi", Api)
    assert classifier.push_to_hub("clf", private=True, token="hf_x") == "https://hub/commit"
    assert sent["looked at"] == ("me/clf", "model")
    assert sent["uploaded"] == "me/clf" and sent["private"] and sent["token"] == "hf_x"
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(sent["files"])


def test_columns_of_no_format(encoder_folder, tmp_path):
    rows = labelled(60).rename_column("prompt", "Question")
    settings = {"encoder": encoder_folder, "labels": {"overall": "knowledge"}, "num_train_epochs": 1}
    with pytest.raises(ValueError, match=r"reads \['question'"):
        train_classifier(rows, tmp_path / "one", columns="question-answer", **settings)
    classifier, _ = train_classifier(rows, tmp_path / "two", columns={"prompt": "{Question}"}, **settings)
    same, _ = train_classifier(labelled(60), tmp_path / "three", **settings)
    for name, value in classifier.model.state_dict().items():
        assert torch.equal(value, same.model.state_dict()[name]), name
