"""`--output`: refused before the work begins, replaced on demand alone, and whole or as it was."""

import json
import os
from pathlib import Path

import pytest
from commands import run, save_scored, write_rows
from conftest import make_encoder
from datasets import Dataset, load_from_disk
from small_disk import run_on_small_disk

from diq_hf.cli.outputs import CLASSIFIER, check_folder, save_dataset
from diq_hf.recipe import Recipe


@pytest.fixture
def scored(tmp_path):
    return save_scored(tmp_path / "scored")


def everything(folder):
    """Each file's bytes, by path."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Each command with an output, and what it would read; nothing of it is there, so a command that gets that far fails.
COMMANDS = {
    "score": ["pool.jsonl", "--model", "no-model", "--validation", "pool.jsonl"],
    "select": ["nothing", "--ratio", 0.5],
    "annotate": ["pool.jsonl", "--model", "judge", "--base-url", "http://127.0.0.1:9"],
    "train-difficulty": ["pool.jsonl"],
    "report": ["nothing"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_bad_output_is_noticed_first(command, tmp_path, monkeypatch, scored):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path, pool=[{"prompt": "a", "completion": "b"}])
    (tmp_path / "file").write_text("precious")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    before = everything(tmp_path)
    for output, message in (
        ("file", "Choose another --output"),
        ("file/below/it", "is a file: choose another place"),
        ("mine", "Choose another --output"),
        (tmp_path, "Choose another --output"),
        ("/proc/new/output", "/proc/new/output cannot be written"),
        ("pool.jsonl", "Choose another --output"),
        (COMMANDS[command][0], "Choose another --output" if command != "select" and command != "report" else ""),
    ):
        for more in ([], ["--overwrite"]):
            result = run(command, *COMMANDS[command], "--output", output, *more)
            assert result.exit_code == 1 and message in result.stderr, result.stderr
            assert "no-model" not in result.stderr and result.stderr.count("\n") == 1
    assert everything(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path, scored):
    (tmp_path / "locked").mkdir(mode=0o500)
    result = run("select", scored, "--ratio", 0.5, "--output", tmp_path / "locked" / "subset")
    assert result.exit_code == 1 and "Choose a folder that you may write to" in result.stderr


def test_a_dataset_is_never_replaced_by_its_own_subset(scored, tmp_path):
    (scored / "diq_recipe.json").write_text('{"model": {}}')
    (tmp_path / "link").symlink_to(scored)
    before = everything(scored)
    for output in (scored, tmp_path / "link", f"{scored}/../scored/"):
        for more in ([], ["--overwrite"]):
            result = run("select", scored, "--ratio", 0.5, "--output", output, *more)
            assert result.exit_code == 1 and "would replace what is read" in result.stderr
    assert everything(scored) == before


def test_overwrite(scored, tmp_path):
    subset = ["select", scored, "--output", tmp_path / "subset", "--num-rows"]
    assert run(*subset, 3).exit_code == 0
    result = run(*subset, 2)
    assert result.exit_code == 1 and "of an earlier run" in result.stderr and "--overwrite" in result.stderr
    assert len(load_from_disk(tmp_path / "subset")) == 3
    assert run(*subset, 2, "--overwrite").exit_code == 0
    assert len(load_from_disk(tmp_path / "subset")) == 2
    recipe = json.loads((tmp_path / "subset" / "diq_recipe.json").read_text())
    assert recipe["selection"]["num_rows"] == 2 and "overwrite" not in recipe["commands"][-1]
    # What somebody has put beside is nobody's to remove.
    (tmp_path / "subset" / "notes.txt").write_text("precious")
    result = run(*subset, 1, "--overwrite")
    assert result.exit_code == 1 and "holds 'notes.txt'" in result.stderr
    # A dataset that another program saved is not ours.
    Dataset.from_dict({"a": [1]}).save_to_disk(tmp_path / "theirs")
    result = run("select", scored, "--num-rows", 1, "--overwrite", "--output", tmp_path / "theirs")
    assert result.exit_code == 1 and "no dataset that diq wrote" in result.stderr
    # An empty folder is a place like any other, and so is one that is not there.
    (tmp_path / "empty").mkdir()
    assert run("select", scored, "--num-rows", 1, "--output", tmp_path / "empty").exit_code == 0
    assert run("select", scored, "--num-rows", 1, "--output", tmp_path / "a" / "b" / "c").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "empty", "scored", "subset", "theirs"]


def test_overwrite_of_a_page(scored, tmp_path):
    page = ["report", scored, "--output", tmp_path / "page.html", "--ratio", 0.5, "--title"]
    assert run(*page, "first").exit_code == 0
    assert run(*page, "second").exit_code == 1
    assert "first" in (tmp_path / "page.html").read_text()
    assert run(*page, "second", "--overwrite").exit_code == 0
    assert "second" in (tmp_path / "page.html").read_text()


def test_folders_of_classifiers(tmp_path, tokenizer):
    folder = tmp_path / "classifier"
    make_encoder().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text("x")
    with pytest.raises(FileExistsError, match="no classifier that diq wrote"):
        check_folder(folder, True, kind=CLASSIFIER)
    (folder / "confusion.png").write_text("x")
    with pytest.raises(FileExistsError, match="a classifier of an earlier run"):
        check_folder(folder, False, kind=CLASSIFIER)
    check_folder(folder, True, kind=CLASSIFIER)


def test_another_run_that_was_faster(tmp_path, scored):
    rows = load_from_disk(scored)
    check_folder(tmp_path / "subset", False)
    save_dataset(rows, tmp_path / "subset", False, Recipe.from_json({"by": "the other"}))
    with pytest.raises(FileExistsError, match="of an earlier run"):
        save_dataset(rows, tmp_path / "subset", False, Recipe.from_json({"by": "this"}))
    assert json.loads((tmp_path / "subset" / "diq_recipe.json").read_text()) == {"by": "the other"}


def test_processes_that_write_nothing_do_not_look(tmp_path, monkeypatch):
    """Of a launcher's processes the first may have written before the last one looks."""
    monkeypatch.setenv("RANK", "1")
    (tmp_path / "file").write_text("")
    check_folder(tmp_path / "file", False)


