"""`diq` in this process, and what its commands read."""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset
from typer.testing import CliRunner

from diq_hf.cli.__main__ import app


def run(*arguments: Any) -> Any:
    """Runs `diq` with these words."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_rows(folder: Path, **named: list[dict]) -> Path:
    """`NAME.jsonl` for each list of rows."""
    for name, rows in named.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def save_scored(folder: Path) -> Path:
    """Four scored rows, one in each quadrant, as any program may have saved them."""
    rows = {"prompt": list("abcd"), "difficulty": [1.0, 5.0, 4.0, 2.0], "influence": [0.9, 0.1, 0.8, 0.2]}
    Dataset.from_dict(rows).save_to_disk(folder)
    return folder
