"""Sources of difficulty, each against numbers worked out by hand or by plain transformers calls."""

import logging

import numpy as np
import pytest
import torch
from conftest import SENTENCES, chat, make_model, make_tokenizer
from datasets import ClassLabel, Dataset
from transformers import BertConfig, BertForSequenceClassification

from diq_hf import ClassifierDifficulty, ColumnDifficulty, DifficultyClassifier, DIQScorer, IFDDifficulty
from diq_hf.difficulty.sources import LossDifficulty, NumTokensDifficulty, difficulty_source
from diq_hf.rows.encoded import RowError
from diq_hf.rows.formats import RowEncoder


A, B, C, D = SENTENCES


def fp32(folder, **kwargs):
    return DifficultyClassifier.from_pretrained(folder, dtype=torch.float32, **kwargs)


def plain_loss(model, ids, labels=None):
    ids = torch.tensor(ids)[None]
    with torch.no_grad():
        return model.eval()(input_ids=ids, labels=ids if labels is None else torch.tensor(labels)[None]).loss.item()


@pytest.fixture
def classifier_folder(tmp_path):
    def make(id2label, seed=0):
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=384,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=64,
            id2label=id2label,
            label2id={name: i for i, name in id2label.items()},
            initializer_range=1.0,
        )
        BertForSequenceClassification(config).save_pretrained(tmp_path)
        make_tokenizer().save_pretrained(tmp_path)
        return str(tmp_path)

    return make


def test_ifd_of_messages_trained_whole(tokenizer, validation):
    """The loss is over every token, the IFD over the answer alone."""
    messages = [{"role": "user", "content": A}, {"role": "assistant", "content": B}]
    rows = Dataset.from_list([{"messages": messages}, {"messages": [*messages, *messages]}])
    scorer = DIQScorer(make_model(), validation, tokenizer)
    found = rows.map(scorer, batched=True)["difficulty"][:]
    for row, difficulty in zip(rows, found, strict=True):
        prompt = tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True)["input_ids"]
        whole = tokenizer.apply_chat_template(row["messages"])["input_ids"]
        answer = whole[len(prompt) :]
        given = plain_loss(make_model(), whole, [-100] * len(prompt) + answer)
        alone = plain_loss(make_model(), [tokenizer.bos_token_id, *answer])
        assert difficulty == pytest.approx(given / alone, rel=1e-4)


def test_ifd_of_prompt_completion_trained_whole(tokenizer, validation):
    answer_only = DIQScorer(make_model(), validation, tokenizer)
    whole = DIQScorer(make_model(), validation, tokenizer, completion_only_loss=False)
    batch = {name: [value] for name, value in chat(A, B).items()}
    assert whole(batch)["difficulty"] == pytest.approx(answer_only(batch)["difficulty"], rel=1e-5)
    assert whole(batch)["influence"] != pytest.approx(answer_only(batch)["influence"], rel=1e-3)


def test_ifd_needs_a_first_token(tokenizer, validation):
    bare = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, chat_template=tokenizer.chat_template)
    with pytest.raises(ValueError, match="the tokenizer has neither"):
        DIQScorer(make_model(), validation, bare)({name: [value] for name, value in chat(A, B).items()})


def test_column(tokenizer, validation, pool):
    rows = Dataset.from_list([{**row, "level": level} for row, level in zip(pool[:3], [2, None, 5], strict=True)])
    scored = rows.map(DIQScorer(make_model(), validation, tokenizer, difficulty="column:level"), batched=True)
    assert np.array_equal(scored["difficulty"][:], [2, np.nan, 5], equal_nan=True)
    with pytest.raises(ValueError, match="'hardness' is not in the dataset"):
        rows.map(DIQScorer(make_model(), validation, tokenizer, difficulty="column:hardness"), batched=True)
    words = Dataset.from_list([{**pool[0], "level": "hard"}])
    with pytest.raises(RowError, match="holds 'hard', not a number"):
        words.map(DIQScorer(make_model(), validation, tokenizer, difficulty=ColumnDifficulty("level")), batched=True)


