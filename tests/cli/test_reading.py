"""From the Hub's own columns to a selection: presets, templates, data files, leaks, and no code of a dataset's."""

import json

import pytest
from commands import run, write_rows
from conftest import SENTENCES
from datasets import ClassLabel, Dataset, load_from_disk

from diq_hf.cli.inputs import load_rows
from diq_hf.cli.reading import Reading
from diq_hf.rows.encoded import RowError
from diq_hf.rows.presets import PRESETS


WORDS = SENTENCES[0].split() + SENTENCES[1].split() + SENTENCES[3].split()


def said(i: int, length: int = 9) -> str:
    """Words of a row's own."""
    return " ".join(WORDS[(i * 7 + k * (1 + i % 4)) % len(WORDS)] for k in range(length))


# Ten rows of each preset in the shape that a dataset of that kind has on the Hub.
HUB = {
    "alpaca": lambda i: {"instruction": said(i), "input": "" if i % 2 else said(i + 40), "output": said(i + 20)},
    "dolly": lambda i: {"instruction": said(i), "context": "", "response": said(i + 20), "category": "open_qa"},
    "medical-o1": lambda i: {"Question": said(i), "Complex_CoT": said(i + 40), "Response": said(i + 20)},
    "messages": lambda i: {
        "messages": [{"role": "user", "content": said(i)}, {"role": "assistant", "content": said(i + 20)}]
    },
    "open-orca": lambda i: {"id": f"t{i}", "system_prompt": "", "question": said(i), "response": said(i + 20)},
    "problem-solution": lambda i: {"source": "olympiads", "problem": said(i), "solution": said(i + 20)},
    "prompt-response": lambda i: {"prompt": said(i), "response": said(i + 20)},
    "question-answer": lambda i: {"question": said(i), "answer": said(i + 20)},
    "sharegpt": lambda i: {
        "id": str(i),
        "conversations": [{"from": "human", "value": said(i)}, {"from": "gpt", "value": said(i + 20)}],
    },
}


@pytest.fixture
def score(tmp_path, validation, model_folder):
    def score(rows, *words, validation=validation, output="scored"):
        write_rows(tmp_path, pool=rows, validation=validation)
        paths = [tmp_path / "pool.jsonl", "--validation", tmp_path / "validation.jsonl", "--output", tmp_path / output]
        return run("score", *paths, "--model", model_folder, "--cache-dir", tmp_path / "chunks", *words)

    return score


@pytest.mark.parametrize("name", PRESETS)
def test_presets_end_to_end(name, score, tmp_path):
    rows = [HUB[name](i) for i in range(10)]
    result = score(rows, "--columns", name)
    assert result.exit_code == 0, result.stderr
    recipe = json.loads((tmp_path / "scored" / "diq_recipe.json").read_text())
    assert recipe["settings"]["columns"] == PRESETS[name].settings
    assert f"--columns {name}" in recipe["commands"][0]
    result = run("select", tmp_path / "scored", "--num-rows", 3, "--output", tmp_path / "subset")
    assert result.exit_code == 0, result.stderr
    subset = load_from_disk(tmp_path / "subset")
    # What comes out can be trained on as it is.
    assert {"completion", "messages", "conversations"} & set(subset.column_names)
    assert json.loads((tmp_path / "subset" / "diq_recipe.json").read_text())["settings"] == recipe["settings"]
    page = run("report", tmp_path / "scored", "--output", tmp_path / "page.html", "--num-rows", 3)
    assert page.exit_code == 0 and said(0)[:20] in (tmp_path / "page.html").read_text()


def test_templates_and_their_recipes(score, tmp_path):
    rows = [HUB["medical-o1"](i) for i in range(10)]
    recipes, influences = [], []
    for i, words in enumerate(
        (
            ("--columns", "medical-o1"),
            ("--prompt", "{Question}", "--completion", "{Response}"),
            ("--prompt", "{Question}", "--completion", "{Response}", "--system", "Be brief."),
            ("--prompt", "{Question}", "--completion", "{Response}", "--no-chat"),
        )
    ):
        result = score(rows, *words, output=f"scored{i}")
        assert result.exit_code == 0, result.stderr
        folder = tmp_path / f"scored{i}"
        recipes.append(json.loads((folder / "diq_recipe.json").read_text())["settings"]["columns"])
        influences.append(tuple(load_from_disk(folder)["influence"][:]))
    assert recipes[1] == {"prompt": "{Question}", "completion": "{Response}", "chat": True}
    assert len(set(influences)) == 4 and len({json.dumps(recipe) for recipe in recipes}) == 4


