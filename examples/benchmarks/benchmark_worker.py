"""What all processes of the benchmark share, the peers' too: rows, model, batches, measuring of time and memory."""

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
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel


LLAMA_8B = "llama-3.1-8b"
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "diq-hf")
PEERS = {"bergson": "bergson", "dattri": "dattri-llm", "kronfluence": "kronfluence"}  # and their packages
# φ, for those who do not find it by themselves: the attention's q, k and v.
MODULES = ("q_proj", "k_proj", "v_proj")


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
        # The ends of two rows, which are trained: enough to have every kernel loaded before time is taken. On a GPU
        # some of all lengths, which kernels are chosen by.
        self.warmup = [{name: values[-32:] for name, values in row.items()} for row in self.pool[:2]]
        if self.device.type == "cuda":
            by_length = sorted(self.pool, key=lambda row: len(row["input_ids"]))
            self.warmup += by_length[:: max(1, len(by_length) // 16)]
        self.token_budget = self.job["max_tokens_per_batch"] or (2048 if self.device.type == "cpu" else 16384)
        self.peer_dtype = torch.float32 if self.job["peer_precision"] == "fp32" else self.dtype
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, int] = {}
        self.others: dict[str, float] = {}
        self.baseline = 0

    def load_model(self, dtype: torch.dtype | None = None):
        return load_model(self.job["model"], dtype or self.dtype, self.device, self.job["layers"], self.job["random"])

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
        self.synchronize()
        start, elsewhere = time.perf_counter(), self._cpu_seconds_elsewhere()
        yield
        self.synchronize()
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

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        # Of the whole process, its start included: kibibytes on Linux, bytes on macOS.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def batches(rows: list[dict], budget: int) -> tuple[list[int], list[dict[str, torch.Tensor]]]:
    """Rows by falling length in padded batches of at most so many tokens, and which row stands where."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"]))
    made, start = [], 0
    while start < len(order):
        longest = len(rows[order[start]]["input_ids"])
        taken = [rows[i] for i in order[start : start + max(1, budget // longest)]]
        start += len(taken)
        batch = {
            "input_ids": torch.zeros(len(taken), longest, dtype=torch.long),
            "labels": torch.full((len(taken), longest), -100),
            "attention_mask": torch.zeros(len(taken), longest, dtype=torch.long),
        }
        for place, row in enumerate(taken):
            length = len(row["input_ids"])
            batch["input_ids"][place, :length] = torch.from_numpy(row["input_ids"])
            batch["labels"][place, :length] = torch.from_numpy(row["labels"])
            batch["attention_mask"][place, :length] = 1
        made.append(batch)
    return order, made


def row_losses(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Each row's mean cross-entropy over its trained tokens, for peers that leave the loss to their user."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    targets = batch["labels"][:, 1:]
    trained = targets != -100
    losses = torch.nn.functional.cross_entropy(logits[:, :-1][trained].float(), targets[trained], reduction="none")
    rows = trained.nonzero()[:, 0]
    return losses.new_zeros(len(targets)).index_add(0, rows, losses) / trained.sum(1)


def load_model(
    name: str, dtype: torch.dtype, device: torch.device, layers: int | None = None, random: bool = False
) -> PreTrainedModel:
    """A checkpoint, or one's shape with random weights, in eval mode."""
    if not random:
        return AutoModelForCausalLM.from_pretrained(name, dtype=dtype).to(device).eval()
    torch.manual_seed(0)
    with device:
        # Drawn in bf16 whatever the dtype, so that the fp32 model is the same one.
        return AutoModelForCausalLM.from_config(config_of(name, layers), dtype=torch.bfloat16).to(dtype).eval()


def config_of(name: str, layers: int | None = None) -> PreTrainedConfig:
    """A checkpoint's, or that of Llama-3.1-8B."""
    if name != LLAMA_8B:
        return AutoConfig.from_pretrained(name)
    return LlamaConfig(
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


def versions() -> dict[str, str]:
    found = {}
    for package in (*PACKAGES, *PEERS.values()):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
