"""How much of the exact selection `select` finds, with stored exact scores as the oracle: no model is needed.

    python examples/benchmarks/benchmark_select.py scored --ratio 0.05 --max-scored 0.2 --known --seeds 200

`scored` is a folder of `diq score` with the columns num_tokens and num_trained.
"""

import argparse

import numpy as np
from datasets import load_from_disk

from diq_hf.rows.formats import RowEncoder
from diq_hf.scoring.features import text_features
from diq_hf.scoring.landmarks import Search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scored")
    parser.add_argument("--ratio", type=float, default=0.05)
    parser.add_argument("--max-scored", type=float, default=0.45)
    parser.add_argument("--known", action="store_true", help="The difficulty is known of every row.")
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    rows = load_from_disk(arguments.scored)
    texts = [RowEncoder(None).texts(row) for row in rows]
    first = np.unique([texts.index(text) for text in texts])  # rows that are there twice are scored once
    numbers = ("influence", "difficulty", "num_tokens", "num_trained")
    influence, difficulty, tokens, trained = (np.array(rows[name][:], dtype=float)[first] for name in numbers)
    features = text_features(*zip(*(texts[i] for i in first), strict=True), tokens, trained)
    budget, allowance = round(arguments.ratio * len(rows)), int(arguments.max_scored * len(rows))
    hard = np.flatnonzero(difficulty >= np.median(difficulty))
    exact = hard[np.argsort(-influence[hard])[:budget]]
    found, covered = [], []
    for seed in range(arguments.seeds):
        columns = {"influence": influence} | ({} if arguments.known else {"difficulty": difficulty})

        def score(some, columns=columns):
            return {name: values[some] for name, values in columns.items()}

        known = difficulty if arguments.known else None
        scored, read, thresholds, audit = Search(features, score, budget, allowance, known, seed=seed, target=1.0)()
        fits = scored[read["difficulty"] >= thresholds.difficulty]
        found.append(np.isin(exact, fits[np.argsort(-influence[fits])[:budget]]).mean())
        covered.append(audit.low <= found[-1] <= audit.high)
    print(f"{audit.num_scored} of {len(rows)} rows scored: found {np.mean(found):.3f} (least {min(found):.3f})")
    print(f"the audit's interval covers the truth in {np.mean(covered):.3f} of {len(found)} seeds; the last: {audit}")


if __name__ == "__main__":
    main()
