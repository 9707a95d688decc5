"""A disk that is full: a few hundred KiB of memory, mounted for one process and gone with it."""

import subprocess
import sys
from pathlib import Path

import pytest


def run_on_small_disk(script: str, folder: Path, kibibytes: int) -> subprocess.CompletedProcess:
    """Runs a Python script that has a disk of that size at `folder`; skips the test where nothing may be mounted."""
    folder.mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o size={kibibytes}k tmpfs '{folder}'"
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    try:
        possible = subprocess.run([*inside, mount], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("There is no `unshare` here.")
    if possible.returncode != 0:
        pytest.skip(f"Nothing may be mounted here: {possible.stderr.strip()}")
    command = [*inside, f'{mount} && exec "$@"', "sh", sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True)
