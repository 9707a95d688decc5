"""The script for Jobs, the text for agents and the how-to's commands name nothing that is not there."""

import re
import runpy
import shlex
from pathlib import Path

import click
import pytest
import yaml
from typer.main import get_command

from diq_hf.cli.__main__ import app
from diq_hf.rows.presets import PRESETS


EXAMPLES = Path(__file__).parents[2] / "examples"
COMMANDS = get_command(app)


def check(words: list[str]) -> click.Context:
    """A command's words as `diq` reads them, without running it."""
    name, *rest = words
    command = COMMANDS.commands[name]
    return command.make_context(name, rest, resilient_parsing=False)


def test_jobs_script(capsys):
    header = pytest.importorskip("huggingface_hub.cli._uv_script_header")
    text = (EXAMPLES / "hf_jobs.py").read_text(encoding="utf-8")
    found = header.parse_uv_script_header(text)
    assert found.secrets == ["HF_TOKEN"] and found.timeout and found.flavor
    call = re.search(r"hf jobs uv run examples/hf_jobs.py (.*?)\n\n", text, re.DOTALL)[1].replace("\\\\\n", " ")
    main = runpy.run_path(str(EXAMPLES / "hf_jobs.py"))["main"]
    main([*shlex.split(call), "--dry-run"])
    lines = [shlex.split(line)[1:] for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["score", "select", "push"]
    score, select, push = (check(line).params for line in lines)
    assert score["name"] == "en" and score["columns"] == "medical-o1" and score["output"] == Path(select["scored"])
    assert push["subset"] == str(select["output"]) and push["source_datasets"] == [score["dataset"]]


@pytest.mark.parametrize("name", ["SKILL.md", "README.md"])
def test_commands_of_the_texts(name):
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(r"`(diq [^`]+ --[^`]+)`", text)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.startswith("diq ")]
    lines = [re.sub(r"\s+", " ", line.partition(" #")[0]) for line in lines]
    assert len(lines) > 5
    for line in lines:
        words = shlex.split(line)[1:]
        known = {
            option
            for parameter in COMMANDS.commands[words[0]].params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        assert not (unknown := [word for word in words if word.startswith("--") and word not in known]), (
            line,
            unknown,
        )


def test_the_skill_has_a_head_and_names_every_preset():
    text = (EXAMPLES / "SKILL.md").read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---")[1])
    assert head["name"] == "diq" and 50 < len(head["description"]) < 1024
    assert all(name in text for name in PRESETS)
    columns = next(option for option in COMMANDS.commands["score"].params if option.name == "columns")
    assert all(name in columns.help for name in PRESETS)


def test_the_papers_pool_in_one_command():
    """The how-to's command reads the columns that the dataset has on the Hub."""
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    line = next(line for line in text.splitlines() if line.startswith("diq score FreedomIntelligence/medical-o1"))
    given = check(shlex.split(line)[1:]).params
    assert given["name"] == "en"
    assert set(PRESETS[given["columns"]].columns) == {"Question", "Complex_CoT", "Response"}