@pytest.mark.parametrize("prefix", ["", "level "])
def test_a_class_label_column_counts_by_its_names(prefix, tokenizer, validation, pool, tmp_path):
    """`class_encode_column` gives 10, 2, 5 the ids 0, 1, 2."""
    levels = [f"{prefix}2", None, f"{prefix}10", f"{prefix}5"]
    rows = Dataset.from_list([{**row, "level": level} for row, level in zip(pool[:4], levels, strict=True)])
    rows = rows.class_encode_column("level")
    scorer = DIQScorer(make_model(), validation, tokenizer, difficulty="column:level")
    for scored in (rows.map(scorer, batched=True), rows.map(scorer), scorer.score(rows, cache_dir=tmp_path)):
        assert np.array_equal(scored["difficulty"][:], [2, np.nan, 10, 5], equal_nan=True)
        assert scored.features["level"] == rows.features["level"]


def test_a_class_label_column_of_words_is_refused(tokenizer, validation, pool, tmp_path):
    words = ("easy", "hard", "medium")
    rows = Dataset.from_list([{**row, "level": word} for row, word in zip(pool[:3], words, strict=True)])
    rows = rows.class_encode_column("level")
    scorer = DIQScorer(make_model(), validation, tokenizer, difficulty="column:level", on_bad_row="null")
    for score in (
        lambda: rows.map(scorer, batched=True),
        lambda: rows.map(scorer),
        lambda: scorer.score(rows, cache_dir=tmp_path),
    ):
        with pytest.raises(ValueError, match=r"Column 'level' is a ClassLabel of \['easy', 'hard', 'medium'\]"):
            score()
    assert not list(tmp_path.glob("*/*"))  # before anything was scored
    ifd = DIQScorer(make_model(), validation, tokenizer)
    assert np.isfinite(rows.map(ifd, batched=True)["difficulty"][:]).all()  # who does not read it does not mind


def test_ifd_after_one_token_and_over_sharegpt(tokenizer, validation):
    scorer = DIQScorer(make_model(), validation, tokenizer)
    ids = tokenizer(text=B)["input_ids"]
    given = plain_loss(make_model(), ids)
    alone = plain_loss(make_model(), [tokenizer.bos_token_id, *ids[1:]])
    one = Dataset.from_list([{"input_ids": ids, "labels": [-100, *ids[1:]]}]).map(scorer, batched=True)
    assert one["difficulty"][0] == pytest.approx(given / alone, rel=1e-4)
    turns = [{"from": "human", "value": A}, {"from": "gpt", "value": B}]
    messages = [{"role": "user", "content": A}, {"role": "assistant", "content": B}]
    found = Dataset.from_list([{"conversations": turns}]).map(scorer, batched=True)
    expected = Dataset.from_list([{"messages": messages}]).map(scorer, batched=True)
    for name in ("difficulty", "influence"):
        assert found[name][:] == expected[name][:]


def test_a_mixture_is_scored_row_by_row(tokenizer, validation):
    """Nulls stand where another row has its text."""
    messages = [{"role": "user", "content": A}, {"role": "assistant", "content": B}]
    kinds = [{"messages": messages}, {"prompt": A, "completion": B}, {"text": C}]
    scorer = DIQScorer(make_model(), validation, tokenizer, difficulty="num_tokens", extra_columns=["loss"])
    names = {name for row in kinds for name in row}
    mixed = Dataset.from_list([dict.fromkeys(names) | row for row in kinds]).map(scorer, batched=True)
    for i, row in enumerate(kinds):
        alone = Dataset.from_list([row]).map(scorer, batched=True)[0]
        for name in ("difficulty", "influence", "loss"):
            assert mixed[name][i] == pytest.approx(alone[name], rel=1e-5)