FULL_DISK = """
import json, os, sys
from pathlib import Path
sys.path[:0] = {path!r}
from commands import run
from datasets import Dataset, load_from_disk
disk, scored = Path({disk!r}), {scored!r}
results, before = {{}}, {{}}
for name, arguments in (("subset", ["select", scored, "--num-rows"]), ("page.html", ["report", scored, "--num-rows"])):
    result = run(*arguments, 2, "--output", disk / name)
    assert result.exit_code == 0, result.output
everything = lambda: {{str(p): p.read_bytes().hex() for p in sorted(disk.rglob("*")) if p.is_file()}}
filler = open(disk / "filler", "wb", buffering=0)
try:
    while True:
        filler.write(bytes(1024))
except OSError:
    filler.truncate(filler.tell() - {left})
before = everything()
for name, arguments in (("subset", ["select", scored, "--num-rows"]), ("page.html", ["report", scored, "--num-rows"])):
    for output, more in ((disk / name, ["--overwrite"]), (disk / "new" / name, [])):
        result = run(*arguments, 3, "--output", output, *more)
        results[str(output.relative_to(disk))] = [result.exit_code, result.stderr.splitlines()[-1]]
if (disk / "new").exists():
    (disk / "new").rmdir()
assert everything() == before
print(json.dumps(results))
"""


def test_a_full_disk_destroys_nothing(tmp_path):
    """A real one: the good dataset and the good page that stood there are as they were, byte for byte."""
    rows = {
        "prompt": [letter * 8000 for letter in "abcd"],
        "difficulty": [1.0, 5.0, 4.0, 2.0],
        "influence": [0.9, 0.1, 0.8, 0.2],
    }
    Dataset.from_dict(rows).save_to_disk(tmp_path / "scored")
    support = Path(__file__).parents[1] / "support"
    script = FULL_DISK.format(
        path=[str(support), str(support.parent)], disk=f"{tmp_path}/disk", scored=f"{tmp_path}/scored", left=9 * 1024
    )
    result = run_on_small_disk(script, tmp_path / "disk", 2048)
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert set(found) == {"subset", "page.html", "new/subset", "new/page.html"}
    for name, (code, told) in found.items():
        assert code == 1 and told == (
            f"diq: {tmp_path}/disk/{name} cannot be written: No space left on device. Free some space there, or "
            "choose a place on another disk, and run again. What stood there before is still there."
        )


def test_tasks_that_do_not_know_of_each_other(tmp_path, monkeypatch):
    """`srun -n4 diq …`; not a batch script or a shell with four tasks allocated, a launcher, or `srun -n1`."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "0")
    check_folder(tmp_path / "out", False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    check_folder(tmp_path / "out", False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(RuntimeError, match="srun started 4 tasks"):
        check_folder(tmp_path / "out", False)
    result = run("score", "pool", "--model", "m", "--validation", "v", "--output", tmp_path / "out")
    assert result.exit_code == 1 and "torchrun" in result.stderr
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_folder(tmp_path / "out", False)
