"""The whole: two runs from one start are one, killed or shared; and what would be unfair is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SUPPORT, chat
from datasets import Dataset
from small_comparisons import make_arguments, make_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from diq_hf import compare
from diq_hf.comparison.results import Comparison
from diq_hf.rows.formats import RowEncoder


SCRIPT = [sys.executable, str(SUPPORT / "small_comparisons.py")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A comparison that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    arguments = make_arguments(str(folder / "model"))
    result = compare(
        **arguments | {"strategies": ["diq:order=alignment", "influence", "less", "rds", "full"]},
        output=folder / "out",
    )
    return folder, arguments, result


def test_all_train_as_many_tokens_in_as_many_steps(whole):
    folder, _, result = whole
    assert result.strategies == ("diq:order=alignment", "influence", "less", "rds", "full", "random")
    assert len(result.runs) == 6 * 2
    chosen = [run for run in result.runs if run.strategy != "full"]
    longest, total = max(result.pool.num_trained), sum(result.pool.num_trained)
    assert len({run.steps for run in chosen}) == 1
    assert all(0.25 * total - longest < run.tokens <= 0.25 * total + 1 for run in chosen)
    # Each seed draws random rows anew, and all others keep theirs.
    rows = {run.seed: run.rows for run in chosen if run.strategy == "random"}
    assert len(rows) == 2
    assert all(run.tokens == total for run in result.runs if run.strategy == "full")
    again = Comparison.from_json(json.loads((folder / "out" / "comparison.json").read_text()))
    assert again == result
    assert (folder / "out" / "table.md").read_text().count("|") and (folder / "out" / "index.html").is_file()


def test_held_out_losses_are_the_trained_models(whole, tmp_path):
    """Against a training by hand: the same rows and steps, and a loss that transformers takes row by row."""
    folder, arguments, result = whole
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    encoder = RowEncoder(tokenizer, max_length=128)

    for row, before in zip(arguments["heldout"], result.heldout.before, strict=True):
        encoded = encoder(row)
        ids, labels = (torch.tensor(part)[None] for part in (encoded.input_ids, encoded.labels))
        with torch.no_grad():
            assert model(input_ids=ids, labels=labels).loss.item() == pytest.approx(before, rel=1e-5)
    after = np.mean([run.losses for run in result.runs if run.strategy == "full"])
    assert after < np.mean(result.heldout.before)
    assert len({run.losses for run in result.runs}) == len(result.runs)


def test_what_is_done_is_not_done_again(whole):
    folder, arguments, result = whole
    made = {path: path.stat().st_mtime_ns for path in (folder / "out" / "runs").glob("*.json")}
    so_far = compare(**arguments | {"seeds": (0, 1, 2)}, output=folder / "out", finished_only=True)
    assert len(so_far.runs) == 4 and {run.seed for run in so_far.runs} == {0, 1}
    more = compare(**arguments | {"strategies": ["influence"], "seeds": (0, 1, 2)}, output=folder / "out")
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert len(list((folder / "out" / "runs").glob("*.json"))) == len(made) + 2
    known = {(run.strategy, run.seed): run for run in result.runs}
    for run in more.runs:
        assert known.get((run.strategy, run.seed), run) == run


def losses_of(output: str) -> list:
    return json.loads(output.splitlines()[-1])


def test_killed_and_shared_runs_are_those_of_one_process(tmp_path):
    """Two processes share the runs, one of them is killed at work; who starts again finishes with equal results."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start = lambda output: subprocess.Popen(  # noqa: E731
        [*SCRIPT, str(tmp_path / "model"), str(tmp_path / output)], env=environment, text=True, stdout=subprocess.PIPE
    )
    alone = start("alone")
    expected = losses_of(alone.communicate(timeout=300)[0])
    killed, runs = start("shared"), tmp_path / "shared" / "runs"
    limit = time.monotonic() + 120
    # At work: one run is done (the untrained model's), and another one claimed.
    while len(list(runs.glob("*.json"))) < 2 and time.monotonic() < limit:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = len(list(runs.glob("*.json")))
    assert 2 <= done < 5
    first, second = start("shared"), start("shared")
    found = [losses_of(process.communicate(timeout=300)[0]) for process in (first, second)]
    assert first.returncode == second.returncode == 0
    assert found[0] == found[1] == expected


