"""What every command of `diq` does alike: help, `--config`, errors in one line, exit codes."""

import json
import subprocess
import sys

import pytest
import yaml
from commands import run, save_scored, write_rows
from datasets import load_from_disk
from typer.main import get_command
from typer.testing import CliRunner

from diq_hf import __version__
from diq_hf.cli.__main__ import app
from diq_hf.cli.app import App, in_options


@pytest.fixture
def files(tmp_path, pool, validation):
    return write_rows(tmp_path, pool=pool, validation=validation)


@pytest.fixture
def scored(tmp_path):
    return save_scored(tmp_path / "scored")


@pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump])
def test_config_gives_defaults_and_the_command_line_wins(scored, write):
    config = scored.parent / "config"
    config.write_text(write({"scored": str(scored), "num-rows": 3, "output": str(scored.parent / "a")}))
    result = run("select", "--config", config)
    assert result.exit_code == 0 and "3 of 4 rows" in result.output
    result = run("select", "--num-rows", 2, "--output", scored.parent / "b", "--config", config)
    assert result.exit_code == 0 and "2 of 4 rows" in result.output
    assert len(load_from_disk(scored.parent / "a")) == 3 and len(load_from_disk(scored.parent / "b")) == 2


def test_config_of_a_repeatable_option(files, model_folder):
    values = {"dataset": f"{files}/pool.jsonl", "validation": f"{files}/validation.jsonl", "model": model_folder}
    values |= {"output": f"{files}/scored", "overwrite": True, "projection_dim": 8}
    influences = []
    for modules in (["q_proj", "k_proj"], "q_proj", None):
        (files / "config.yaml").write_text(yaml.safe_dump(values | {"target_modules": modules}))
        assert run("score", "--config", files / "config.yaml").exit_code == 0
        influences.append(load_from_disk(files / "scored")["influence"][:])
    assert len({tuple(scores) for scores in influences}) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ratio: 0.5\nretio: 0.1", "'retio'"),
        ("output: [a, b]", "'output'"),
        ("- ratio", "pairs"),
        ("ratio: {", "neither YAML nor JSON"),
        ("ratio: many", "--ratio"),
        ("config: other.yaml", "'config'"),
        ("ratio: 0.5\nseed: 1\nratio: 0.1", "'ratio' twice"),
        ('{"ratio": 0.5, "ratio": 0.5}', "'ratio' twice"),
        ("num-rows: 2\nnum_rows: 3", "'num_rows' twice"),
        ("ratio: 0.5\nseed: null", "null as 'seed', which must have a value. Leave the line out for the default, 0."),
    ],
)
def test_config_errors_are_usage_errors(scored, text, message):
    config = scored.parent / "config.yaml"
    config.write_text(text)
    result = run("select", scored, "--output", scored.parent / "subset", "--config", config)
    assert result.exit_code == 2 and message in " ".join(result.stderr.replace("│", " ").split())
    assert run("select", scored, "--output", "x", "--config", scored.parent / "nothing.yaml").exit_code == 2


def test_exit_codes(scored):
    output = ["--output", scored.parent / "subset"]
    assert run("select", scored, "--ratio", 0.5, *output).exit_code == 0
    assert run("select", scored, "--ratio", 2, "--overwrite", *output).exit_code == 1
    assert run("select", scored, "--ratio", "much", *output).exit_code == 2
    assert run("select", scored).exit_code == run("selekt").exit_code == 2


def test_debug_shows_the_traceback(scored):
    command = ["select", scored, "--ratio", 2, "--output", scored.parent / "subset"]
    assert run(*command).stderr == "diq: `--ratio` must be in (0, 1], got 2.0.\n"
    assert isinstance(run(*command, "--debug").exception, ValueError)


