"""`diq train-difficulty`: a classifier stands in its place when it is whole; tests/difficulty/ trains real ones."""

import pytest
from commands import run, write_rows


@pytest.fixture
def train(tmp_path, monkeypatch):
    """The command, with what the training does in place of a training."""
    write_rows(tmp_path, labelled=[{"prompt": "a", "overall": 1}])
    monkeypatch.setattr("diq_hf.difficulty.classifier_card.summary", lambda figures: "figures")

    def train(training, *more):
        def train_classifier(rows, output, **settings):
            output.mkdir(parents=True, exist_ok=True)
            training(output)
            return None, {}

        monkeypatch.setattr("diq_hf.difficulty.classifier_training.train_classifier", train_classifier)
        return run("train-difficulty", tmp_path / "labelled.jsonl", "--output", tmp_path / "classifier", *more)

    return train


def write(name):
    def training(folder):
        for file in ("config.json", "confusion.png", "README.md"):
            (folder / file).write_text(name)

    return training


def test_a_classifier_is_replaced_when_the_new_one_is_whole(train, tmp_path):
    def fails(folder):
        write("half")(folder)
        (folder / "checkpoints-1").mkdir()
        raise OSError(28, "No space left on device")

    def goes_on(folder):
        assert folder.name == "classifier"  # the card's title
        assert (folder / "checkpoints-1").is_dir()
        write("second")(folder)

    assert train(write("first")).exit_code == 0
    assert train(fails).exit_code == 1  # it is there already
    assert train(fails, "--overwrite").exit_code == 1
    assert (tmp_path / "classifier" / "README.md").read_text() == "first"
    assert train(goes_on, "--overwrite").exit_code == 0
    assert {path.name: path.read_text() for path in (tmp_path / "classifier").iterdir()} == dict.fromkeys(
        ("config.json", "confusion.png", "README.md"), "second"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classifier", "labelled.jsonl"]
