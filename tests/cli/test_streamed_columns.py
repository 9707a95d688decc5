"""`--columns` and `--prompt` of a stream: the rows and the scores of the same dataset in memory, to the bit."""

import json

import pytest
from commands import run, write_rows
from conftest import SENTENCES, make_model
from datasets import Dataset, IterableDataset, load_dataset, load_from_disk

from diq_hf import DIQScorer
from diq_hf.rows.encoded import RowError
from diq_hf.rows.presets import column_template


ROWS = [
    {
        "id": i,
        "Question": f"{i} {SENTENCES[i % 4][: 5 + i % 30]}",
        "Complex_CoT": SENTENCES[(i + 2) % 4],
        "Response": SENTENCES[(i + 1) % 4] * (1 + i % 3),
        "messages": [{"role": "user", "content": "read instead, if it stayed"}],
    }
    for i in range(40)
]
KINDS = ("json", "shards", "without types")


def make_stream(kind, folder):
    if kind == "json":
        write_rows(folder, pool=ROWS)
        return load_dataset("json", data_files=f"{folder}/pool.jsonl", split="train", streaming=True)
    stream = Dataset.from_list(ROWS).to_iterable_dataset(num_shards=3)
    return stream if kind == "shards" else stream.map(lambda row: row)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_stream(kind, tmp_path):
    template, stream = column_template("medical-o1"), make_stream(kind, tmp_path)
    expected, streamed = template.apply(Dataset.from_list(ROWS)), template.apply(stream)
    assert list(streamed) == expected.to_list()
    if stream.features is not None:
        assert streamed.features == expected.features
    conversations = column_template("messages")
    assert list(conversations.apply(stream)) == conversations.apply(Dataset.from_list(ROWS)).to_list()


def test_a_broken_run_goes_on_inside_such_a_stream(tokenizer, tmp_path):
    """From the place of its last chunk: of the shards before it only the first rows are read again."""
    read, template = [], column_template("medical-o1")

    def rows(shards):
        for start in shards:
            read.append(start)
            yield from ROWS[start : start + 10]

    def score(rows, failing=False):
        scorer = DIQScorer(make_model(), validation, tokenizer, difficulty="loss")
        real, calls = scorer.engine.score, []

        def score_or_fail(*arguments):
            if failing and len(calls) == 4:
                raise KeyboardInterrupt
            calls.append(arguments)
            return real(*arguments)

        scorer.engine.score = score_or_fail
        places = {} if isinstance(rows, Dataset) else {"output_dir": tmp_path / "scored"}
        scored = scorer.score(rows, chunk_size=8, cache_dir=tmp_path / "cache", **places)
        return [{name: row[name] for name in ("id", "prompt", "difficulty", "influence")} for row in scored]

    validation = template.apply(Dataset.from_list(ROWS[:3])).to_list()
    stream = template.apply(IterableDataset.from_generator(rows, gen_kwargs={"shards": [0, 10, 20, 30]}))
    with pytest.raises(KeyboardInterrupt):
        score(stream, failing=True)
    read.clear()
    assert score(stream) == score(template.apply(Dataset.from_list(ROWS)))
    assert read == [0, 10, 20, 30, 20, 30, 20, 30]  # the first rows, the last chunk again, and from there on


def test_bad_rows_and_missing_columns(tmp_path, caplog):
    template = column_template("question-answer")
    rows = [{"question": "Is it flu?", "answer": answer} for answer in ("No.", None, "Yes.")]
    stream = Dataset.from_list(rows).to_iterable_dataset()
    with pytest.raises(RowError, match="Row 1: its column 'answer' is null"):
        list(template.apply(stream))
    skipped = list(template.apply(stream, on_bad_row="skip"))
    assert skipped == template.apply(Dataset.from_list(rows), on_bad_row="skip").to_list()
    assert skipped[1] == {"prompt": None, "completion": None} and "row 1" in caplog.text
    with pytest.raises(ValueError, match=r"reads \['Question', 'Complex_CoT', 'Response'\]"):
        column_template("medical-o1").apply(stream)


def test_the_command(model_folder, tmp_path):
    """A preset and a template, of a file in lines and of one in Parquet, with a row that cannot be read."""
    rows = [row | {"Response": None if row["id"] == 7 else row["Response"]} for row in ROWS]
    files = write_rows(tmp_path, pool=rows, validation=ROWS[:3])
    Dataset.from_list(rows).to_parquet(files / "pool.parquet")
    given = ["--model", model_folder, "--validation", files / "validation.jsonl", "--on-bad-row", "skip"]
    given += ["--cache-dir", files / "chunks", "--chunk-size", 8, "--dtype", "float32"]
    templates = {
        "preset": ["--columns", "medical-o1"],
        "template": ["--prompt", "{Question}", "--completion", "{Response}", "--no-chat"],
    }
    for (name, template), pool in zip(templates.items(), ("pool.jsonl", "pool.parquet"), strict=True):
        command = ["score", files / pool, *template, *given]
        whole = run(*command, "--output", files / f"{name}-whole")
        streamed = run(*command, "--streaming", "--output", files / name)
        assert whole.exit_code == streamed.exit_code == 0, streamed.output
        expected = load_from_disk(str(files / f"{name}-whole"))
        scored = load_dataset("parquet", data_dir=str(files / name), split="train")
        assert scored.column_names == expected.column_names and "Question" not in scored.column_names
        for column in expected.column_names:
            assert str(scored[column][:]) == str(expected[column][:]), column  # by text: no number equals NaN
        recipes = [json.loads((files / folder / "diq_recipe.json").read_text()) for folder in (f"{name}-whole", name)]
        assert recipes[0]["settings"] == recipes[1]["settings"] and "columns" in recipes[1]["settings"]
    refused = run(*command[:2], "--prompt", "{Asked}", *given, "--streaming", "--output", files / "no")
    assert refused.exit_code == 1 and "reads ['Asked'], which the dataset does not have" in refused.stderr
