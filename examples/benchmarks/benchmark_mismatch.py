"""How well `mismatch` tells answers that belong elsewhere, on rows whose column `fact` says so.

    diq_score.score(pool).save_to_disk("scored")        # extra_columns=["mismatch", "num_trained"]
    python examples/benchmarks/benchmark_mismatch.py scored

Prints how uniform the values of foreign answers are (Kolmogorov-Smirnov), what each bound catches and what it costs
by source, and what a selection holds under it.
"""

import argparse

import numpy as np
from datasets import load_from_disk
from scipy.stats import kstest

from diq_hf import select_subset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scored")
    parser.add_argument("--wrong", default="wrong answer", help="What `fact` says of a foreign answer.")
    arguments = parser.parse_args()
    scored = load_from_disk(arguments.scored)
    mismatch = np.array(scored["mismatch"][:], dtype=float)
    wrong, source = np.array(scored["fact"][:]) == arguments.wrong, np.array(scored["source"][:])
    uniform = kstest(mismatch[wrong], "uniform").pvalue
    print(f"{wrong.sum()} of {len(wrong)} answers are foreign; uniform: p = {uniform:.3f}")
    for bound in (0.05, 0.1, 0.15, 0.2):
        over = mismatch > bound
        line = f"above {bound}: {over[wrong].mean():.2f} of the foreign, {over[~wrong].mean():.3f} of the right;"
        for name in np.unique(source[wrong]):
            inside = source == name
            line += f" {name} {over[wrong & inside].mean():.2f} {over[~wrong & inside].mean():.3f}"
        print(line)
        kept = scored.select(np.flatnonzero(~over))
        for share in (0.05, 0.1):
            subset = select_subset(kept, num_rows=round(share * len(scored)))
            held = np.mean([fact == arguments.wrong for fact in subset["fact"][:]])
            print(f"  of the best {share:.0%} of the rows under it {held:.3f} are foreign")


if __name__ == "__main__":
    main()
