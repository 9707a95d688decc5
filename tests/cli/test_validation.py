"""`diq validation`: equal rows a task, nothing that stands in the pool or among the held-out rows, nothing twice."""

import json

import pytest
from commands import run, write_rows
from datasets import Dataset

from diq_hf.rows.formats import RowEncoder


def question(i: int, task: str = "a") -> dict:
    words = [f"{task}{i}w{k}" for k in range(12)]
    return {"question": f"What of {' '.join(words)}?", "answer": f"It is {' '.join(reversed(words))}."}


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def validation(tmp_path):
    write_rows(tmp_path, a=[question(i) for i in range(12)], b=[question(i, "b") for i in range(9)])

    def validation(*words, output="val.jsonl"):
        sources = ["--source", f"a={tmp_path}/a.jsonl", "--source", f"b={tmp_path}/b.jsonl"]
        return run("validation", *sources, "--output", tmp_path / output, *words)

    return validation


def test_equal_rows_a_task(validation, tmp_path, tokenizer):
    result = validation("--per-task", 5)
    assert result.exit_code == 0 and "10 rows" in result.stdout, result.stderr
    rows = lines(tmp_path / "val.jsonl")
    assert [row["task"] for row in rows] == ["a"] * 5 + ["b"] * 5
    for row in rows:
        assert row["source"] == f"{row['task']}.jsonl"
        given = question(row["source_row"], row["task"])
        assert row["prompt"][0]["content"] == given["question"] and row["completion"][0]["content"] == given["answer"]
        assert RowEncoder(tokenizer)(row).num_trained
    assert validation("--per-task", 5, output="again.jsonl").exit_code == 0
    assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "val.jsonl").read_text()
    validation("--per-task", 5, "--seed", 1, output="other.jsonl")
    assert (tmp_path / "other.jsonl").read_text() != (tmp_path / "val.jsonl").read_text()


def test_planted_leaks_are_named_and_left_out(validation, tmp_path):
    """In the pool, in the Hub's own columns, and among the held-out rows: equal, reworded, near, and the question."""
    a = [question(i) for i in range(12)]
    near = a[3]["question"].replace("?", " then?"), a[3]["answer"]
    write_rows(
        tmp_path,
        pool=[
            {"Question": a[0]["question"], "Complex_CoT": "Hm.", "Response": "Something else."},
            {"Question": a[1]["question"].upper() + "!!", "Complex_CoT": "Hm.", "Response": a[1]["answer"].lower()},
            *({"Question": f"Free {i}?", "Complex_CoT": "Hm.", "Response": f"Of {i}."} for i in range(3)),
        ],
        held=[{"prompt": near[0], "completion": near[1]}, {"prompt": "Free as well?", "completion": "Yes."}],
    )
    others = ["--pool", tmp_path / "pool.jsonl", "--held-out", tmp_path / "held.jsonl"]
    result = validation("--per-task", 9, *others)
    assert result.exit_code == 0, result.stderr
    told = " ".join(result.stderr.split())
    assert f"2 of 12 a rows stand in {tmp_path}/pool.jsonl as well, 2 of them with another answer: " in told, told
    assert "a row 0 in row 0 (the question, the same); a row 1 in row 1 (the question, the same)" in told
    assert f"1 of 12 a rows stand in {tmp_path}/held.jsonl as well: a row 3 in row 0 (" in told
    assert "They are left out" in told
    taken = [row["source_row"] for row in lines(tmp_path / "val.jsonl") if row["task"] == "a"]
    assert sorted({*range(12)} - {*taken}) == [0, 1, 3]
    result = validation("--per-task", 9, "--overwrite", *others, "--source", f"c={tmp_path}/a.jsonl")
    assert result.exit_code == 1 and "c has 0 rows that can be taken, of 12, and `--per-task` is 9" in result.stderr


def test_rows_that_are_read_by_their_columns_names(tmp_path):
    """MedQuAD's `Question` and `Answer` are no preset's: they are read, and it is told how."""
    asked = [{"Question": question(i)["question"], "Answer": question(i)["answer"]} for i in range(6)]
    write_rows(tmp_path, a=asked[:4], pool=asked[3:])
    words = ["--source", f"a={tmp_path}/a.jsonl", "--pool", tmp_path / "pool.jsonl", "--output", tmp_path / "v.jsonl"]
    result = run("validation", *words, "--per-task", 3)
    told = " ".join(result.stderr.split())
    assert result.exit_code == 0 and "1 of 4 a rows stand in" in told and "a row 3 in row 0 (the same)" in told, told
    assert told.count("is read by its columns' names: '{Question} and its answer {Answer}'") == 2
    assert [row["source_row"] for row in lines(tmp_path / "v.jsonl")] == [0, 1, 2]


def test_choices_are_found_with_options_and_without(tmp_path):
    """In a pool of the same columns, in one that has the questions alone, and among held-out rows."""
    choices = [question(i) | {"choices": ["Yes, it is.", "No."], "answer": i % 2} for i in range(6)]
    write_rows(
        tmp_path,
        a=choices,
        pool=[*choices[:1], question(8) | {"choices": ["Yes.", "No."], "answer": 7}],
        plain=[question(1), question(9)],
        held=[{"prompt": f"{choices[2]['question']}\n\nA. Yes, it is.\nB. No.", "completion": "B"}],
    )
    others = [
        "--pool",
        tmp_path / "pool.jsonl",
        "--pool",
        tmp_path / "plain.jsonl",
        "--held-out",
        tmp_path / "held.jsonl",
    ]
    words = ["--source", f"a={tmp_path}/a.jsonl", *others, "--output", tmp_path / "v.jsonl"]
    result = run("validation", *words, "--per-task", 3)
    assert result.exit_code == 0, result.stderr
    assert [row["source_row"] for row in lines(tmp_path / "v.jsonl")] == [3, 4, 5]


