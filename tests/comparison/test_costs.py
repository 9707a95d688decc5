"""What strategies cost, held against sums by hand."""

from dataclasses import replace

import pytest
from comparisons import made_up

from diq_hf.comparison.costs import total_costs
from diq_hf.comparison.results import Work


def test_total_costs():
    comparison = made_up(full=True)
    by_name = {cost.strategy: cost for cost in total_costs(comparison)}
    assert by_name["full"].epochs == pytest.approx(1) and by_name["random"].selecting == 0
    assert by_name["random"].epochs == pytest.approx(0.1, abs=0.01)
    assert by_name["diq"].selecting == pytest.approx(2.4, abs=0.01)
    choice = next(choice for choice in comparison.choices if choice.strategy == "diq")
    assert by_name["diq"].seconds == pytest.approx(choice.selecting.seconds + choice.tokens / 300)
    with pytest.raises(ValueError, match="one pass over the pool"):
        total_costs(replace(comparison, epoch=Work()))
    with pytest.raises(ValueError, match=r"runs of 'random' at 0\.1, but not what it chose"):
        total_costs(replace(comparison, choices=()))
