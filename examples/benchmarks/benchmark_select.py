"""How much of the exact selection `select` finds, with stored exact scores as the oracle: no model is needed.

    OMP_NUM_THREADS=1 python examples/benchmarks/benchmark_select.py scored --ratio 0.05 --max-scored 0.2 --known \\
        --seeds 200 --processes 16

`scored` is a folder of `diq score` with the columns num_tokens and num_trained, or a JSON-lines file of prompt,
completion and the columns difficulty, influence, num_tokens and num_trained, for which scikit-learn is enough. Of rows
that are there twice the first counts.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from diq_hf.rows.formats import RowEncoder
from diq_hf.scoring.audit import Audit
from diq_hf.scoring.features import Features, text_features
from diq_hf.scoring.landmarks import Search


def read_rows(path: Path) -> list[dict]:
    """Rows of a saved dataset or of a JSON-lines file."""
    if path.is_dir():
        from datasets import load_from_disk

        return load_from_disk(path).to_list()
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def outcome(
    features: Features,
    influence: np.ndarray,
    difficulty: np.ndarray,
    size: int,
    options: argparse.Namespace,
    seed: int,
) -> tuple[float, float, Audit]:
    """The share of the exact selection that a search finds, its mean influence against the exact one's, the audit."""
    budget, allowance = round(options.ratio * size), int(options.max_scored * size)
    columns = {"influence": influence} | ({} if options.known else {"difficulty": difficulty})
    score = lambda rows: {name: values[rows] for name, values in columns.items()}  # noqa: E731
    known = difficulty if options.known else None
    rows, read, thresholds, audit = Search(
        features, score, budget, allowance, known, target=options.target, seed=seed
    )()
    best = lambda fits: fits[np.argsort(-influence[fits])[:budget]]  # noqa: E731
    chosen = best(rows[read["difficulty"] >= thresholds.difficulty])
    exact = best(np.flatnonzero(difficulty >= np.median(difficulty)))
    above = lambda some: influence[some].mean() - influence.mean()  # noqa: E731
    return float(np.isin(exact, chosen).mean()), above(chosen) / above(exact), audit


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scored", type=Path)
    parser.add_argument("--ratio", type=float, default=0.05)
    parser.add_argument("--max-scored", type=float, default=0.45)
    parser.add_argument("--known", action="store_true", help="The difficulty is known of every row.")
    parser.add_argument(
        "--target", type=float, default=1.0, help="Share at which the search may stop; `select` has 0.97."
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args(arguments)
    rows = read_rows(options.scored)
    places: dict[tuple[str, str], int] = {}
    for i, row in enumerate(rows):
        places.setdefault(RowEncoder(None).texts(row), i)
    numbers = ("influence", "difficulty", "num_tokens", "num_trained")
    columns = (np.array([rows[i][name] for i in places.values()], dtype=float) for name in numbers)
    influence, difficulty, tokens, trained = columns
    features = text_features(*zip(*places, strict=True), tokens, trained)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    search, started = partial(outcome, features, influence, difficulty, len(rows), options), time.monotonic()
    with ProcessPoolExecutor(options.processes) as pool:
        found, value, audits = map(list, zip(*pool.map(search, seeds), strict=True))
    seconds = (time.monotonic() - started) * options.processes / len(seeds)
    covered = sum(audit.low <= share <= audit.high for share, audit in zip(found, audits, strict=True))
    scored = np.mean([audit.num_scored for audit in audits]) / len(rows)
    kind = "known" if options.known else "of the rows scored"
    print(
        f"{len(rows)} rows, {options.ratio:.0%} chosen, difficulty {kind}, "
        f"seeds {seeds[0]} to {seeds[-1]}, {seconds:.0f} s each\n"
        f"{scored:.3f} of the rows scored: found {np.mean(found):.3f} (least {min(found):.3f}), "
        f"value {np.mean(value):.3f}; estimated {np.mean([audit.found for audit in audits]):.3f}\n"
        f"the audit's interval covers the truth in {covered} of {len(seeds)} ({covered / len(seeds):.3f}), "
        f"from {np.mean([audit.low for audit in audits]):.3f} to {np.mean([audit.high for audit in audits]):.3f} "
        f"on average; the last: {audits[-1]}"
    )


if __name__ == "__main__":
    main()
