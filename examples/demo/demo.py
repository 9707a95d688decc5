"""From a pool of clinical rows to the few worth training on, with a real model, on a CPU, without the Hub.

    make demo        or        python examples/demo/demo.py --model HuggingFaceTB/SmolLM2-135M-Instruct

The pool's rows carry hidden facts (reasoning steps, duplicates, corrupted answers) that no score ever sees; the table
at the end uses them to say what the rule picked.
"""

import argparse
import os
import sys
import time
from pathlib import Path


if not sys.stderr.isatty():  # bars would fill a log; every tqdm looks here when it is imported
    os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
from clinical_pool import clinical_pool, clinical_validation
from datasets import Dataset, disable_progress_bars
from fetch_model import DEFAULT_FOLDER, fetch
from rich import box
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from diq_hf import DIQScorer, QuadrantRule, select_subset, write_report
from diq_hf.reporting.figures import NAMES, plot_quadrants
from diq_hf.selection.quadrants import QUADRANTS, REASONS


def mean(rows: Dataset, column: str) -> float:
    return float(np.mean(rows[column][:])) if len(rows) else float("nan")


def facts(rows: Dataset) -> dict[str, float]:
    """What the hidden columns say about some rows: mean steps, and shares in percent."""

    def share(column: str, value: str) -> float:
        return 100 * rows[column][:].count(value) / len(rows) if len(rows) else float("nan")

    texts = [str((row["prompt"], row["completion"])) for row in rows]
    repeats = 100 * (len(texts) - len(set(texts))) / len(texts) if texts else float("nan")
    kinds = {kind: share("kind", kind) for kind in ("corrupted", "trivial")}
    return {"steps": mean(rows, "steps"), "rare": share("knowledge", "rare"), "duplicate": repeats, **kinds}