def test_config_file(score, tmp_path):
    (tmp_path / "config.yaml").write_text("prompt: '{Question}'\ncompletion: '{Response}'\n")
    assert score([HUB["medical-o1"](i) for i in range(8)], "--config", tmp_path / "config.yaml").exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Read them with `--columns medical-o1`"),
        (("--columns", "dolly"), "The template reads ['instruction', 'response']"),
        (("--prompt", "{question}", "--completion", "{Response}"), "'Question' is there"),
        (("--completion", "{Response}"), "needs `--prompt`"),
        (("--columns", "medical-o1"), "Row 3: its column 'Response' is null"),
        (
            ("--validation-columns", "medical-o1", "--columns", "medical-o1", "--on-bad-row", "skip"),
            "The template reads",
        ),
    ],
)
def test_refusals(score, words, message, tmp_path):
    rows = [HUB["medical-o1"](i) for i in range(8)]
    rows[3]["Response"] = None
    result = score(rows, *words)
    assert result.exit_code == 1 and message in result.stderr.replace("`prompt=`", "`--prompt`"), result.stderr
    assert not (tmp_path / "scored").exists()


def test_bad_rows_are_skipped(score, tmp_path):
    rows = [HUB["medical-o1"](i) for i in range(8)]
    rows[3]["Response"] = None
    result = score(rows, "--columns", "medical-o1", "--on-bad-row", "skip")
    assert result.exit_code == 0, result.stderr
    influence = load_from_disk(tmp_path / "scored")["influence"][:]
    assert [i for i, score in enumerate(influence) if score != score] == [3]


def test_validation_in_the_pools_columns(score, tmp_path):
    rows = [HUB["medical-o1"](i) for i in range(12)]
    assert score(rows[:9], "--columns", "medical-o1", validation=rows[9:]).exit_code == 0
    known = [HUB["question-answer"](i) for i in range(9, 12)]
    result = score(
        rows[:9], "--columns", "medical-o1", "--validation-columns", "question-answer", "--overwrite", validation=known
    )
    assert result.exit_code == 0, result.stderr
    assert "no known format" in score(rows[:9], "--columns", "medical-o1", "--overwrite", validation=known).stderr


def test_choices_beside_a_pool_stay_what_they_are():
    """MMLU beside GSM8K has `question` and `answer` as well, and would be asked without its options."""
    choices = Dataset.from_list([HUB["question-answer"](0) | {"choices": ["a", "b"], "answer": 1}])
    plain = Dataset.from_list([HUB["question-answer"](0)])
    reading = Reading(columns="question-answer")
    assert reading.beside(choices, "Held-out").column_names == choices.column_names
    assert reading.beside(plain, "Held-out").column_names == ["prompt", "completion"]
    assert Reading().beside(plain, "Validation", ("question-answer", None, None, None)).column_names == [
        "prompt",
        "completion",
    ]


def test_classes_are_called_by_their_names(model_folder, tmp_path):
    """Of a ClassLabel column a template reads what the class is called, not its number."""
    labels = ClassLabel(names=["neg", "pos"])
    rows = Dataset.from_dict({"text": ["Bad.", "Good.", "Odd."], "label": [0, 1, None]}).cast_column("label", labels)
    template = Reading(prompt="{text}", completion="{label}").template
    with pytest.raises(RowError, match="Row 2: its column 'label' is null"):
        template.apply(rows)
    for taken in (rows.select([0, 1]), rows.select([0, 1]).to_iterable_dataset()):
        assert [row["completion"][0]["content"] for row in template.apply(taken)] == ["neg", "pos"]
    rows.save_to_disk(tmp_path / "rows")
    shown = run("look", tmp_path / "rows", "--model", model_folder, "--prompt", "{text}", "--completion", "{label}")
    assert "pos<|end|>" in shown.stdout and "row 2  refused: its column 'label' is null" in shown.stdout


def test_select_without_all_scores(tmp_path, model_folder, validation):
    """The options of reading go with --model; a pool that is scored has its rows already."""
    write_rows(tmp_path, pool=[HUB["medical-o1"](i) for i in range(30)], validation=validation)
    words = [
        "select",
        tmp_path / "pool.jsonl",
        "--num-rows",
        2,
        "--output",
        tmp_path / "subset",
        "--columns",
        "medical-o1",
    ]
    assert "goes with `--model`" in run(*words).stderr
    result = run(*words, "--model", model_folder, "--validation", tmp_path / "validation.jsonl", "--max-scored", 1)
    assert result.exit_code == 0, result.stderr
    recipe = json.loads((tmp_path / "subset" / "diq_recipe.json").read_text())
    assert recipe["settings"]["columns"] == PRESETS["medical-o1"].settings


