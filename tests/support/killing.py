"""Scripts of this folder whose processes are killed again and again, and what the last run printed."""

import json
import subprocess
import sys
from pathlib import Path


def run_killed(script: str, folder: Path, kills: int, world: int) -> dict:
    folder.mkdir()
    command = [sys.executable, Path(__file__).parent / script, folder, str(kills), str(world)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])
