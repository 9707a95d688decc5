"""How much of the exact selection `select` finds, with stored exact scores as the oracle: no model is needed.

    python examples/benchmarks/benchmark_select.py scored --ratio 0.05 --max-scored 0.2 --known --seeds 200

`scored` is a folder of `diq score` with the columns num_tokens and num_trained. Of rows that are there twice the first
counts.
"""

import argparse

import numpy as np
from datasets import load_from_disk

from diq_hf.rows.formats import RowEncoder
from diq_hf.scoring.features import text_features
from diq_hf.scoring.landmarks import Search


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scored")
    parser.add_argument("--ratio", type=float, default=0.05)
    parser.add_argument("--max-scored", type=float, default=0.45)
    parser.add_argument("--known", action="store_true", help="The difficulty is known of every row.")
    parser.add_argument(
        "--target", type=float, default=1.0, help="Share at which the search may stop; `select` has 0.97."
    )
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args(arguments)
    rows = load_from_disk(options.scored)
    places: dict[tuple[str, str], int] = {}
    for i, row in enumerate(rows):
        places.setdefault(RowEncoder(None).texts(row), i)
    first = np.array(sorted(places.values()))
    numbers = ("influence", "difficulty", "num_tokens", "num_trained")
    influence, difficulty, tokens, trained = (np.array(rows[name][:], dtype=float)[first] for name in numbers)
    prompts, answers = zip(*places, strict=True)
    features = text_features(prompts, answers, tokens, trained)
    budget, allowance = round(options.ratio * len(rows)), int(options.max_scored * len(rows))
    hard = np.flatnonzero(difficulty >= np.median(difficulty))
    exact = hard[np.argsort(-influence[hard])[:budget]]
    columns = {"influence": influence} | ({} if options.known else {"difficulty": difficulty})
    found, value, covered, scored = [], [], [], []
    for seed in range(options.seeds):
        known, settings = difficulty if options.known else None, {"seed": seed, "target": options.target}
        search = Search(
            features,
            lambda some: {name: of[some] for name, of in columns.items()},
            budget,
            allowance,
            known,
            **settings,
        )
        read_rows, read, thresholds, audit = search()
        fits = read_rows[read["difficulty"] >= thresholds.difficulty]
        chosen = fits[np.argsort(-influence[fits])[:budget]]
        found.append(np.isin(exact, chosen).mean())
        value.append((influence[chosen].mean() - influence.mean()) / (influence[exact].mean() - influence.mean()))
        covered.append(audit.low <= found[-1] <= audit.high)
        scored.append(audit.num_scored / len(rows))
    kind = "known" if options.known else "of the rows scored"
    print(f"{len(rows)} rows, {options.ratio:.0%} chosen, difficulty {kind}, {options.seeds} seeds")
    print(
        f"{np.mean(scored):.3f} of the rows scored: found {np.mean(found):.3f} (least {min(found):.3f}), value",
        end=" ",
    )
    print(f"{np.mean(value):.3f}; the audit's interval covers the truth in {np.mean(covered):.3f}; the last: {audit}")


if __name__ == "__main__":
    main()
