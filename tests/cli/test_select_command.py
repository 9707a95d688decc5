"""`diq select` with all of a selection's settings."""

import json

import numpy as np
import pytest
from commands import run, write_rows
from conftest import SENTENCES, chat
from datasets import Dataset, load_from_disk


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


def test_select_from_a_pool_that_is_not_scored(tmp_path, model_folder, validation):
    """A share is scored, the audit stands in the recipe, and what would need every score is refused first."""
    draw = np.random.default_rng(0)
    words = " ".join(SENTENCES).split()
    pool = [chat(f"{i}?", " ".join(draw.choice(words, draw.integers(3, 9)))) for i in range(480)]
    folder = write_rows(tmp_path, pool=pool, validation=validation)
    given = ["--model", model_folder, "--validation", folder / "validation.jsonl", "--cache-dir", tmp_path / "chunks"]
    given += ["--max-mismatch", 1]  # of a random model any answer may seem foreign
    told = run("select", folder / "pool.jsonl", "--ratio", 0.02, "--output", tmp_path / "subset", *given)
    assert told.exit_code == 0, told.output
    assert "10 of 480 rows in" in told.output and "rows scored (45%)" in told.output
    subset = load_from_disk(tmp_path / "subset")
    assert len(subset) == 10 and subset["diq_rank"][:] == list(range(1, 11))
    recipe = json.loads((tmp_path / "subset" / "diq_recipe.json").read_text())
    assert recipe["audit"]["pool"] == 480 and recipe["audit"]["scored"] <= 216 and recipe["mismatch"]["size"] == 120
    assert recipe["pool"]["name"] == "pool.jsonl" and recipe["selection"]["subset"]["rows"] == 10
    refused = run("select", folder / "pool.jsonl", "--ratio", 0.02, "--output", tmp_path / "b", *given, "--per", "row")
    assert refused.exit_code == 1 and "`--per` needs the scores of the whole pool" in refused.output


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
