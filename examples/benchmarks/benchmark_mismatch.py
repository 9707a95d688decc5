"""How well `mismatch` tells answers that belong elsewhere, on rows whose column `fact` says so.

    diq_score.score(pool).save_to_disk("scored")        # extra_columns=["mismatch", "num_trained"]
    python examples/benchmarks/benchmark_mismatch.py scored --foreign-source gsm8k --foreign-source code

Prints how uniform the values of foreign answers are (Kolmogorov-Smirnov), what each bound catches and what it costs
by source, and what a selection holds: under each bound, and by default.
"""

import argparse

import numpy as np
from datasets import Dataset, load_from_disk
from scipy.stats import kstest

from diq_hf import select_subset


def held(rows: Dataset, wrong: str, foreign_sources: list[str]) -> str:
    """What some rows hold."""
    texts = [str((row["prompt"], row["completion"])) for row in rows]
    answers = np.mean([fact == wrong for fact in rows["fact"][:]])
    fields = np.mean([source not in foreign_sources for source in rows["source"][:]])
    return f"{answers:.3f} foreign answers, {len(texts) - len(set(texts))} copies, {fields:.3f} of the right field"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scored")
    parser.add_argument("--wrong", default="wrong answer", help="What `fact` says of a foreign answer.")
    parser.add_argument(
        "--foreign-source", action="append", default=[], help="A source of another field (repeatable)."
    )
    options = parser.parse_args(arguments)
    scored = load_from_disk(options.scored)
    mismatch = np.array(scored["mismatch"][:], dtype=float)
    wrong, source = np.array(scored["fact"][:]) == options.wrong, np.array(scored["source"][:])
    uniform = kstest(mismatch[wrong], "uniform").pvalue
    print(f"{wrong.sum()} of {len(wrong)} answers are foreign; uniform: p = {uniform:.3f}")
    print(f"the pool: {held(scored, options.wrong, options.foreign_source)}")
    for bound in (0.05, 0.1, 0.15, 0.2):
        over = mismatch > bound
        line = f"above {bound}: {over[wrong].mean():.2f} of the foreign, {over[~wrong].mean():.3f} of the right;"
        for name in np.unique(source[wrong]):
            inside = source == name
            line += f" {name} {over[wrong & inside].mean():.2f} {over[~wrong & inside].mean():.3f}"
        print(line)
    for share in (0.05, 0.1):
        for bound in (None, 0.05, 0.1, 0.2):
            subset = select_subset(scored, ratio=share, max_mismatch=bound, max_similarity=None)
            print(f"{share:.0%} under {bound}: {held(subset, options.wrong, options.foreign_source)}")
        by_default = select_subset(scored, ratio=share)
        print(f"{share:.0%} by default: {held(by_default, options.wrong, options.foreign_source)}")


if __name__ == "__main__":
    main()
