"""Columns to rows: every preset on rows in the Hub's shape, and every way in which a template can miss its data."""

import logging

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Image, IterableDataset, Value

from diq_hf.annotation.questions import QuestionReader
from diq_hf.difficulty.classifier_training import read_texts
from diq_hf.rows.encoded import RowError
from diq_hf.rows.formats import RowEncoder
from diq_hf.rows.presets import PRESETS, column_template
from diq_hf.rows.shapes import fitting_template, unknown_shape
from diq_hf.rows.templates import ColumnTemplate


USER, ANSWER = "Is it flu?", "No, a cold."
CHAT = {"prompt": [{"role": "user", "content": USER}], "completion": [{"role": "assistant", "content": ANSWER}]}
SYSTEM = [{"role": "system", "content": "Be brief."}]
# Rows as the named datasets hold them, and what they are trained on.
SHAPES = {
    "alpaca": ({"instruction": USER, "input": "", "output": ANSWER, "text": "Below is an instruction …"}, CHAT),
    "dolly": ({"instruction": USER, "context": "", "response": ANSWER, "category": "open_qa"}, CHAT),
    "medical-o1": (
        {"Question": USER, "Complex_CoT": "It is June.", "Response": ANSWER},
        CHAT | {"completion": [{"role": "assistant", "content": f"<think>It is June.</think>\n\n{ANSWER}"}]},
    ),
    "messages": (
        {"messages": [*CHAT["prompt"], *CHAT["completion"]]},
        {"messages": CHAT["prompt"] + CHAT["completion"]},
    ),
    "open-orca": (
        {"id": "flan.1", "system_prompt": "Be brief.", "question": USER, "response": ANSWER},
        CHAT | {"prompt": [*SYSTEM, *CHAT["prompt"]]},
    ),
    "problem-solution": ({"source": "olympiads", "problem": USER, "solution": ANSWER}, CHAT),
    "prompt-response": ({"prompt": USER, "response": ANSWER}, CHAT),
    "question-answer": ({"question": USER, "answer": ANSWER}, CHAT),
    "sharegpt": (
        {
            "id": "q1",
            "system": "Be brief.",
            "conversations": [{"from": "human", "value": USER}, {"from": "gpt", "value": ANSWER}],
        },
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": USER},
                {"from": "gpt", "value": ANSWER},
            ]
        },
    ),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name, tokenizer):
    row, expected = SHAPES[name]
    template = column_template(name)
    assert template(row) == expected
    dataset = Dataset.from_list([row] * 3)
    applied = template.apply(dataset)
    assert applied[2] == {kept: row[kept] for kept in applied.column_names if kept not in expected} | expected
    # One row, whichever way it is read; and of the presets that fit its columns this one is named.
    whole, of_columns = RowEncoder(tokenizer)(expected), RowEncoder(tokenizer, template=template)(row)
    assert np.array_equal(whole.input_ids, of_columns.input_ids) and np.array_equal(whole.labels, of_columns.labels)
    assert RowEncoder(None, template=template).texts(row) == RowEncoder(None).texts(expected)
    assert fitting_template(row) == repr(name)


def test_alpaca_input_and_whitespace():
    template = column_template("alpaca")
    assert template.columns == ("system", "instruction", "input", "output")
    assert template.needed == ("instruction", "output")
    row = {"instruction": " Sort. ", "input": "b a", "output": "a b\n"}
    assert template(row)["prompt"][0]["content"] == "Sort. \n\nb a"
    assert template(row)["completion"][0]["content"] == "a b"


def test_nested_numbers_and_names_with_spaces():
    template = ColumnTemplate(
        "{The question}: {options[A]} or {options[B]}?", "{answers[1]} {{{year}}} {ok}", chat=False
    )
    row = {"The question": "Which", "options": {"A": "x", "B": 2.5}, "answers": ["n", "y"], "year": 2024, "ok": True}
    assert template(row) == {"prompt": "Which: x or 2.5?", "completion": "y {2024} True"}


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, "column 'answer' is null. Fill it in, or write {answer?}"),
        (float("nan"), "column 'answer' is null"),
        ("  \n", "column 'answer' is empty"),
        ({"text": "No.", "score": 1}, r"column 'answer' holds a struct of ['score', 'text'], .* {answer[text]}"),
        (["No.", "Yes."], r"column 'answer' holds a list of 2, .* {answer[0]}"),
        ({"bytes": b"png", "path": None}, "column 'answer' holds an image or another file"),
    ],
)
def test_bad_values(value, error, tokenizer, caplog):
    import re

    template = column_template("question-answer")
    rows = [{"question": USER, "answer": value}]
    pattern = ".*".join(map(re.escape, error.split(".*")))
    with pytest.raises(RowError, match=f"its {pattern}"):
        RowEncoder(tokenizer, template=template)(rows[0])
    with pytest.raises(RowError, match=f"Row 0: its {pattern}"):
        template.apply(Dataset.from_list(rows))
    with caplog.at_level(logging.WARNING, "diq_hf"):
        skipped = template.apply(Dataset.from_list(rows), on_bad_row="skip")
    assert skipped[:] == {"prompt": [None], "completion": [None]} and "row 0" in caplog.text


