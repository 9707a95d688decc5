"""benchmark.py's figures: medians over its rounds, agreement of scores, share of the machine's peak, and the table."""

import numpy as np
import torch
from benchmark_worker import PEERS, config_of
from transformers import AutoModelForCausalLM

from diq_hf.engine.modules import scored_modules


TRUTH = "row_by_row_fp32"
METHODS = {
    "forward": "forward pass, no gradient",
    "row_by_row": "row-by-row autograd (the LESS way)",
    "diq": "diq_hf",
    "diq_flex": "diq_hf, packed by FlexAttention",
    "bergson": "bergson, per row (its default)",
    "bergson_tokens": "bergson, per token, summed",
    "bergson_output": "bergson, forward mode",
    "dattri": "dattri-llm GradDot, per row (its default)",
    "dattri_tokens": "dattri-llm GradDot, per token, summed",
    "kronfluence": "kronfluence, identity",
    "sft_default": "SFTTrainer, one epoch, defaults",
    "sft_best": "SFTTrainer, one epoch, fastest found",
    "online": "diq_hf online: that epoch, its rows scored as they train",
    TRUTH: "row-by-row autograd, fp32",
}
SFT = ("sft_default", "sft_best")
COLUMNS = {
    "rows_per_second": "rows/s",
    "tokens_per_second": "tokens/s",
    "ratio_to_forward": "× forward",
    "peak_share": "of peak",
    "validation_seconds": "validation, s",
    "baseline_gib": "loaded, GiB",
    "peak_gib": "peak, GiB",
    "spearman": "Spearman",
    "top_overlap": "top 10 %",
    "largest_score_difference": "largest error",
    "settings": "settings",
}


def operations(model: str, layers: int | None, rows: list[dict]) -> dict[str, int]:
    """Floating-point operations that a pass over the rows is in itself, however a method goes about it.

    Two a weight and token forward, the output embeddings at trained tokens alone; twice as many with a backward pass
    through the same (frozen) weights; and two more a weight of φ and token, to form rows' gradients or to take their
    products with a direction. Attention's own products, norms and whatever is computed again are left out.
    """
    with torch.device("meta"):
        shape = AutoModelForCausalLM.from_config(config_of(model, layers))
    head = shape.get_output_embeddings()
    linear = [module for module in shape.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    tokens = sum(len(row["input_ids"]) for row in rows)
    trained = sum(label != -100 for row in rows for label in row["labels"][1:])
    forward = 2 * (tokens * sum(module.weight.numel() for module in linear) + trained * head.weight.numel())
    probes = 2 * tokens * sum(module.weight.numel() for module in scored_modules(shape).values())
    return {"forward": forward, "training": 2 * forward, "scores": 2 * forward + probes}


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


def largest_difference(found: list[float] | None, truth: list[float] | None) -> float | None:
    return None if found is None or truth is None else float(np.abs(np.subtract(found, truth)).max())


def summarize(rounds: list[dict], rows: int, tokens: int, work: dict[str, int], peak: float | None) -> dict[str, dict]:
    """A line of the table for each method: medians over the rounds, ratios taken inside each."""
    truth = rounds[0].get(TRUTH, {})
    scale = np.abs(truth["scores"]).max() if "scores" in truth else None
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
        kind = "forward" if method == "forward" else "training" if method in SFT else "scores"
        lines[method] = {
            "rows_per_second": rows / median(phases["pool"]),
            "tokens_per_second": tokens / median(phases["pool"]),
            "ratio_to_forward": median([a / b for a, b in zip(phases["pool"], forward, strict=True) if b]),
            "peak_share": work[kind] / median(phases["pool"]) / peak if peak and method != TRUTH else None,
            **{f"{phase}_seconds": median(seconds) for phase, seconds in phases.items()},
            "baseline_gib": median([result["baseline_bytes"] for result in results]) / 2**30,
            "peak_gib": max(result["peak_bytes_after"]["pool"] for result in results) / 2**30,
            "spearman": spearman,
            "top_overlap": overlap,
            # Of the largest score, so that a score near nothing does not decide.
            "largest_score_difference": None if None in scores else largest_difference(*scores) / scale,
            # That it is the same loss of the same tokens: nothing but rounding may be left.
            "largest_loss_difference": largest_difference(*losses),
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


def installed(report: dict) -> dict[str, str]:
    """Versions, a peer's own where they differ."""
    found = dict(report["versions"])
    for peer, versions in report["peer_versions"].items():
        found |= {PEERS[peer]: versions.get(PEERS[peer], "?")}
        others = {name: value for name, value in versions.items() if report["versions"].get(name, value) != value}
        found |= {f"{name} ({peer}'s)": value for name, value in others.items()}
    return found


def markdown(report: dict) -> str:
    def cell(value: object) -> str:
        return "" if value is None else value.replace("|", "/") if isinstance(value, str) else f"{value:.4g}"

    about, peak = report["about"], report["peak_flops"]
    text = [
        f"{about['rows']} rows ({about['tokens']} tokens), {about['validation_rows']} validation rows "
        f"({about['validation_tokens']} tokens), max_length {about['max_length']}; {about['model']}, "
        f"{about['dtype']}, q, k and v in full; medians of {about['repeats']}.",
        "; ".join(f"{name} {value}" for name, value in {**report["machine"], **installed(report)}.items()) + ".",
        "",
        f"| method | {' | '.join(COLUMNS.values())} |",
        f"| --- |{' ---: |' * (len(COLUMNS) - 1)} --- |",
    ]
    for method, line in report["methods"].items():
        cells = [f"failed: {line['error'][:200]}"] if "error" in line else [line[name] for name in COLUMNS]
        text.append(f"| {METHODS[method]} | {' | '.join(map(cell, cells))} |")
    text += [
        "",
        "Tokens are real ones, without padding; Spearman, top 10 % and the largest error (of the largest score) are "
        "against fp32 row-by-row autograd.",
    ]
    if error := report.get("peak_error"):  # reports of the first versions have no such key
        text += [f"Of peak: not known, for the machine's could not be measured ({cell(error[:200])})."]
    if peak:
        text += [
            f"Of peak: operations a second over the {peak / 1e12:.4g} TFLOP/s of a large {about['dtype']} matrix "
            "product just before. Counted are two operations a weight and token (the head's at trained tokens), twice "
            "that with a backward pass, and two more a weight of φ where rows are scored; not attention's products, "
            "nor what is computed twice."
        ]
    if report["scoring_over_three_epochs"]:
        text += ["", f"| diq_hf over 3 epochs of SFT | {' | '.join(SFT)} |", "| --- | ---: | ---: |"]
        for name, ratios in report["scoring_over_three_epochs"].items():
            text.append(f"| {name} | {' | '.join(cell(ratios.get(epoch)) for epoch in SFT)} |")
    return "\n".join(text) + "\n"