def test_leaks_are_named(score, validation):
    """Planted: the same row, one reworded by case and punctuation, one nearly the same, one with another answer."""
    clean = [HUB["question-answer"](i) for i in range(8)]
    planted = [HUB["question-answer"](i) for i in (12, 17, 19, 22)]
    pool = [
        *clean,
        planted[0],
        {"question": planted[1]["question"].upper() + " ?!", "answer": f"({planted[1]['answer']})"},
        {"question": planted[2]["question"], "answer": said(51, 30) + " indeed"},
        {"question": planted[3]["question"], "answer": "Something else altogether."},
    ]
    others = [*planted[:2], planted[2] | {"answer": said(51, 30)}, planted[3], HUB["question-answer"](14)]
    result = score(pool, "--columns", "question-answer", validation=others)
    assert result.exit_code == 0, result.stderr
    told = result.stderr
    assert "4 of 5 validation rows stand in the pool as well, 1 of them with another answer" in told, told
    for pair in (
        "0 in row 8 (the same)",
        "1 in row 9 (the same)",
        "2 in row 10 (9",
        "3 in row 11 (the question, the same)",
    ):
        assert f"validation row {pair}" in told
    assert "take the 4 rows out" in told
    assert (
        "stand in the pool"
        not in score(clean, "--columns", "question-answer", "--overwrite", validation=others[4:]).stderr
    )


def test_data_files(tmp_path):
    for i in range(3):
        write_rows(tmp_path, **{f"part{i}": [{"prompt": str(i), "completion": "x"}]})
    assert load_rows(str(tmp_path), data_files=["part1.jsonl"])["prompt"][:] == ["1"]
    assert load_rows(str(tmp_path), data_files=["part[12].jsonl"])["prompt"][:] == ["1", "2"]
    for name in ("part0.jsonl", "part*.jsonl"):
        with pytest.raises(ValueError, match="Name the files themselves"):
            load_rows(str(tmp_path / name), data_files=["part1.jsonl"])
    with pytest.raises(FileNotFoundError, match=r"no file that is named like nothing\.jsonl"):
        load_rows(str(tmp_path), data_files=["nothing.jsonl"])


def test_data_files_of_the_hub(monkeypatch):
    asked = []
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **kwargs: asked.append((args, kwargs)) or [1])
    load_rows("me/medical", None, "en", "v1", ["en/*.jsonl"])
    given = {"split": "train", "revision": "v1", "data_files": {"train": ["en/*.jsonl"]}}
    assert asked == [(("me/medical", "en"), given)]


def test_no_code_of_a_dataset_is_run(tmp_path):
    """A folder named like its script was run by older versions of `datasets`."""
    folder = tmp_path / "medical"
    folder.mkdir()
    (folder / "medical.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit('was run')\n")
    with pytest.raises((FileNotFoundError, ValueError, RuntimeError)):
        load_rows(str(folder))
    write_rows(folder, train=[{"prompt": "a", "completion": "b"}])
    try:
        assert len(load_rows(str(folder))) == 1
    except RuntimeError as error:
        assert "scripts are no longer supported" in str(error)
    assert not (tmp_path / "ran").exists()


def test_difficulty_of_a_pass_rate(score, tmp_path):
    rows = [HUB["question-answer"](i) | {"pass_rate": i / 8} for i in range(9)]
    words = ("--columns", "question-answer", "--difficulty", "column:pass_rate", "--lower-is-harder")
    assert score(rows, *words).exit_code == 0
    assert load_from_disk(tmp_path / "scored")["difficulty"][:] == [-i / 8 for i in range(9)]
    assert (
        "says how a column counts"
        in score(rows, "--columns", "question-answer", "--lower-is-harder", "--overwrite").stderr
    )


def test_small_models_and_the_hardest_rows(score, tmp_path):
    assert score([HUB["question-answer"](i) for i in range(9)], "--columns", "question-answer").exit_code == 0
    recipe = json.loads((tmp_path / "scored" / "diq_recipe.json").read_text())
    assert 10_000 < recipe["model"]["parameters"] < 100_000
    words = ["select", tmp_path / "scored", "--num-rows", 2, "--overwrite", "--output", tmp_path / "subset"]
    for asked, warned in ((), False), (("--strategy", "difficulty"), True), (("--difficulty-percentile", "80"), True):
        result = run(*words, *asked)
        assert result.exit_code == 0 and ("54.3 to 45.4" in result.stderr) == warned


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_a_difficulty_without_a_number_is_refused_before_the_model(score, streaming):
    rows = [HUB["question-answer"](i) | {"pass_rate": None} for i in range(5)]
    words = ("--columns", "question-answer", "--difficulty", "column:pass_rate", "--lower-is-harder", *streaming)
    result = score(rows, *words, "--model", "no/model")
    assert result.exit_code == 1 and "'pass_rate' holds no finite number in any of 5 rows" in result.stderr
    assert "`--difficulty ifd`" in result.stderr


