"""How much of the exact selection was found: an estimate and its confidence interval, from a slice at random."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Audit:
    """How much of the exact selection was found.

    Args:
        found (`float`):
            Estimated share of the rows that the exact selection, with every row scored, would have taken.
        low (`float`):
            Lower end of its 95 % confidence interval.
        high (`float`):
            Upper end.
        num_rows (`int`):
            Rows of the pool.
        num_scored (`int`):
            Rows that were scored, the audit's own among them.
        num_audited (`int`):
            Rows of the random slice; 0 of a draw, whose scored rows are a random slice themselves.
        num_missed (`int`):
            Rows of the slice that would have been chosen.
    """

    found: float
    low: float
    high: float
    num_rows: int
    num_scored: int
    num_audited: int
    num_missed: int

    @property
    def cost(self) -> float:
        """Rows scored against scoring every row."""
        return self.num_scored / self.num_rows

    def __str__(self) -> str:
        scored = f"{self.num_scored} of {self.num_rows} rows scored ({self.cost:.0%}); "
        if not self.num_audited and self.low == 1:
            return f"{scored}the selection is the exact one"
        interval = f"95 % confidence: {self.low:.0%} to {self.high:.0%}"
        if self.num_audited:
            interval += f", by {self.num_audited} rows at random, of which {self.num_missed} had been missed"
        return f"{scored}about {self.found:.0%} of the exact selection found ({interval})"


def estimate(chosen: int, unscored: int, sampled: int, missed: int, moved: tuple[float, float, float]) -> tuple:
    """The share found, and the ends of its interval.

    Args:
        chosen (`int`):
            Rows that were chosen.
        unscored (`int`):
            Rows that the sample was drawn from.
        sampled (`int`):
            Rows of the sample.
        missed (`int`):
            Those of them that are as good as the chosen ones.
        moved (`tuple[float, float, float]`):
            Chosen rows that an error of the threshold changed, for the upper end, the middle and the lower end.
    """
    from scipy.stats import hypergeom

    rest = unscored - sampled
    # How many of the unscored rows may have been as good, for a sample that holds so many: by exact tails.
    totals = np.arange(missed, rest + missed + 1)
    if sampled:
        low = totals[hypergeom.sf(missed - 1, unscored, totals, sampled) > 0.025].min() - missed
        high = totals[hypergeom.cdf(missed, unscored, totals, sampled) > 0.025].max() - missed
    else:
        low, high = 0, rest
    middle = rest * missed / max(sampled, 1)
    share = lambda left, moved: float(chosen / (chosen + left) * (1 - min(moved / chosen, 1)))  # noqa: E731
    # Rows that were missed may be the last of the selection.
    return share(middle, moved[1]), share(high, moved[2]), share(low / 2, moved[0])
