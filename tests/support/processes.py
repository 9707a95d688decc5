"""Scripts of this folder on two processes of torchrun."""

import subprocess
import sys

from conftest import SUPPORT


def launched(script, *args, timeout=300):
    """Runs one, and gives what became of it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", SUPPORT / script, *args]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=timeout)
