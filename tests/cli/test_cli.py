"""`diq` end to end, and its errors in one line."""

import json
import subprocess
import sys

import pytest
import yaml
from datasets import Dataset, load_from_disk
from typer.main import get_command
from typer.testing import CliRunner

from diq_hf import __version__
from diq_hf.cli.__main__ import app
from diq_hf.cli.app import App


@pytest.fixture
def files(tmp_path, pool, validation):
    for name, rows in (("pool", pool), ("validation", validation)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_score_then_select(files, model_folder):
    arguments = ["score", f"{files}/pool.jsonl", "--model", model_folder, "--validation", f"{files}/validation.jsonl"]
    result = CliRunner().invoke(app, [*arguments, "--output", f"{files}/scored"], catch_exceptions=False)
    assert result.exit_code == 0 and "7 scored rows" in result.output
    assert {"difficulty", "influence", "loss", "num_tokens"} <= set(load_from_disk(files / "scored").column_names)
    arguments = ["select", f"{files}/scored", "--ratio", "0.4", "--output", f"{files}/subset"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0 and "3 of 7 rows" in result.output
    assert load_from_disk(files / "subset")["diq_rank"][:] == [1, 2, 3]


def test_groups_and_projections(files, model_folder, validation):
    rows = [row | {"task": f"t{i % 2}"} for i, row in enumerate(validation)]
    (files / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["score", f"{files}/pool.jsonl", "--model", model_folder, "--validation", f"{files}/validation.jsonl"]
    arguments += ["--output", f"{files}/scored", "--group-column", "task", "--projection-dim", "32"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    scored = load_from_disk(files / "scored")
    assert {"influence", "influence_t0", "influence_t1"} <= set(scored.column_names)
    (gradients,) = (name for name in scored.column_names if name.startswith("projected_gradient_"))
    assert len(scored[0][gradients]) == 32


@pytest.fixture
def scored(tmp_path):
    rows = {"prompt": list("abcd"), "difficulty": [1.0, 5.0, 4.0, 2.0], "influence": [0.9, 0.1, 0.8, 0.2]}
    Dataset.from_dict(rows).save_to_disk(tmp_path / "scored")
    return tmp_path / "scored"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


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
    values |= {"output": f"{files}/scored", "target_modules": ["q_proj", "k_proj"], "projection_dim": 8}
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
    ],
)
def test_config_errors_are_usage_errors(scored, text, message):
    config = scored.parent / "config.yaml"
    config.write_text(text)
    result = run("select", scored, "--output", scored.parent / "subset", "--config", config)
    assert result.exit_code == 2 and message in " ".join(result.stderr.split())
    assert run("select", scored, "--output", "x", "--config", scored.parent / "nothing.yaml").exit_code == 2


def test_exit_codes(scored):
    output = ["--output", scored.parent / "subset"]
    assert run("select", scored, "--ratio", 0.5, *output).exit_code == 0
    assert run("select", scored, "--ratio", 2, *output).exit_code == 1
    assert run("select", scored, "--ratio", "much", *output).exit_code == 2
    assert run("select", scored).exit_code == run("selekt").exit_code == 2


def test_debug_shows_the_traceback(scored):
    command = ["select", scored, "--ratio", 2, "--output", "subset"]
    assert run(*command).stderr == "diq: `ratio` must be in (0, 1], got 2.0.\n"
    assert isinstance(run(*command, "--debug").exception, ValueError)


def test_an_error_of_any_kind_is_one_line():
    broken = App()

    @broken.command()
    def fail():
        raise KeyError("two\nlines")

    result = CliRunner().invoke(broken, [])
    assert result.exit_code == 1 and result.stderr.count("\n") == 1 and "KeyError" in result.stderr


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
    (tmp_path / "config.json").write_text(json.dumps(required))
    result = run(name, "--config", "config.json")
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert result.stderr.startswith("diq: ") and result.stderr.count("\n") == 1


def test_errors_end_the_process_with_1(files):
    command = [sys.executable, "-m", "diq_hf.cli", "select", "pool.jsonl", "--ratio", "0.1", "--output", "subset"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=files)
    assert result.returncode == 1
    assert "no column ['difficulty', 'influence']" in result.stderr and "Traceback" not in result.stderr


def test_version():
    assert CliRunner().invoke(app, ["--version"]).output.strip() == __version__


def test_select_with_shares_and_bounds(tmp_path):
    n = 12
    rows = {"text": [f"row {i % 10} says {i % 10}" for i in range(n)], "source": ["a"] * 8 + ["b"] * 4}
    rows |= {"difficulty": [1.0] * n, "influence": [float(-i) for i in range(n)], "mismatch": [0.9] + [0.0] * (n - 1)}
    Dataset.from_dict(rows | {"num_trained": [10] * n}).save_to_disk(tmp_path / "scored")
    base = ["select", tmp_path / "scored", "--output"]
    told = run(*base, tmp_path / "a", "--num-rows", 4, "--balance", "source", "--quota", "b=0.5")
    assert told.exit_code == 0 and "Passed over: 1 mismatch, 5 quota" in told.output
    assert load_from_disk(tmp_path / "a")["influence"][:] == [-1, -2, -8, -9]
    recorded = json.loads((tmp_path / "a" / "diq_recipe.json").read_text())["selection"]
    assert recorded["balance"] == {"source": {"b": 0.5}} and recorded["max_similarity"] == 0.7
    everything = run(*base, tmp_path / "b", "--ratio", 1, "--max-mismatch", "none", "--max-similarity", "none")
    assert everything.exit_code == 0 and "Passed over" not in everything.output
    assert run(*base, tmp_path / "c", "--num-tokens", 25, "--per", "token").exit_code == 0
    assert load_from_disk(tmp_path / "c")["influence"][:] == [-1, -2]
    for wrong, said in (
        (["--max-mismatch", "some"], "a share between 0 and 1"),
        (["--quota", "b=0.5"], "--quota needs"),
        (["--balance", "source", "--quota", "b"], "a value and its share"),
    ):
        assert said in run(*base, tmp_path / "d", "--ratio", 0.5, *wrong).output
