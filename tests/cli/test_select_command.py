"""`diq select` with all of a selection's settings."""

import json

import numpy as np
import pytest
from commands import run, write_rows
from conftest import SENTENCES, TEMPLATE, chat
from datasets import Dataset, load_from_disk
from transformers import AutoTokenizer
from typer.main import get_command

from diq_hf.cli.__main__ import app
from diq_hf.digest import tokenizer_digest


def test_select_with_shares_and_bounds(tmp_path):
    n = 12
    rows = {"text": [f"row {i % 10} says {i % 10}" for i in range(n)], "source": ["a"] * 8 + ["b"] * 4}
    rows |= {"difficulty": [1.0] * n, "influence": [float(-i) for i in range(n)], "mismatch": [0.9] + [0.0] * (n - 1)}
    Dataset.from_dict(rows | {"num_trained": [10] * n}).save_to_disk(tmp_path / "scored")
    base = ["select", tmp_path / "scored", "--order", "influence", "--output"]
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


def test_select_from_a_pool_that_is_not_scored(tmp_path, model_folder, validation):
    """A share is scored, the audit stands in the recipe, and what would need every score is refused first."""
    draw = np.random.default_rng(0)
    words = " ".join(SENTENCES).split()
    pool = [chat(f"{i}?", " ".join(draw.choice(words, draw.integers(3, 9)))) for i in range(480)]
    folder = write_rows(tmp_path, pool=pool, validation=validation)
    given = ["--model", model_folder, "--validation", folder / "validation.jsonl", "--cache-dir", tmp_path / "chunks"]
    given += ["--max-mismatch", 1]  # of a random model any answer may seem foreign
    given += ["--order", "influence"]
    told = run("select", folder / "pool.jsonl", "--ratio", 0.02, "--output", tmp_path / "subset", *given)
    assert told.exit_code == 0, told.output
    assert "10 of 480 rows in" in told.output and "rows scored (45%)" in told.output
    subset = load_from_disk(tmp_path / "subset")
    assert len(subset) == 10 and subset["diq_rank"][:] == list(range(1, 11))
    recipe = json.loads((tmp_path / "subset" / "diq_recipe.json").read_text())
    assert recipe["audit"]["pool"] == 480 and recipe["audit"]["scored"] <= 216 and recipe["mismatch"]["size"] == 120
    assert recipe["pool"]["name"] == "pool.jsonl" and recipe["selection"]["subset"]["rows"] == 10
    strategy = ["--strategy", "influence"]
    refused = run("select", folder / "pool.jsonl", "--ratio", 0.02, "--output", tmp_path / "b", *given, *strategy)
    assert refused.exit_code == 1 and "`--strategy` needs the scores of the whole pool" in refused.output


def test_how_rows_are_scored_is_said_as_with_score(tmp_path, model_folder, validation):
    """By the same options, which reach the scorer; the pool is saved beside the subset, with reasons."""
    options = {
        name: {option.name for option in get_command(app).commands[name].params} for name in ("score", "select")
    }
    assert options["score"] - options["select"] == {"alignment", "dataset", "projection_dim", "streaming"}
    pool = [chat(f"{i}?", f"{SENTENCES[i % 4]} {i}") | {"level": i % 7, "source": "ab"[i % 2]} for i in range(40)]
    rows = [row | {"task": f"t{i % 2}"} for i, row in enumerate(validation)]
    folder = write_rows(tmp_path, pool=[*pool, {"prompt": [], "completion": []}], validation=rows)
    (tmp_path / "template.jinja").write_text(TEMPLATE.replace("<|start|>", "<s>"))
    given = ["--model", model_folder, "--validation", folder / "validation.jsonl", "--cache-dir", tmp_path / "chunks"]
    given += [
        "--difficulty",
        "column:level",
        "--group-column",
        "task",
        "--target-modules",
        "q_proj",
        "--max-length",
        90,
    ]
    given += [
        "--truncation-mode",
        "keep_end",
        "--no-completion-only-loss",
        "--on-bad-row",
        "skip",
        "--dtype",
        "float32",
    ]
    given += ["--chat-template", tmp_path / "template.jinja", "--validation-split", "train[:2]", "--chunk-size", 16]
    chosen = ["--num-tokens", 200, "--per", "token", "--balance", "source", "--quota", "a=0.7"]
    chosen += ["--order", "influence"]
    saved = ["--output", tmp_path / "subset", "--pool-output", tmp_path / "all"]
    told = run("select", folder / "pool.jsonl", *given, *chosen, *saved)
    assert told.exit_code == 0 and "All of the 41 rows" not in told.stdout, told.output
    assert "40 of 41 rows scored (98%); the selection is the exact one" in told.output
    recipe = json.loads((tmp_path / "subset" / "diq_recipe.json").read_text())
    settings = {"max_length": 90, "truncation_mode": "keep_end", "completion_only_loss": False, "on_bad_row": "skip"}
    assert recipe["settings"].items() >= settings.items() and recipe["model"]["dtype"] == "float32"
    assert {name.split(".")[-1] for name in recipe["modules"]} == {"q_proj"}
    assert [group["group"] for group in recipe["validation"]] == ["t0", "t1"]
    assert recipe["validation_source"]["split"] == "train[:2]"
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.chat_template = (tmp_path / "template.jinja").read_text()
    assert recipe["tokenizer"] == tokenizer_digest(tokenizer)
    whole, subset = load_from_disk(tmp_path / "all"), load_from_disk(tmp_path / "subset")
    assert len(whole) == 41 and whole["diq_reason"][:].count(0) == len(subset) and whole["influence"][40] is None
    tokens = {name: sum(row["num_trained"] for row in subset if row["source"] == name) for name in "ab"}
    assert 0 < tokens["a"] <= 140 and 0 < tokens["b"] <= 60
    # What is published beside the subset gives the same again.
    again = ["select", tmp_path / "all", *chosen, "--output", tmp_path / "again"]
    assert run(*again).exit_code == 0
    assert load_from_disk(tmp_path / "again")["prompt"][:] == subset["prompt"][:]
    refused = run(*again, "--overwrite", "--chunk-size", 16)
    assert refused.exit_code == 1 and "`--chunk-size` goes with `--model`" in refused.output


@pytest.mark.parametrize("rows", [20, 64])
def test_mismatch_is_scored_by_default(rows, tmp_path, model_folder, validation):
    """With IFD, whose losses hold it, on pools that are large enough for a null."""
    pool = [chat(f"Row {i} asks what?", f"{SENTENCES[i % 4]} {i}") for i in range(rows)]
    folder = write_rows(tmp_path, pool=pool, validation=validation)
    arguments = ["score", folder / "pool.jsonl", "--model", model_folder, "--validation", folder / "validation.jsonl"]
    arguments += ["--cache-dir", tmp_path / "chunks", "--output"]
    assert run(*arguments, tmp_path / "a").exit_code == 0
    names = load_from_disk(tmp_path / "a").column_names
    assert ("mismatch" in names) == (rows == 64) and "num_trained" in names
    assert run(*arguments, tmp_path / "b", "--no-mismatch").exit_code == 0
    assert "mismatch" not in load_from_disk(tmp_path / "b").column_names
