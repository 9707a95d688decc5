"""What all processes of the benchmark share, bergson's too: the rows, the model, and how time and memory are taken."""

import json
import resource
import sys
import time
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import psutil
import torch
from transformers import AutoModelForCausalLM, LlamaConfig


RANDOM_LLAMA = "random-llama-3.1-8b"
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bergson", "diq-hf")


class Worker:
    """One method in a process of its own.

    Args:
        job (`Path`):
            JSON file with the model, the dtype, the rows and where to leave the result.
    """

    def __init__(self, job: Path):
        self.job = json.loads(job.read_text())
        self.device = torch.device(self.job["device"])
        self.dtype = getattr(torch, self.job["dtype"])
        rows = json.loads(Path(self.job["rows"]).read_text())
        self.pool, self.validation, self.answers = (
            rows[part]
            and [{name: np.array(values, dtype=np.int64) for name, values in row.items()} for row in rows[part]]
            for part in ("pool", "validation", "answers")
        )
        # The ends of two rows, which are trained: enough to have every kernel loaded before time is taken.
        self.warmup = [{name: values[-32:] for name, values in row.items()} for row in self.pool[:2]]
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, int] = {}
        self.others: dict[str, float] = {}
        self.baseline = 0

    def load_model(self, dtype: torch.dtype | None = None):
        return load_model(self.job["model"], dtype or self.dtype, self.device, self.job["layers"])

    def start(self) -> None:
        """Takes the baseline, after loading and warming up."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.baseline = torch.cuda.memory_allocated()
        else:
            self.baseline = psutil.Process().memory_info().rss

    @contextmanager
    def phase(self, name: str):
        """Times what runs inside, and takes the peak of memory so far."""
        self._synchronize()
        start, elsewhere = time.perf_counter(), self._cpu_seconds_elsewhere()
        yield
        self._synchronize()
        self.seconds[name] = time.perf_counter() - start
        self.others[name] = (self._cpu_seconds_elsewhere() - elsewhere) / self.seconds[name]
        self.peaks[name] = self._peak()

    def finish(self, **found) -> None:
        """Writes the result: `found`, and what was measured."""
        found = {
            name: values.astype(float).tolist() if isinstance(values, np.ndarray) else values
            for name, values in found.items()
        }
        found |= {
            "seconds": self.seconds,
            "baseline_bytes": self.baseline,
            "peak_bytes": self._peak(),
            "peak_bytes_after": self.peaks,
            "cores_busy_elsewhere": self.others,
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }
        Path(self.job["result"]).write_text(json.dumps(found))

    def _cpu_seconds_elsewhere(self) -> float:
        """What other processes have had of the CPUs since the machine's start."""
        times, mine = psutil.cpu_times(), time.process_time()
        return times.user + times.system + getattr(times, "steal", 0.0) - mine

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        # Of the whole process, its start included: kibibytes on Linux, bytes on macOS.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def load_model(name: str, dtype: torch.dtype, device: torch.device, layers: int | None = None):
    """A checkpoint, or Llama-3.1-8B's shape with random weights, in eval mode."""
    if name != RANDOM_LLAMA:
        return AutoModelForCausalLM.from_pretrained(name, dtype=dtype).to(device).eval()
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers or 32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        bos_token_id=128000,
        eos_token_id=128001,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )
    torch.manual_seed(0)
    with device:
        # Drawn in bf16 whatever the dtype, so that the fp32 model is the same one.
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).to(dtype).eval()


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
