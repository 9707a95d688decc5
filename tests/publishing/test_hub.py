"""Publishing, pulling and verifying subsets, against a Hub of our own; the cases stand in hub_*.py."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest
from conftest import SUPPORT


SESSION = SUPPORT / "hub_session.py"
ROOMS = [
    SUPPORT / f"hub_{name}.py"
    for name in ("pushes", "faults", "tampering", "spaces", "privacy", "jobs", "readers", "commands")
]
CASES = [name for room in ROOMS for name in re.findall(r"^def (case_\w+)", room.read_text(), flags=re.MULTILINE)]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str | None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    # Through xet, `huggingface_hub` would upload to a server of its own.
    settings = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, SESSION]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ | settings)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_on_the_hub(outcomes, case):
    if (outcome := outcomes[case]) is not None and outcome.startswith("skipped: "):
        pytest.skip(outcome)
    assert outcome is None, outcome
