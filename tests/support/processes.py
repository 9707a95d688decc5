"""Scripts of this folder on two processes of torchrun."""

import io
import subprocess
import sys

import pytest
import torch
from conftest import SUPPORT
from torch.distributed.fsdp import FSDPModule


# What older ones do instead is tested in `test_placement.py`.
SHARDS = hasattr(FSDPModule, "reset_iter_state")
needs_shards = pytest.mark.skipif(not SHARDS, reason=f"torch {torch.__version__} scores no shards")


def resumes():
    """Whether this torch loads a checkpoint to where each of several CPU processes computes, as a trainer asks."""
    file = io.BytesIO()
    torch.save(torch.ones(1), file)
    file.seek(0)
    try:
        torch.load(file, map_location=torch.device("cpu", 0))
    except RuntimeError:
        return False
    return True


def launched(script, *args, timeout=300):
    """Runs one, and gives what became of it."""
    if script.startswith("fsdp_") and not SHARDS:
        pytest.skip(needs_shards.kwargs["reason"])
    if script == "callback_processes.py" and not resumes():
        pytest.skip(f"torch {torch.__version__} resumes no training on several CPUs")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", SUPPORT / script, *args]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=timeout)