def test_classifier_gives_the_expected_level(classifier_folder, tokenizer, validation):
    # Written out of order on purpose: id 0 is level 3.
    folder = classifier_folder({0: "level 3", 1: "level 1", 2: "level 5", 3: "level 2", 4: "level 4"})
    source = ClassifierDifficulty(fp32(folder))
    rows = Dataset.from_list([chat(question, "Yes.") for question in (A, "Why?", C, B * 4)])
    scored = rows.map(DIQScorer(make_model(), validation, tokenizer, difficulty=source), batched=True)
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    for row, found in zip(rows, scored["difficulty"][:], strict=True):
        inputs = tokenizer(row["prompt"][0]["content"], truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            p = model(**inputs).logits.softmax(-1)[0]
        assert found == pytest.approx(float(3 * p[0] + 1 * p[1] + 5 * p[2] + 2 * p[3] + 4 * p[4]), rel=1e-4)
        assert 1 <= found <= 5


def test_classifier_text(classifier_folder, tokenizer, validation):
    folder = classifier_folder({0: "1", 1: "2", 2: "3"})
    prompt, both = (ClassifierDifficulty(folder, text=text) for text in ("prompt", "prompt+completion"))
    assert prompt.fingerprint != both.fingerprint
    encoder = RowEncoder(tokenizer)
    batch = {name: [value, value] for name, value in chat("Why?", B).items()}
    scores = [
        DIQScorer(make_model(), validation, tokenizer, difficulty=s)(batch)["difficulty"] for s in (prompt, both)
    ]
    assert scores[0][0] == scores[0][1] != scores[1][0]
    # The answer of a preference row is the chosen one; a row without any is no row for it.
    chosen = {"prompt": ["Why?"], "chosen": [B], "rejected": ["No."]}
    assert both.prepare({name: column[0] for name, column in chosen.items()}, encoder) == f"Why?\n\n{B}"
    for row in ({"prompt": "Why?", "completion": None}, {"text": "Why?"}):
        assert prompt.prepare(row, encoder) == "Why?"
        with pytest.raises(RowError, match="no answer beside its prompt"):
            both.prepare(row, encoder)
    with pytest.raises(ValueError, match="`text` is 'answer'"):
        ClassifierDifficulty(folder, text="answer")


def test_binary_classifier_gives_the_probability_of_the_harder_class(classifier_folder, tokenizer, validation):
    folder = classifier_folder({0: "figures", 1: "words"})
    with pytest.raises(ValueError, match=r"cannot be read.*Pass `labels"):
        ClassifierDifficulty(folder)
    source = ClassifierDifficulty(fp32(folder, labels=["words", "figures"]))
    assert source.extra_columns == ()
    scorer = DIQScorer(make_model(), validation, tokenizer, difficulty=source)
    found = scorer({name: [value] for name, value in chat(A, B).items()})["difficulty"]
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        p = model(**tokenizer(A, return_tensors="pt")).logits.softmax(-1)[0]
    assert found == pytest.approx(float(p[0]), rel=1e-4)


@pytest.fixture
def three_heads(classifier_folder):
    return classifier_folder({5 * i + k: f"{name} {k + 1}" for i, name in enumerate(HEADS) for k in range(5)})


HEADS = ("knowledge", "reasoning", "overall")


def test_perspectives_as_columns(three_heads, tokenizer, validation):
    rows = Dataset.from_list([chat(question, "Yes.") for question in (A, "Why?", C)])
    columns = [f"difficulty_{name}" for name in HEADS]
    found = {}
    for perspective in (None, "reasoning"):
        source = ClassifierDifficulty(fp32(three_heads), perspective)
        scorer = DIQScorer(make_model(), validation, tokenizer, difficulty=source, extra_columns=columns)
        found[perspective] = rows.map(scorer, batched=True)
    model = BertForSequenceClassification.from_pretrained(three_heads).eval()
    for i, row in enumerate(rows):
        with torch.no_grad():
            logits = model(**tokenizer(row["prompt"][0]["content"], return_tensors="pt")).logits[0]
        for head, column in enumerate(columns):
            p = torch.softmax(logits[5 * head : 5 * head + 5], 0)
            expected = sum((k + 1) * float(p[k]) for k in range(5))
            assert found[None][i][column] == pytest.approx(expected, rel=1e-4)
    assert found[None]["difficulty"][:] == found[None]["difficulty_overall"][:]
    assert found["reasoning"]["difficulty"][:] == found[None]["difficulty_reasoning"][:]
    with pytest.raises(ValueError, match=r"no 'ethics'.*'knowledge', 'reasoning', 'overall'"):
        ClassifierDifficulty(three_heads, "ethics")
    with pytest.raises(ValueError, match=r"difficulty_overall.*are unknown"):
        DIQScorer(make_model(), validation, tokenizer, extra_columns=["difficulty_overall"])


def test_classifier_without_a_main_head(classifier_folder):
    folder = classifier_folder({0: "knowledge 1", 1: "knowledge 2", 2: "reasoning 1", 3: "reasoning 2"})
    with pytest.raises(ValueError, match="no main one: pass `perspective="):
        ClassifierDifficulty(folder)


def test_loss_and_num_tokens(tokenizer, validation):
    row = chat(A, B)
    batch = {name: [value] for name, value in row.items()}
    prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"])["input_ids"]
    given = plain_loss(make_model(), whole, [-100] * len(prompt) + whole[len(prompt) :])
    # Trained whole or on the answer alone: the difficulty is the answer's.
    for settings in ({}, {"completion_only_loss": False}):
        scorer = DIQScorer(make_model(), validation, tokenizer, difficulty="loss", **settings)
        assert scorer(batch)["difficulty"] == pytest.approx(given, rel=1e-4)
    cut = DIQScorer(make_model(), validation, tokenizer, difficulty="num_tokens", max_length=len(whole) - 3)
    assert cut(batch)["difficulty"] == len(whole) - 3
    with pytest.raises(RowError, match="The answer's loss cannot be taken"):
        DIQScorer(make_model(), validation, tokenizer, difficulty="loss")({"text": [A]})


def test_recipe_names_the_classifier(classifier_folder, tokenizer, validation):
    folder = classifier_folder({0: "1", 1: "2"})
    recipe = DIQScorer(make_model(), validation, tokenizer, difficulty=folder).recipe()
    assert recipe.difficulty.model.name == folder.rsplit("/", 1)[-1]


def test_fingerprint_of_a_classifier(classifier_folder):
    id2label = {0: "1", 1: "2"}
    first = ClassifierDifficulty(classifier_folder(id2label)).fingerprint
    assert ClassifierDifficulty(classifier_folder(id2label)).fingerprint == first
    assert ClassifierDifficulty(classifier_folder(id2label, seed=1)).fingerprint != first


def test_sources_by_name(classifier_folder):
    assert difficulty_source(None) is None
    for name, source in (("ifd", IFDDifficulty), ("loss", LossDifficulty), ("num_tokens", NumTokensDifficulty)):
        assert isinstance(difficulty_source(name), source)
    assert isinstance(difficulty_source(classifier_folder({0: "1", 1: "2"})), ClassifierDifficulty)
    for wrong in (3, IFDDifficulty, lambda rows: rows):
        with pytest.raises(TypeError, match="`difficulty` must be"):
            difficulty_source(wrong)


@pytest.mark.parametrize(
    "id2label",
    [
        {0: "knowledge", 1: "reasoning"},
        {0: "Reasoning-heavy", 1: "Knowledge-heavy"},
        {0: "hard", 1: "easy"},
    ],
)
def test_a_binary_checkpoint_by_name(id2label, classifier_folder, tokenizer, validation):
    """Of the shape of public checkpoints that tell reasoning from knowledge: P(harder), whichever class that is."""
    folder = classifier_folder(id2label)
    rows = Dataset.from_list([chat(A, B), chat(C, D)])
    source = difficulty_source(folder)
    found = DIQScorer(make_model(), validation, tokenizer, difficulty=fp32(folder)).score(rows)["difficulty"][:]
    model = BertForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    harder = next(i for i, name in id2label.items() if name in ("reasoning", "Reasoning-heavy", "hard"))
    for text, difficulty in zip((A, C), found, strict=True):
        with torch.no_grad():
            p = model(**make_tokenizer()(text, return_tensors="pt")).logits[0].double().softmax(0)
        assert difficulty == pytest.approx(float(p[harder]), rel=1e-4)
    assert source.perspective == "difficulty" and source.extra_columns == ()
    names = list(id2label.values())
    turned = [difficulty_source(folder, labels=order).fingerprint for order in (names, names[::-1])]
    assert len(set(turned)) == 2 and source.fingerprint in turned


@pytest.mark.parametrize("classes", [2, 5])
def test_classes_that_nobody_named_have_no_order(classes, classifier_folder):
    folder = classifier_folder({i: f"LABEL_{i}" for i in range(classes)})
    with pytest.raises(ValueError, match=r"which is harder is not said.*pass `labels=`, from easiest to hardest"):
        difficulty_source(folder)
    order = [f"LABEL_{i}" for i in reversed(range(classes))]
    assert difficulty_source(folder, labels=order).classifier.heads == {"difficulty": [*reversed(range(classes))]}


def test_pass_rates_count_down(tokenizer, validation):
    rows = Dataset.from_list([chat(A, B) | {"pass_rate": rate} for rate in (0.0, 0.25, 1.0, None)])
    rule = {"extra_columns": ["loss"], "on_bad_row": "skip"}
    down = DIQScorer(make_model(), validation, tokenizer, difficulty=ColumnDifficulty("pass_rate", True), **rule)
    up = DIQScorer(make_model(), validation, tokenizer, difficulty="column:pass_rate", **rule)
    found = down.score(rows)["difficulty"][:]
    assert found[:3] == [0.0, -0.25, -1.0] and np.isnan(found[3])
    assert up.score(rows)["difficulty"][:3] == [0.0, 0.25, 1.0]
    assert down.fingerprint != up.fingerprint
    with pytest.raises(ValueError, match="is kept as it is"):
        ColumnDifficulty("difficulty", lower_is_harder=True)


@pytest.mark.parametrize(
    ("value", "settings", "message"),
    [
        ("ifd", {"lower_is_harder": True}, "says how a column counts"),
        ("ifd", {"perspective": "overall"}, "`perspective` is for a classifier"),
        ("column:a", {"labels": ["a", "b"]}, "`labels` is for a classifier"),
        (None, {"labels": ["a"]}, "`labels` is for a classifier"),
    ],
)
def test_what_goes_with_which_source(value, settings, message):
    with pytest.raises(ValueError, match=message):
        difficulty_source(value, **settings)


def test_rows_without_a_difficulty_are_counted(tokenizer, validation, caplog, tmp_path):
    """A column's nulls and infinities are told before the work, with the first row; a column without a number is
    refused."""
    rates = [0.5, None, float("inf"), 1.0]
    rows = Dataset.from_list([chat(A, B) | {"rate": rate} for rate in rates])
    scorer = DIQScorer(make_model(), validation, tokenizer, difficulty="column:rate")
    told = "2 of 4 rows have no finite difficulty, row 1 the first"
    for score in (
        lambda: scorer.score(rows),
        lambda: rows.map(scorer, batched=True, load_from_cache_file=False),
        lambda: scorer.score(rows.to_iterable_dataset(), output_dir=tmp_path / "scored"),
    ):
        with caplog.at_level(logging.WARNING, "diq_hf"):
            score()
        assert caplog.text.count(told) == 1
        caplog.clear()
    empty = rows.map(lambda row: {"rate": None if row["rate"] == 1 else float("nan")})
    for refused in (
        lambda: scorer.score(empty),
        lambda: scorer.select(empty, num_rows=1),
        lambda: scorer.score(empty.to_iterable_dataset(), output_dir=tmp_path / "other"),
    ):
        with pytest.raises(ValueError, match="'rate' holds no finite number in any of 4 rows"):
            refused()
    labels = rows.remove_columns("rate").add_column("rate", [-1, 0, 1, -1])
    labels = labels.cast_column("rate", ClassLabel(names=["level 1", "level 2"]))
    assert ColumnDifficulty("rate").missing(labels).tolist() == [0, 3]
