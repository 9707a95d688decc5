"""Two machines score one pool by `torchrun --nnodes 2`; one of them goes down in the middle and comes back."""

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import SUPPORT
from machines import two_machines


SCRIPT = SUPPORT / "machine_scores.py"
SLURM = Path(__file__).parents[2] / "examples" / "howto" / "slurm_score.sh"
# Seconds after which torchrun takes a machine for gone; 15 unless told.
SILENCE = 5


def begun(folder, machine):
    """How many chunks were begun there."""
    path = folder / "log"
    return path.read_text().splitlines().count(machine.name) if path.exists() else 0


def wait_until(happened, processes, seconds=240):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it took too long"
        assert all(process.poll() in (None, 0) for process in processes), "a machine gave up"
        time.sleep(0.02)


@pytest.fixture
def machines():
    try:
        with two_machines() as machines:
            yield machines
    except OSError as error:
        pytest.skip(f"no two machines can be made here: {error}")


def test_one_goes_down_and_comes_back(machines, tmp_path):
    first, second = machines
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", 2, "--nproc-per-node", 1]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{first.address}:29500", "--max-restarts", 3]
    cache = tmp_path / "cache"

    def start(machine):
        # Elsewhere a machine is known by its name; these two have that of the one that they are in.
        known = f"is_host={int(machine is first)},keep_alive_interval=1,keep_alive_max_attempt={SILENCE}"
        command = [*torchrun, "--local-addr", machine.address, "--rdzv-conf", known, SCRIPT, tmp_path, cache]
        return machine.start(command, tmp_path / f"{machine.name}.txt")

    (tmp_path / f"{second.name}-stops").touch()
    running = [start(first), start(second)]
    try:
        wait_until(lambda: begun(tmp_path, second) == 10, running)
        second.power_off()
        running[1].wait()
        (tmp_path / f"{second.name}-stops").unlink()
        time.sleep(SILENCE + 3)  # torchrun takes one that is back sooner for a third machine, and two for there
        running[1] = start(second)
        wait_until(lambda: all(process.poll() == 0 for process in running), running)
    finally:
        for machine in machines:
            print((tmp_path / f"{machine.name}.txt").read_text()[-5000:])
    # What the second had in hand was begun again, as was the first's if it still had one when torchrun stopped it.
    assert begun(tmp_path, first) in (50, 51) and begun(tmp_path, second) == 51

    alone = [sys.executable, SCRIPT, tmp_path, tmp_path / "other"]
    subprocess.run(alone, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300)
    one, *two = (
        json.loads((tmp_path / f"found-{name}.json").read_text()) for name in ("alone", first.name, second.name)
    )
    assert one["world"] == 1 and [found["world"] for found in two] == [2, 2]
    assert len({found["network"] for found in (one, *two)}) == 3
    assert two[0]["columns"] == two[1]["columns"] == one["columns"]


def test_the_slurm_script(tmp_path):
    """What it asks Slurm and torchrun for; both are stand-ins that say how they were called."""
    for name, script in {
        "scontrol": 'test "$*" = "show hostnames gpu[07-08]" && printf "gpu07\\ngpu08\\n"',
        "srun": 'echo "srun $1"; shift; exec "$@"',
        "torchrun": 'printf "%s\\n" "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    job = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "gpu[07-08]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8"}
    environment = os.environ | job | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    given = ["pool.jsonl", "--model", "./my model", "--cache-dir", "/shared/chunks"]
    result = subprocess.run(["bash", SLURM, *given], capture_output=True, text=True, env=environment, check=True)
    srun, *words = result.stdout.splitlines()
    assert srun == "srun --kill-on-bad-exit=1"
    assert words[words.index("--nnodes") + 1] == "2" and words[words.index("--nproc-per-node") + 1] == "8"
    assert words[words.index("--rdzv-endpoint") + 1] == "gpu07:29500"
    assert words[words.index("diq_hf.cli") :] == ["diq_hf.cli", "score", *given]
    without = subprocess.run(["bash", SLURM, *given[:3]], capture_output=True, text=True, env=environment)
    assert without.returncode != 0 and "--cache-dir" in without.stderr