def test_the_remedy_names_the_whole_part():
    """As of SQuAD's `answers` and PubMedQA's `context`."""
    with pytest.raises(RowError, match=r"Name one of them: \{answers\[text\]\[0\]\}"):
        ColumnTemplate("{question}", "{answers[text]}")({"question": USER, "answers": {"text": [ANSWER]}})
    with pytest.raises(RowError, match=r"Name a part of it: \{turns\[1\]\[role\]\}"):
        ColumnTemplate("{question}", "{turns[1]?}")({"question": USER, "turns": ["a", {"role": "b"}]})


def test_a_picture_is_refused(tokenizer):
    PIL = pytest.importorskip("PIL.Image")
    rows = Dataset.from_list([{"question": PIL.new("L", (1, 1)), "answer": "No."}]).cast_column("question", Image())
    with pytest.raises(RowError, match="Row 0: its column 'question' holds an image"):
        column_template("question-answer").apply(rows)
    beside = {"question": USER, "answer": "No.", "image": PIL.new("L", (1, 1))}
    with pytest.raises(RowError, match="holds images"):
        RowEncoder(tokenizer, template=column_template("question-answer"))(beside)


@pytest.mark.parametrize(
    ("field", "error"),
    [("{answer[B]}", "has no 'B'; it has ['A']"), ("{answer[A][2]}", "list of 1"), ("{answer[A][0][x]}", "no parts")],
)
def test_bad_parts(field, error):
    import re

    with pytest.raises(RowError, match=re.escape(error)):
        ColumnTemplate("{question}", field)({"question": USER, "answer": {"A": ["x"]}})


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ({"prompt": "{question"}, "no format string"),
        ({"prompt": "{question}}"}, "no format string"),
        ({"prompt": "{question:>9}"}, "without '>9'"),
        ({"prompt": "{question!r}"}, "without 'r'"),
        ({"prompt": "{}"}, "braces without a column"),
        ({"prompt": "question"}, "names no column"),
        ({"completion": "{a}"}, "needs `prompt=`"),
        ({"messages": "m", "prompt": "{a}"}, "either"),
        ({"prompt": "{a}", "system": "Hi.", "chat": False}, "no system message"),
        ({"prompt": "{a}", "answer": "{b}"}, "part 'answer'"),
    ],
)
def test_bad_templates(parts, error):
    with pytest.raises(ValueError, match=error):
        column_template(parts)


def test_bad_names():
    with pytest.raises(ValueError, match=r"'alpace'` is no preset\. Choose from alpaca"):
        column_template("alpace")
    with pytest.raises(TypeError, match="not a list"):
        column_template([])
    rows = Dataset.from_list([{"question": USER, "Answer": ANSWER}])
    with pytest.raises(ValueError, match=r"reads \['answer'\].*Upper and lower case count: 'Answer' is there"):
        column_template("question-answer").apply(rows)


def test_no_code_in_a_template():
    with pytest.raises(RowError, match=r"no column 'question\.__class__'"):
        ColumnTemplate("{question.__class__}")({"question": USER})


def test_unknown_shape(tokenizer):
    row = {"Query": "x" * 200, "Reply": ANSWER, "n": 1}
    assert fitting_template(row) == "ColumnTemplate('{Query}', '{Reply}')"
    said = unknown_shape(row, row)
    assert "['Query', 'Reply', 'n']" in said and "'xxx" in said and "x" * 70 not in said
    assert fitting_template(["a", "b"]) is None and "ColumnTemplate('{a_column}'" in unknown_shape(["a", "b"])
    with pytest.raises(RowError, match=r"its columns .* no known format.* with `columns='question-answer'`"):
        RowEncoder(tokenizer)({"question": USER, "answer": ANSWER})


