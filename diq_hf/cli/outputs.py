"""What a command writes: looked at before the work begins, replaced only on demand, and whole or as it was."""

import json
import os
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from ..files import check_writable, replacing_folder
from ..names import RECIPE


ANNOTATION = "annotation.json"


class Kind(NamedTuple):
    """What a folder of ours holds.

    Args:
        name (`str`):
            What it is called in errors.
        marks (`tuple[str, ...]`):
            Files of which one must be there.
        files (`tuple[str, ...]`):
            Patterns of all files that may be there.
    """

    name: str
    marks: tuple[str, ...]
    files: tuple[str, ...]


DATASET = Kind(
    "dataset",
    (RECIPE, ANNOTATION),
    (
        *(RECIPE, ANNOTATION, "dataset_info.json", "state.json", "data-*.arrow", "cache-*.arrow"),
        *("data", "data/train-*.parquet"),
    ),
)
CLASSIFIER = Kind(
    "classifier",
    ("confusion.png",),
    ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md", "confusion.png", "checkpoints-*"),
)


def is_first_process() -> bool:
    """Of a launcher's processes one writes."""
    return int(os.environ.get("RANK", 0)) == 0


def check_launch() -> None:
    """Refuses tasks of one `srun` that were not told of each other: each would do all and write the same files.

    A batch script, an `salloc` shell and `srun -n1` are steps of one task, whatever was allocated.

    Raises:
        `RuntimeError`: There are several.
    """
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1)
    if tasks > 1 and "WORLD_SIZE" not in os.environ:
        raise RuntimeError(
            f"srun started {tasks} tasks, and without WORLD_SIZE each takes itself for the only one. Have a launcher "
            "start the processes, one task a node: `srun --ntasks-per-node=1 torchrun … -m diq_hf.cli …` or `srun … "
            "accelerate launch -m diq_hf.cli …`. Where each task has rows and an "
            "--output of its own, set WORLD_SIZE=1."
        )


def check_folder(output: Path, overwrite: bool, inputs: Iterable[str | None] = (), kind: Kind = DATASET) -> None:
    """Looks whether a folder can be written, before anything is computed for it.

    Args:
        output (`Path`):
            The folder.
        overwrite (`bool`):
            Whether one that an earlier run left may be replaced.
        inputs (`Iterable[str]`, *optional*):
            What the command reads, none of which may be replaced.
        kind (`Kind`, *optional*):
            What is written there.

    Raises:
        `OSError`: It cannot be written, or something stands there that is not ours to replace.
        `RuntimeError`: See [`check_launch`].
    """
    check_launch()
    if not is_first_process():
        return
    place = Path(os.path.realpath(output))
    _check_inputs(output, inputs)
    if os.path.lexists(place):
        if not place.is_dir():
            raise FileExistsError(f"{output} is a file, and a {kind.name} is a folder. Choose another --output.")
        if os.path.ismount(place):
            raise OSError(f"{output} is where a disk begins and cannot be replaced as a whole. Name a folder in it.")
        shards = sorted(str(path.relative_to(place)) for path in place.glob("data/*"))
        _check_content(output, [*sorted(os.listdir(place)), *shards], overwrite, kind)
    check_writable(place)


def _check_content(output: Path, content: list[str], overwrite: bool, kind: Kind) -> None:
    if not content:
        return
    strangers = [name for name in content if not any(fnmatch(name, pattern) for pattern in kind.files)]
    if strangers or not any(mark in content for mark in kind.marks):
        held = f"holds {strangers[0]!r}" if strangers else "is there"
        raise FileExistsError(f"{output} {held}, and is no {kind.name} that diq wrote. Choose another --output.")
    if not overwrite:
        raise FileExistsError(
            f"{output} is there already: a {kind.name} of an earlier run. Choose another --output, or replace it with "
            "--overwrite."
        )


def check_page(output: Path, overwrite: bool, inputs: Iterable[str | None] = ()) -> None:
    """Looks whether a report's page can be written, before anything is computed for it; else as [`check_folder`]."""
    _check_inputs(output, inputs)
    if os.path.lexists(output):
        if not output.is_file():
            raise FileExistsError(f"{output} is no file, and the page is one. Choose another --output.")
        if b"Made by diq_hf" not in output.read_bytes():
            raise FileExistsError(f"{output} is there, and no page that diq wrote. Choose another --output.")
        if not overwrite:
            raise FileExistsError(
                f"{output} is there already: the page of an earlier run. Choose another --output, or replace it with "
                "--overwrite."
            )
    check_writable(output)


def _check_inputs(output: Path, inputs: Iterable[str | None]) -> None:
    place = Path(os.path.realpath(output))
    for name in inputs:
        read = Path(os.path.realpath(name)) if name is not None and os.path.exists(name) else None
        if read is not None and (read == place or place in read.parents):
            raise FileExistsError(f"{output} would replace what is read, {name}. Choose another --output.")


def save_dataset(rows: Any, output: Path, overwrite: bool, recipe: Any) -> None:
    """Saves rows with their recipe beside them: both or neither, and what stood there until both are on the disk."""
    check_folder(output, overwrite)  # again: another run may have been faster
    with replacing_folder(output) as folder:
        rows.save_to_disk(folder)
        (folder / RECIPE).write_text(json.dumps(recipe.to_json(), indent=2) + "\n", encoding="utf-8")


def load_recipe(folder: str) -> Any:
    """The [`~diq_hf.recipe.Recipe`] that [`save_dataset`] left, if there is one."""
    from ..recipe import Recipe

    path = Path(folder) / RECIPE
    return Recipe.load(path) if path.is_file() else None