def test_an_error_of_any_kind_is_one_line():
    broken = App()

    @broken.command()
    def fail():
        raise KeyError("two\nlines")

    result = CliRunner().invoke(broken, [])
    assert result.exit_code == 1 and result.stderr.count("\n") == 1 and "KeyError" in result.stderr


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("Raise `max_length`.", "Raise `--max-length`."),
        ("after truncation to `max_length=8`", "after truncation to `--max-length 8`"),
        ("or pass `max_length=None`", "or pass `--max-length none`"),
        ("pass `on_bad_row='skip'` to leave", "pass `--on-bad-row skip` to leave"),
        ("`assistant_only_loss=True`, but", "`--assistant-only-loss`, but"),
        ("pass `completion_only_loss=False`", "pass `--no-completion-only-loss`"),
        ("pass `overwrite=True`", "pass `--overwrite-columns`"),  # of the library, which writes no folder
        ("Set `processing_class.chat_template`, or", "Set `--chat-template`, or"),
        ("with `difficulty='column:difficulty'`", "with `--difficulty column:difficulty`"),
        ("no column `difficulty`", "no column `difficulty`"),
        ("has a `prompt` but no `completion`", "has a `prompt` but no `completion`"),
        ("Use `messages`, or `system`", "Use `messages`, or `system`"),
        (
            "Validation row 0: read it with `columns='dolly'`",
            "Validation row 0: read it with `--validation-columns dolly`",
        ),
        (
            "Validation row 0: read it with `columns=ColumnTemplate('{q}', '{a}')`",
            "Validation row 0: read it with `--validation-prompt '{q}' --validation-completion '{a}'`",
        ),
        (
            "Validation row 0: read it with `columns=ColumnTemplate(messages='chosen')`",
            "Validation row 0: read it with `--validation-messages 'chosen'`",
        ),
        ("Row 0: read it with `columns='dolly'`", "Row 0: read it with `--columns dolly`"),
        ("A template needs `prompt=`", "A template needs `--prompt`"),
        ("with `columns=ColumnTemplate('{q}\\n{o}', '{a}')`", "with `--prompt '{q}\\n{o}' --completion '{a}'`"),
        ("with `columns=ColumnTemplate(messages='dialog')`", "with `--messages 'dialog'`"),
        ("Groups of `validation` are", "Groups of `--validation` are"),
        ("name another source with `difficulty=`", "name another source with `--difficulty`"),
        ("pass `batched=True`, `num_proc`, `ids=`", "pass `batched=True`, `num_proc`, `ids=`"),
    ],
)
def test_errors_name_options(message, told):
    options = {option.name for option in COMMANDS["score"].params}
    assert in_options(message, options) == told
    assert in_options(message, {"repo_id"}) == message
    assert in_options("pass a `token` that may", {"token_env"}) == "pass a `--token-env` that may"
    assert in_options("Pass the `processing_class`.", {"tokenizer"}) == "Pass the `--tokenizer`."


COMMANDS = get_command(app).commands


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command(name, tmp_path, monkeypatch):
    """Help has an example, a config's unknown key is refused, and a missing file is one line."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"Example: diq {name}" in result.output and "--config" in result.output and "--debug" in result.output
    (tmp_path / "config.json").write_text('{"no_such_option": 1}')
    result = run(name, "--config", "config.json")
    assert result.exit_code == 2 and "'no_such_option'" in result.stderr
    required = {option.name: "missing.jsonl" for option in COMMANDS[name].params if option.required}
    (tmp_path / "config.json").write_text(json.dumps(required | ({"output": "new"} if "output" in required else {})))
    result = run(name, "--config", "config.json")
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert result.stderr.startswith("diq: ") and result.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_no_command_takes_a_token_that_others_can_read():
    """What stands on a command line, `ps` shows to every user of the machine."""
    options = {name: {option.name for option in command.params} for name, command in COMMANDS.items()}
    assert not [name for name, names in options.items() if "token" in names]
    assert all("token_env" in options[name] for name in ("annotate", "push", "verify"))


def test_help_is_fast():
    """No command's help loads what takes seconds to load."""
    script = f"""
import sys
from diq_hf.cli.__main__ import app
for name in {list(COMMANDS)}:
    app([name, "--help"], standalone_mode=False)
assert not {{"torch", "transformers", "datasets", "trl"}} & set(sys.modules), "something heavy was loaded"
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_errors_end_the_process_with_1(files):
    command = [sys.executable, "-m", "diq_hf.cli", "select", "pool.jsonl", "--ratio", "0.1", "--output", "subset"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=files)
    assert result.returncode == 1
    assert "no column ['difficulty', 'influence']" in result.stderr and "Traceback" not in result.stderr


def test_version():
    assert run("--version").output.strip() == __version__