@pytest.mark.parametrize(
    ("row", "fitting"),
    [
        ({"dialog": [{"role": "user", "content": USER}], "id": 1}, "ColumnTemplate(messages='dialog')"),
        ({"conversation": [{"from": "human", "value": USER}]}, "ColumnTemplate(messages='conversation')"),
        ({"data": [USER, ANSWER]}, None),
        # Questions of multiple choice are no questions without their options (MMLU, MedQA, MedReason).
        ({"question": USER, "choices": ["a", "b"], "answer": 1}, None),
        ({"question": USER, "options": {"A": "a", "B": "b"}, "answer": "a"}, None),
        (
            {"question": USER, "options": "A. a\nB. b", "answer": "B"},
            "ColumnTemplate('{question}\\n\\n{options}', '{answer}')",
        ),
    ],
)
def test_fitting_shapes(row, fitting):
    assert fitting_template(row, row) == fitting
    said = unknown_shape(row, row)
    assert f"Read them with `columns={fitting}`" in said if fitting else "Read them with" not in said
    assert ("read_question" in said) == (fitting is None and "question" in row)


def test_validation_rows_in_their_own_format(tokenizer):
    encoder = RowEncoder(tokenizer, template=column_template("prompt-response"))
    assert np.array_equal(encoder(CHAT).labels, RowEncoder(tokenizer)(CHAT).labels)
    with pytest.raises(RowError, match="no column 'prompt'"):
        encoder({"answer": "No."})


def test_a_stream_without_rows():
    """Which columns it has cannot be seen, which is not to say that it has others."""
    template = column_template("question-answer")
    with pytest.raises(ValueError, match=r"The stream has no rows, so no columns either. Look at what it reads"):
        template.apply(IterableDataset.from_generator(lambda: iter(())))
    rows = Dataset.from_list([{"question": USER, "answer": "No."}]).to_iterable_dataset()
    assert list(template.apply(rows.filter(lambda row: False))) == []  # its columns are known


def test_other_formats_give_way():
    row = {
        "question": USER,
        "answer": ANSWER,
        "messages": [{"role": "user", "content": "Hi"}],
        "prompt": "old",
        "id": 1,
    }
    applied = column_template("question-answer").apply(Dataset.from_list([row]))
    assert applied[0] == {"id": 1} | CHAT


def test_readers_call_classes_by_their_names():
    """What a judge is asked and what a classifier reads, as `ds.map(template)` makes it."""
    rows = Dataset.from_dict({"q": ["Flu?", "Cold?"], "a": [1, 0]}).cast_column("a", ClassLabel(names=["no", "yes"]))
    encoder = RowEncoder(None, template=ColumnTemplate("{q} {a}", "{a}"))
    reader = QuestionReader(encoder, "prompt+completion")
    assert [question.split("\n")[1] for question in reader.questions(rows)] == ["Flu? yes", "Cold? no"]
    assert "\nyes\n" in reader.question(rows, 0)
    assert read_texts(rows, encoder) == ["Flu? yes", "Cold? no"]


def test_a_list_of_texts_is_joined_where_that_is_asked_for():
    """PubMedQA's abstract is `context[contexts]`; SQuAD's `answers[text]` is a list of alternatives."""
    row = {"context": {"contexts": ["One.", "Two."], "n": [1, 2]}, "question": "Is it?"}
    template = ColumnTemplate("{context[contexts][*]}\n\n{question}", "{question}", chat=False)
    assert template(row)["prompt"] == "One.\nTwo.\n\nIs it?"
    told = r"a list of 2.*\{context\[contexts\]\[0\]\}, or all of them, a line each: \{context\[contexts\]\[\*\]\}"
    with pytest.raises(RowError, match=told):
        ColumnTemplate("{context[contexts]}", "{question}")(row)
    for field, message in (("context[n][*]", "takes texts alone"), ("question[*]", "has no parts")):
        with pytest.raises(RowError, match=message):
            ColumnTemplate(f"{{{field}}}", "{question}")(row)


def test_whole_numbers_that_a_table_made_floats_are_told(tmp_path, caplog):
    (tmp_path / "rows.csv").write_text("q,a,b\nOne?,1,1.5\nNone?,,2\nTwo?,2,3\n")
    rows = Dataset.from_csv(str(tmp_path / "rows.csv"), cache_dir=str(tmp_path))
    template = ColumnTemplate("{q}", "{a?} {b}", chat=False)
    assert template.whole_floats(rows) == ["a"]
    with caplog.at_level(logging.WARNING, "diq_hf"):
        assert template.apply(rows)["completion"][0] == "1.0 1.5"
    assert "'a' holds whole numbers as floats, and the template writes '1.0'" in caplog.text
    mended = rows.cast_column("a", Value("int64"))  # as the warning says
    assert not template.whole_floats(mended) and template.apply(mended)["completion"][0] == "1 1.5"
