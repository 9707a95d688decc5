"""The classifier, against plain transformers calls on the same checkpoint."""

import pytest
import torch
from conftest import SENTENCES, make_encoder, make_tokenizer
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from diq_hf import DifficultyClassifier


TEXTS = [SENTENCES[0], "Why?", SENTENCES[1] * 9, SENTENCES[2]]


@pytest.fixture(params=["bert", "modernbert"])
def encoder_folder(request, tmp_path):
    make_encoder(request.param).save_pretrained(tmp_path / "encoder")
    make_tokenizer().save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def test_plain_checkpoint_and_back(encoder_folder, tmp_path):
    made = DifficultyClassifier.from_encoder(encoder_folder, max_length=40)
    made.card_files["README.md"] = b"A card."
    made.save_pretrained(tmp_path / "saved")
    loaded = DifficultyClassifier.from_pretrained(tmp_path / "saved", dtype=torch.float32, max_tokens_per_batch=60)
    found = loaded(TEXTS)
    assert list(found) == ["knowledge", "reasoning", "overall"]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", trust_remote_code=False).eval()
    assert [model.config.id2label[i] for i in (0, 5, 14)] == ["knowledge 1", "reasoning 1", "overall 5"]
    tokenizer = make_tokenizer()
    for i, text in enumerate(TEXTS):
        with torch.no_grad():
            logits = model(**tokenizer(text, truncation=True, max_length=40, return_tensors="pt")).logits[0].double()
        for head, levels in enumerate(found.values()):
            p = logits[5 * head : 5 * head + 5].softmax(0)
            assert levels.probabilities[i] == pytest.approx(p.numpy(), rel=1e-4)
            assert levels.expected[i] == pytest.approx(float((p * torch.arange(1, 6)).sum()), rel=1e-4)
            assert levels.level[i] == int(p.argmax()) + 1
            assert levels.truncated.tolist() == [False, False, True, False]
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "README.md").read_text() == "A card."
    assert loaded.fingerprint == made.fingerprint


def test_what_is_cut_off_is_counted(encoder_folder, caplog):
    classifier = DifficultyClassifier.from_encoder(encoder_folder, ["overall"], max_length=8)
    with caplog.at_level("WARNING", logger="diq_hf"):
        cut = classifier(TEXTS)["overall"]
    assert cut.truncated.tolist() == [True, False, True, False]
    assert "2 of 4 texts are longer than the 8 tokens" in caplog.text
    length = len(make_tokenizer()(TEXTS[3])["input_ids"])
    for limit in (length, length - 1):
        classifier.max_length = limit
        assert classifier(TEXTS[3:])["overall"].truncated.tolist() == [limit < length]
    classifier.max_length = 8
    # The question comes first, so an end that is cut off makes no difference.
    again = classifier([TEXTS[2] + " And more.", TEXTS[2]])["overall"].expected
    assert again[0] == again[1] == pytest.approx(cut.expected[2])


def test_batches_by_tokens(encoder_folder, monkeypatch):
    classifier = DifficultyClassifier.from_encoder(encoder_folder, ["overall"])
    texts = ["a" * n for n in (3, 30, 4, 29)]  # letters of the alphabet are tokens
    sizes = []
    forward = classifier.model.forward

    def counted(**inputs):
        sizes.append(tuple(inputs["input_ids"].shape))
        return forward(**inputs)

    monkeypatch.setattr(classifier.model, "forward", counted)
    classifier.budget.max_tokens = 2 * len(make_tokenizer()(texts[1])["input_ids"])
    classifier(texts)
    lengths = [len(make_tokenizer()(text)["input_ids"]) for text in texts]
    assert sizes == [(2, max(lengths)), (2, sorted(lengths)[1])]


def test_no_texts(encoder_folder):
    assert DifficultyClassifier.from_encoder(encoder_folder)([])["overall"].probabilities.shape == (0, 5)


def test_encoder_is_no_classifier(encoder_folder):
    with pytest.raises(ValueError, match=r"no trained classification head.*train-difficulty --encoder"):
        DifficultyClassifier.from_pretrained(encoder_folder)


def test_unknown_perspective(encoder_folder):
    with pytest.raises(ValueError, match="not \\['ethics'\\]"):
        DifficultyClassifier.from_encoder(encoder_folder, ["overall", "ethics"])


def test_a_classifier_of_something_else_gets_new_heads(tmp_path):
    BertForSequenceClassification(make_encoder("bert").config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert DifficultyClassifier.from_encoder(tmp_path).model.config.num_labels == 15


def test_only_its_own_files_are_published(encoder_folder, tmp_path):
    """What else lies in the folder of a classifier is nobody's business."""
    folder = tmp_path / "saved"
    DifficultyClassifier.from_encoder(encoder_folder).save_pretrained(folder)
    for name in ("README.md", "confusion.png", "me.png", "notes.txt", "rows.jsonl"):
        (folder / name).write_bytes(b"x")
    DifficultyClassifier.from_pretrained(folder).save_pretrained(tmp_path / "again")
    written = {path.name for path in (tmp_path / "again").iterdir()}
    assert {"README.md", "confusion.png", "config.json", "model.safetensors"} <= written
    assert not {"me.png", "notes.txt", "rows.jsonl"} & written
