"""Which processes can share the copy of a bucket; what becomes of chunks there stands in hub_jobs.py."""

import json
import os
import subprocess
import sys

from conftest import SUPPORT


def test_machines_are_told_apart_without_a_launchers_word():
    """accelerate says on CPUs that each process has a machine of its own, where `srun` says nothing."""
    environment = {name: value for name, value in os.environ.items() if name != "LOCAL_WORLD_SIZE"}
    command = [sys.executable, SUPPORT / "bucket_processes.py"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert result.returncode == 0, result.stderr
    one, two = json.loads(result.stdout.splitlines()[-1])  # older torches' gloo says hello first
    assert len(set(one)) == 1 and one[0].endswith("buckets/me/job")
    assert all("Several machines share no copy of a bucket" in said for said in two) and len(two) == 2