def test_held_out_rows_of_the_pool_are_named(tmp_path):
    arguments = make_arguments(str(tmp_path / "model"))
    pool = make_rows(80, 0)
    said = pool[13]["completion"][0]["content"]
    asked = pool[21]["prompt"][0]["content"]
    planted = [
        chat(pool[13]["prompt"][0]["content"].upper(), f"{said.lower()}!") | {"source": "a"},
        chat(asked, "quite another answer") | {"source": "b"},
    ]
    heldout = [*arguments["heldout"], *planted]
    with pytest.raises(ValueError, match=r"2 held-out rows.*held-out row 8 and row 13.*held-out row 9 and row 21"):
        compare(**arguments | {"heldout": heldout}, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()  # nothing was paid for


def test_leaking_rows_can_be_left_out(tmp_path):
    arguments = make_arguments(str(tmp_path / "model"))
    heldout = [*arguments["heldout"], make_rows(80, 0)[13]]
    changed = {"heldout": heldout, "on_leak": "drop", "strategies": ["length"], "seeds": [0]}
    result = compare(**arguments | changed, output=tmp_path / "out")
    assert len(result.heldout.tokens) == 8
    assert "1 held-out rows" in result.warnings[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategies": ["diq:max_mismatch=0.0"]}, "'diq:max_mismatch=0.0': .* trained tokens are asked for"),
        ({"ratio": 0.02}, "fewer than the|less than the first row"),
        ({"ratio": 1.5}, "between 0 and 1"),
        ({"seeds": (0, 0)}, "none twice"),
        ({"budget": "steps"}, "'tokens' or 'rows'"),
        ({"training": {"max_steps": 5}}, "not yours to set"),
        ({"strategies": ["nobody"]}, "no strategy 'nobody'"),
    ],
)
def test_what_would_be_unfair_is_refused(tmp_path, changes, message):
    arguments = make_arguments(str(tmp_path / "model"))
    with pytest.raises(ValueError, match=message):
        compare(**arguments | changes, output=tmp_path / "out")
    assert not list((tmp_path / "out").glob("runs/*.json"))


def test_a_launcher_is_refused(tmp_path, monkeypatch):
    arguments = make_arguments(str(tmp_path / "model"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="several times without a launcher"):
        compare(**arguments, output=tmp_path / "out")


def test_equal_choices_are_one_run(tmp_path):
    arguments = make_arguments(str(tmp_path / "model"))
    pool = arguments["pool"].add_column("own", list(range(80)))
    changes = {"pool": pool, "strategies": ["column:own", "column:own:max_similarity=none"], "seeds": [0]}
    result = compare(**arguments | changes, output=tmp_path / "out")
    first, second, _ = result.runs
    assert replace(first, strategy="") == replace(second, strategy="")
    assert len(list(Path(tmp_path, "out", "runs").glob("*.json"))) == 3  # with random's, and the untrained model's


def test_rows_chosen_while_training(tmp_path):
    arguments = make_arguments(str(tmp_path / "model"))
    changes = {
        "strategies": ["diq-online:max_mismatch=none"],
        "seeds": [0],
        "pool": Dataset.from_list(make_rows(120, 0)),
    }
    online, drawn = compare(**arguments | changes, output=tmp_path / "out").runs
    assert (online.strategy, drawn.strategy) == ("diq-online:max_mismatch=none", "random")
    assert online.steps == drawn.steps
    assert abs(online.tokens - drawn.tokens) < 100


def test_what_is_chosen_online_hangs_on_the_validation_rows(tmp_path):
    arguments = make_arguments(str(tmp_path / "model"))
    changes = {
        "strategies": ["diq-online:max_mismatch=none"],
        "seeds": [0],
        "pool": Dataset.from_list(make_rows(120, 0)),
    }
    compare(**arguments | changes, output=tmp_path / "out")
    done = set((tmp_path / "out" / "runs").glob("*.json"))
    other = {"validation": [*make_rows(6, 5), arguments["heldout"][0]]}
    result = compare(**arguments | changes | other, output=tmp_path / "out")
    assert len(set((tmp_path / "out" / "runs").glob("*.json")) - done) == 1  # random's is what it was
    assert "1 held-out rows stand among the validation rows" in result.warnings[0]
    with pytest.raises(ValueError, match="train for one epoch"):
        twice = {"training": arguments["training"] | {"num_train_epochs": 2}}
        compare(**arguments | changes | twice, output=tmp_path / "out")
