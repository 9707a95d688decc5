"""Scripts of this folder on two processes of torchrun."""

import subprocess
import sys

import pytest
import torch
import transformers
from conftest import SUPPORT
from packaging import version
from torch.distributed.fsdp import FSDPModule


# What older ones do instead is tested in `test_placement.py`.
SHARDS = hasattr(FSDPModule, "reset_iter_state")
needs_shards = pytest.mark.skipif(not SHARDS, reason=f"torch {torch.__version__} scores no shards")


def launched(script, *args, timeout=300):
    """Runs one, and gives what became of it."""
    if script.startswith("fsdp_") and not SHARDS:
        pytest.skip(needs_shards.kwargs["reason"])
    # It loads the optimizer's state to "cpu:0", which torch does not know.
    if script == "callback_processes.py" and version.parse(transformers.__version__) < version.parse("5.23"):
        pytest.skip(f"transformers {transformers.__version__} resumes no training on several CPUs")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", SUPPORT / script, *args]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=timeout)