def quadrant_table(scored: Dataset, subset: Dataset) -> Table:
    groups = {"whole pool": scored}
    for code, name in enumerate(QUADRANTS):
        groups[name] = scored.select(np.flatnonzero(np.array(scored["quadrant"][:]) == code))
    groups["selected"] = subset
    table = Table(
        title="The quadrants",
        caption="; ".join(f"{name} {meaning}" for name, meaning in NAMES.items())
        + ".\nMeans of difficulty, influence, tokens and reasoning steps; in % the rows of rare knowledge, those that "
        "repeat another row of the same line, those whose answers were spoiled, and trivial ones.",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("")
    for heading in ("rows", "diff.", "infl.", "tok.", "steps", "rare", "dupl.", "corr.", "triv."):
        table.add_column(heading, justify="right")
    for name, rows in groups.items():
        difficulty, influence, tokens = (mean(rows, column) for column in ("difficulty", "influence", "num_tokens"))
        steps, *shares = facts(rows).values()
        scores = f"{difficulty:.2f}", f"{influence:.2f}", f"{tokens:.0f}", f"{steps:.1f}"
        table.add_row(name, str(len(rows)), *scores, *(f"{share:.0f}" for share in shares))
    return table


def row_table(rows: Dataset, title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    for heading in ("rank", "Q", "diff.", "infl.", "steps", "kind"):
        table.add_column(heading)
    table.add_column("question", no_wrap=True, overflow="ellipsis", max_width=32)
    for row in rows:
        table.add_row(
            str(row["diq_rank"]),
            QUADRANTS[row["quadrant"]],
            f"{row['difficulty']:.2f}",
            f"{row['influence']:.2f}",
            str(row["steps"]),
            row["kind"],
            row["prompt"][0]["content"],
        )
    return table


def verdict(scored: Dataset, subset: Dataset) -> str:
    """How the selected rows differ from the pool, in one sentence, whatever the numbers say."""
    chosen, pool = facts(subset), facts(scored)

    def compare(name: str, less: str, equal: str, more: str) -> str:
        return less if chosen[name] < pool[name] else more if chosen[name] > pool[name] else equal

    shares = (
        f"{compare(kind, 'fewer', 'as many', 'more')} {noun} ({chosen[kind]:.1f} % against {pool[kind]:.1f} %)"
        for kind, noun in (
            ("duplicate", "duplicates"),
            ("corrupted", "corrupted answers"),
            ("trivial", "trivial rows"),
        )
    )
    return (
        f"Selected against the whole pool: {compare('steps', 'shorter', 'as long', 'longer')} reasoning "
        f"({chosen['steps']:.1f} steps against {pool['steps']:.1f}), {', '.join(shares)}."
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="Hub id or folder; by default SmolLM2-135M-Instruct from PyPI")
    parser.add_argument("--output", type=Path, default=Path("demo_output"))
    parser.add_argument("--ratio", type=float, default=0.125, help="share of the pool to select")
    parser.add_argument("--all", action="store_true", help="take the whole pool of 120 rows, for about twice the time")
    options = parser.parse_args(arguments)
    logging.disable_progress_bar()
    if not sys.stderr.isatty():
        disable_progress_bars()
    console = Console()

    model = options.model or str(fetch(DEFAULT_FOLDER))
    small = not options.all
    pool, validation = (
        Dataset.from_list(clinical_pool(small=small)),
        Dataset.from_list(clinical_validation(small=small)),
    )
    console.print(
        f"{len(pool)} rows in the pool, {len(validation)} validation rows, model {model}. Scoring them takes half a "
        "minute, or up to two on old cores …",
        highlight=False,
    )

    # Many CPUs that know bf16 compute faster in fp32; and so the figures are the same on every machine.
    fp32 = {"dtype": "float32"}
    diq_score = DIQScorer(model, validation, extra_columns=("num_tokens", "mismatch"), model_init_kwargs=fp32)
    start = time.perf_counter()
    diq_score.calibrate(pool, size=32)
    scored = pool.map(diq_score, batched=True, desc="Scoring the pool")
    seconds = time.perf_counter() - start

    rule = QuadrantRule.fit(scored)
    subset, scored = select_subset(scored, ratio=options.ratio, rule=rule, return_pool=True)

    ranks = np.array(scored["diq_rank"][:], dtype=float)  # none for rows that are passed over
    by_rank = np.argsort(ranks)[: np.isfinite(ranks).sum()]
    reasons = np.array(scored["diq_reason"][:])
    console.print(quadrant_table(scored, subset))
    console.print(row_table(scored.select(by_rank[:5]), "Taken first"))
    console.print(row_table(scored.select(by_rank[-5:]), "Taken last"))
    console.print(verdict(scored, subset), highlight=False)
    counts = {reason: int((reasons == code).sum()) for code, reason in enumerate(REASONS)}
    spoiled = np.array(scored["kind"][:]) == "corrupted"
    passed_over = reasons == REASONS.index("mismatch")
    console.print(
        f"Passed over: {counts['mismatch']} rows whose answers seem to belong to other prompts, "
        f"{(passed_over & spoiled).sum()} of the {spoiled.sum()} spoiled ones among them, and {counts['duplicate']} "
        "copies of rows that were taken already. A wrong conclusion of a right line of thought is not told that way.",
        highlight=False,
    )
    console.print(
        f"{sum(scored['num_tokens'][:])} tokens scored in {seconds:.0f} s, the validation gradient and the difficulty "
        f"included. Thresholds: difficulty {rule.difficulty_threshold:.3f}, influence {rule.influence_threshold:.3f}.",
        highlight=False,
    )

    options.output.mkdir(parents=True, exist_ok=True)
    picture = options.output / "quadrants.png"
    plot_quadrants(scored, rule, picture, title="Clinical pool", selected=np.flatnonzero(reasons == 0))
    subset.save_to_disk(options.output / "subset")
    page = write_report(scored, options.output / "report.html", rule=rule, title="Clinical pool")
    console.print(
        f"Report: {page.resolve().as_uri()} (open it in a browser)\nFigure: {picture}\nSubset: "
        f"{options.output / 'subset'} (load_from_disk)",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
