"""Two machines in one: network namespaces with an address each, joined by a cable; all they share is the disk.

Neither reaches the other's loopback, so what works between them works by address.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Machine:
    """One of them: its namespace, network interface and address."""

    name: str
    interface: str
    address: str

    def start(self, command: Sequence[Any], log: Path) -> subprocess.Popen:
        """Runs a command there."""
        place = {"GLOO_SOCKET_IFNAME": self.interface, "MACHINE": self.name, "OMP_NUM_THREADS": "1"}
        # Or torchrun (2.13) keeps the address of the first round to itself, and one that comes back waits for it.
        place["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        # The tests' own launchers must not be taken for this one's.
        environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
        words = ["ip", "netns", "exec", self.name, *map(str, command)]
        with open(log, "ab") as output:
            return subprocess.Popen(words, env=environment | place, stdout=output, stderr=output)

    def power_off(self) -> None:
        """Ends all that runs there, without a word to anyone. (Workers are no group of their launcher's.)"""
        for process in _ip("netns", "pids", self.name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)


@contextlib.contextmanager
def two_machines() -> Iterator[list[Machine]]:
    """Two machines with a cable between them.

    Raises:
        `OSError`: The kernel, or the rights of this process, allow no network namespaces.
    """
    if shutil.which("ip") is None:
        raise OSError("there is no `ip` (iproute2) to make network namespaces with")
    number = os.getpid() % 100_000
    machines = [Machine(f"diq-{number}-{end}", f"diq{number}{end}", f"10.77.0.{i}") for i, end in ((1, "a"), (2, "b"))]
    first, second = machines
    try:
        for machine in machines:
            _ip("netns", "add", machine.name)
        cable = "link", "add", first.interface, "netns", first.name, "type", "veth"
        _ip(*cable, "peer", "name", second.interface, "netns", second.name)
        for machine in machines:
            _ip("-n", machine.name, "address", "add", f"{machine.address}/24", "dev", machine.interface)
            for interface in (machine.interface, "lo"):
                _ip("-n", machine.name, "link", "set", interface, "up")
        yield machines
    finally:
        for machine in machines:
            with contextlib.suppress(OSError):  # never made
                machine.power_off()
            subprocess.run(["ip", "netns", "delete", machine.name], capture_output=True)


def _ip(*words: str) -> str:
    result = subprocess.run(["ip", *words], capture_output=True, text=True)
    if result.returncode:
        raise OSError(f"`ip {' '.join(words)}`: {result.stderr.strip()}")
    return result.stdout
