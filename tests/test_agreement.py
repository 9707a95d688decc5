"""Agreement of levels, against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn import metrics

from diq_hf.agreement import confusion_matrix, quadratic_weighted_kappa


@pytest.mark.parametrize("seed", range(5))
def test_as_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    first = rng.integers(1, 6, size=60)
    second = np.clip(first + rng.integers(-1, 2, size=60), 1, 5)
    levels = list(range(1, 6))
    expected = metrics.cohen_kappa_score(first, second, labels=levels, weights="quadratic")
    assert quadratic_weighted_kappa(first, second) == pytest.approx(expected)
    assert np.array_equal(confusion_matrix(first, second), metrics.confusion_matrix(first, second, labels=levels))


def test_one_level_alone_has_no_kappa():
    assert math.isnan(quadratic_weighted_kappa([3, 3], [3, 3]))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [([1], [1, 2], "in pairs"), ([], [], "in pairs"), ([0], [1], "not 0"), ([1.5], [1], "not 1.5")],
)
def test_what_is_no_level(first, second, message):
    with pytest.raises(ValueError, match=message):
        quadratic_weighted_kappa(first, second)
