"""`diq annotate`: what reaches the judge, what is saved, and the exit code."""

import json
from types import SimpleNamespace

import pytest
import yaml
from commands import run, write_rows
from datasets import load_from_disk
from judge_server import LEVELS, JudgeServer


ROWS = [{"prompt": f"question {i}", "completion": "so"} for i in range(3)]


@pytest.fixture
def files(tmp_path):
    return write_rows(tmp_path, pool=ROWS)


@pytest.fixture
def command(files):
    def command(server, *more):
        given = ["annotate", files / "pool.jsonl", "--model", "judge", "--base-url", server.url]
        return run(*given, "--output", files / "labels", "--cache-dir", files / "journals", *more)

    return command


@pytest.fixture(autouse=True)
def reachable(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def test_labels_and_report_stand_together(command, files):
    with JudgeServer() as server:
        result = command(server)
        assert result.exit_code == 0 and "3 of 3 rows labelled" in result.output
        result = command(server)
        assert result.exit_code == 1 and "of an earlier run" in result.stderr and "--overwrite" in result.stderr
        server.behave = lambda handler, question, times: handler.answer(json.dumps(LEVELS | {"overall": 5}))
        assert command(server, "--overwrite", "--seed", 1).exit_code == 0
    labels = load_from_disk(files / "labels")
    assert labels["knowledge"][:] == [2, 2, 2] and labels["overall"][:] == [5, 5, 5]
    assert json.loads((files / "labels" / "annotation.json").read_text())["labelled"] == 3
    assert sorted(path.name for path in files.iterdir()) == ["journals", "labels", "pool.jsonl"]


def test_columns_of_the_same_name(files):
    write_rows(files, pool=[row | {"overall": 1} for row in ROWS])
    with JudgeServer() as server:
        given = ["annotate", files / "pool.jsonl", "--model", "judge", "--base-url", server.url]
        given += ["--output", files / "labels", "--cache-dir", files / "journals"]
        result = run(*given, "--overwrite")  # is about the folder
        assert result.exit_code == 1 and "`--overwrite-columns`" in result.stderr and not server.asked
        assert run(*given, "--overwrite-columns").exit_code == 0
    assert load_from_disk(files / "labels")["overall"][:] == [4, 4, 4]


def test_exit_code_1_if_no_row_was_labelled(command, files):
    with JudgeServer(lambda handler, question, times: handler.answer("I cannot say.")) as server:
        result = command(server, "--max-retries", 0, "--retry-delay", 0)
    assert result.exit_code == 1 and "0 of 3 rows labelled" in result.output
    assert result.stderr.splitlines()[-1] == (
        f"diq: No row was labelled; {files}/labels/annotation.json has the reasons."
    )
    report = json.loads((files / "labels" / "annotation.json").read_text())
    assert report["labelled"] == 0 and report["unlabelled"][0]["text"] == "I cannot say."


@pytest.fixture
def asked(monkeypatch):
    """What the library is called with, in place of the call."""
    calls = []

    def annotate(dataset, model, **options):
        calls.append(options)

        def save(folder):
            dataset.save_to_disk(folder)
            (folder / "annotation.json").write_text("{}")

        return SimpleNamespace(dataset=dataset, report={"labelled": 1}, summary=lambda: "", save=save)

    monkeypatch.setattr("diq_hf.annotation.annotate.annotate", annotate)
    return calls


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"temperature": 0, "max_tokens": 1024}),
        (["--temperature", "none", "--max-tokens", "none"], {"temperature": None, "max_tokens": None}),
        (["--max-completion-tokens", 4096], {"max_tokens": None, "max_completion_tokens": 4096}),
        (["--max-tokens", "none", "--max-completion-tokens", 8], {"max_tokens": None, "max_completion_tokens": 8}),
        (["--temperature", 0.7, "--max-tokens", 5, "--json-schema"], {"temperature": 0.7, "max_tokens": 5}),
    ],
)
def test_judges_that_refuse_a_setting(asked, files, arguments, expected):
    given = ["annotate", files / "pool.jsonl", "--model", "judge", "--output", files / "labels"]
    assert run(*given, *arguments).exit_code == 0
    (options,) = asked
    assert expected.items() <= options.items()
    assert ("max_completion_tokens" in options) == ("--max-completion-tokens" in arguments)
    assert options["json_schema"] == ("--json-schema" in arguments)


def test_the_same_from_a_config(asked, files):
    values = {"dataset": f"{files}/pool.jsonl", "model": "judge", "output": f"{files}/labels", "temperature": None}
    (files / "config.yaml").write_text(yaml.safe_dump(values | {"max_tokens": None, "max_completion_tokens": 7}))
    assert run("annotate", "--config", files / "config.yaml").exit_code == 0
    assert {"temperature": None, "max_tokens": None, "max_completion_tokens": 7}.items() <= asked[0].items()


def test_two_names_of_one_limit(asked, files):
    given = ["annotate", files / "pool.jsonl", "--model", "judge", "--output", files / "labels"]
    result = run(*given, "--max-tokens", 5, "--max-completion-tokens", 5)
    assert result.exit_code == 2 and "Keep one" in result.stderr and not asked
