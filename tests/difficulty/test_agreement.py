"""Agreement of levels, against scikit-learn."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn import metrics

from diq_hf.difficulty.agreement import (
    calibration,
    confusion_matrix,
    prediction_figures,
    quadratic_weighted_kappa,
    spearman,
)


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


@pytest.mark.parametrize("seed", range(3))
def test_figures_of_predictions(seed):
    rng = np.random.default_rng(seed)
    observed = rng.integers(1, 6, size=80)
    predicted = np.clip(observed + rng.integers(-2, 3, size=80), 1, 5)
    expected = np.clip(predicted + rng.normal(size=80).round(1), 1, 5)
    found = prediction_figures(observed, predicted, expected)
    assert found["rows"] == 80
    assert found["exact"] == pytest.approx(metrics.accuracy_score(observed, predicted))
    assert found["within_one"] == pytest.approx(
        np.mean([abs(a - b) < 2 for a, b in zip(observed, predicted, strict=True)])
    )
    assert found["kappa"] == pytest.approx(metrics.cohen_kappa_score(observed, predicted, weights="quadratic"))
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(observed, expected))
    assert found["mae_constant"] == min(np.abs(observed - level).mean() for level in range(1, 6))
    assert found["spearman"] == pytest.approx(spearmanr(expected, observed)[0])
    bins = calibration(expected, observed)
    assert sum(rows for *_, rows in bins) == 80
    assert sum(mean * rows for _, mean, _, rows in bins) == pytest.approx(expected.sum())
    assert sum(truth * rows for _, _, truth, rows in bins) == pytest.approx(observed.sum())
    assert all(level - 0.5 <= mean < level + 0.5 for level, mean, *_ in bins)


def test_perfect_predictions():
    levels = [1, 2, 3, 4, 5]
    found = prediction_figures(levels, levels, levels)
    assert (found["kappa"], found["spearman"], found["exact"]) == (1, pytest.approx(1), 1)
    assert found["mae"] == found["calibration_error"] == 0


def test_a_constant_has_no_rank():
    assert math.isnan(spearman([1, 2, 3], [2.0, 2.0, 2.0]))
