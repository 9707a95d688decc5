"""`diq select` with all of a selection's settings."""

import json

from commands import run
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