GOOD = [HUB["messages"](i) for i in range(4)]
TURNS = HUB["messages"](0)["messages"]
UNTRAINED = {
    "preferences": ({"prompt": "Flu?", "chosen": "No.", "rejected": "Yes."}, "prompt '{prompt}'"),
    "whole preferences": ({"chosen": TURNS, "rejected": TURNS}, "messages 'chosen'`"),
    "prompts alone": ({"prompt": "Flu?"}, "no known format"),
    "prompts beside messages": ({"prompt": "Flu?", "messages": TURNS}, "columns messages`"),
    "other names": ({"query": "Flu?", "reply": "No."}, "prompt '{query}'"),
}


@pytest.mark.parametrize("where", ["pool", "streaming", "validation", "compared", "validation compared", "held out"])
@pytest.mark.parametrize("kind", UNTRAINED)
def test_what_is_not_trained_on_is_refused_before_the_model(kind, where, tmp_path):
    row, remedy = UNTRAINED[kind]
    write_rows(tmp_path, good=GOOD, bad=[row] * 4)
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    words = ["--model", "no/model", "--output", tmp_path / "out"]
    option = {"validation": "--validation-", "held out": "--heldout-"}.get(where.removesuffix(" compared"), "--")
    rows = {"--": (bad, good, good), "--validation-": (good, bad, good), "--heldout-": (good, good, bad)}[option]
    if where in ("pool", "streaming", "validation"):
        words = ["score", rows[0], "--validation", rows[1], *words, *(["--streaming"] * (where == "streaming"))]
    else:
        words = ["compare", rows[0], "--validation", rows[1], "--heldout", rows[2], *words]
    result = run(*words)
    if kind == "prompts beside messages" and where == "compared":
        assert "offline mode" in result.stderr  # rows that cannot be read are passed over there
        return
    assert result.exit_code == 1 and "offline mode" not in result.stderr, result.stderr
    assert (remedy if remedy.startswith("no ") else option + remedy) in result.stderr


def test_validation_rows_by_a_template_of_their_own(score, tmp_path):
    rows = [HUB["alpaca"](i) for i in range(8)]
    others = [{"q": said(i), "a": said(i + 20)} for i in range(3)]
    words = ("--validation-prompt", "{q}", "--validation-completion", "{a}")
    assert score(rows, "--columns", "alpaca", *words, validation=others).exit_code == 0
    plain = [{"prompt": TURNS[:1], "completion": TURNS[1:]} for _ in range(3)]
    chosen = [{"chosen": TURNS, "rejected": TURNS} for _ in range(3)]
    digests = []
    for words, given in ((), plain), (("--validation-messages", "chosen"), chosen):
        result = score(GOOD, *words, "--overwrite", "--no-completion-only-loss", validation=given)
        assert result.exit_code == 0, result.stderr
        digests.append(json.loads((tmp_path / "scored" / "diq_recipe.json").read_text())["validation"][0]["digest"])
    assert digests[0] == digests[1]
    result = score(rows, "--columns", "alpaca", "--validation-columns", "alpaca", *words, validation=chosen)
    assert result.exit_code == 1


def test_a_skipped_row_is_told_once(score, caplog):
    rows = [HUB["medical-o1"](i) | {"source": "s"} for i in range(8)]
    rows[3]["Response"] = None
    with caplog.at_level("WARNING", "diq_hf"):
        result = score(rows, "--columns", "medical-o1", "--on-bad-row", "skip", "--mismatch")
    told = [record.getMessage() for record in caplog.records]
    assert [line for line in told if "row 3" in line.lower()] == [
        "Not read: row 3: its column 'Response' is null. Fill it in, or write {Response?} where it may be missing.",
        "1 of 8 rows were not scored, row 3 the first.",
    ], result.stderr


def test_leaks_are_named_in_a_stream(score):
    """As of a dataset, in chunks of three rows; a row in the last, and the question alone in the first."""
    pool = [HUB["question-answer"](i) for i in range(8)]
    others = [pool[7], pool[1] | {"answer": "Something else altogether."}, HUB["question-answer"](14)]
    told = []
    for words in ((), ("--streaming", "--overwrite", "--chunk-size", 3)):
        result = score(pool, "--columns", "question-answer", *words, validation=others)
        assert result.exit_code == 0, result.stderr
        told.append([line for line in result.stderr.splitlines() if "stand in the pool" in line])
    assert told[0] == told[1] and "validation row 0 in row 7" in told[0][0], told