def test_rows_that_are_there_twice(tmp_path):
    rows = [question(i) for i in range(6)]
    write_rows(
        tmp_path, a=[*rows, {"question": rows[2]["question"].upper(), "answer": "No."}], b=[*rows[4:], question(9)]
    )
    words = [
        "--source",
        f"a={tmp_path}/a.jsonl",
        "--source",
        f"b={tmp_path}/b.jsonl",
        "--output",
        tmp_path / "v.jsonl",
    ]
    assert "a has 6 rows that can be taken, of 7" in run("validation", *words, "--per-task", 7).stderr
    result = run("validation", *words[:2], "--per-task", 6, *words[4:])
    assert result.exit_code == 0 and "a: 1 rows that are there twice are left out" in result.stderr
    assert [row["source_row"] for row in lines(tmp_path / "v.jsonl")] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--source", "medqua"), "no benchmark that is known (gpqa, hle"),
        (("--source", "a=b"), "one task's name"),
        (("--source", "c=nothing.jsonl"), "no file or folder nothing.jsonl"),
        (("--per-task", "13"), "b has 9 rows"),
        (("--per-task", "10"), "b has 9 rows"),
        (("--per-task", "0"), "at least"),
        (("--split", "c=test"), "names the task 'c'"),
        (("--split", "test"), "the form TASK=SPLIT"),
    ],
)
def test_refusals(validation, words, message, tmp_path):
    result = validation(*(("--per-task", "5", *words) if "--per-task" not in words else words))
    if words == ("--per-task", "13"):
        message = "a has 12 rows"
    assert result.exit_code == 1 and message in result.stderr, result.stderr
    assert not (tmp_path / "val.jsonl").exists()


def test_what_stands_there(validation, tmp_path):
    (tmp_path / "val.jsonl").write_text("mine")
    assert "there already" in validation("--per-task", 2).stderr
    assert (tmp_path / "val.jsonl").read_text() == "mine"
    assert validation("--per-task", 2, "--overwrite").exit_code == 0


def test_a_benchmark_by_name(tmp_path, monkeypatch):
    options = {"A": "Iron", "B": "HIV"}
    rows = [
        {"question": f"Which is {' '.join(f'w{i}{k}' for k in range(9))}?", "options": options, "answer_idx": "B"}
        for i in range(4)
    ]
    asked = []

    def load(*arguments, **keywords):
        asked.append((arguments, keywords))
        return Dataset.from_list(rows)

    monkeypatch.setattr("datasets.load_dataset", load)
    result = run("validation", "--source", "medqa", "--per-task", 4, "--output", tmp_path / "v.jsonl")
    assert result.exit_code == 0, result.stderr
    assert asked == [(("GBaker/MedQA-USMLE-4-options", None), {"split": "train", "revision": None})]
    assert "never tried on its files" in " ".join(result.stderr.split())
    assert [row["completion"][0]["content"] for row in lines(tmp_path / "v.jsonl")] == ["B. HIV"] * 4
    rows[2].pop("answer_idx")
    monkeypatch.setattr("datasets.load_dataset", lambda *a, **k: Dataset.from_list([rows[2]]))
    result = run("validation", "--source", "medqa", "--per-task", 1, "--output", tmp_path / "w.jsonl")
    assert "medqa: row 0 of GBaker/MedQA-USMLE-4-options has no column 'answer_idx'; it has" in result.stderr


def test_configurations_and_splits_by_task_or_dataset(tmp_path):
    for name, offset in (("rows", 0), ("pool", 5)):
        for config in ("en", "fr"):
            (tmp_path / name / config).mkdir(parents=True)
            write_rows(tmp_path / name / config, test=[question(i + offset, config) for i in range(10)])
        head = [
            f"- config_name: {c}\n  data_files:\n  - split: test\n    path: {c}/test.jsonl\n" for c in ("en", "fr")
        ]
        (tmp_path / name / "README.md").write_text(f"---\nconfigs:\n{''.join(head)}---\n")
    rows, pool = tmp_path / "rows", tmp_path / "pool"
    words = ["validation", "--source", f"a={rows}", "--pool", pool, "--per-task", 5, "--output", tmp_path / "v.jsonl"]
    words += ["--split", "a=test", "--split", f"{pool}=test"]
    result = run(*words)
    assert result.exit_code == 1 and "of a task with --name TASK=CONFIGURATION" in result.stderr, result.stderr
    result = run(*words, "--name", "a=fr", "--name", f"{pool}=fr")
    assert result.exit_code == 0, result.stderr
    assert sorted(row["source_row"] for row in lines(tmp_path / "v.jsonl")) == [0, 1, 2, 3, 4]
    assert "5 of 10 a rows stand in" in " ".join(result.stderr.split())
    result = run(*words, "--overwrite", "--name", "b=fr")
    assert result.exit_code == 1 and "--name names the task 'b'" in result.stderr
