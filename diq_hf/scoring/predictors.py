"""Guesses at scores that were not computed, from those that were: cheap to learn, and known to be how far off."""

import numpy as np

from .features import Features


# Strength of the ridge, and trees.
RIDGE, TREES = 0.3, 100
# Rows that they learn from at most: more teach little, and of a million rows hundreds of thousands may be scored.
LEARNED_FROM = 50_000


def by_words(features: Features, rows: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """A ridge's prediction for every row, as if it had not seen that one, and how far it is off."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold, cross_val_predict

    rows, target = _known(rows, target)
    words, model = features.words, Ridge(alpha=RIDGE)
    unseen = cross_val_predict(model, words[rows], target, cv=KFold(5, shuffle=True, random_state=0))
    mean = model.fit(words[rows], target).predict(words)
    mean[rows] = unseen
    return mean, float(np.std(target - unseen)) + 1e-9


def by_words_and_trees(
    features: Features, rows: np.ndarray, target: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, float]:
    """Likewise, with randomised trees beside it: what lies between prompt and answer is not linear."""
    from sklearn.ensemble import ExtraTreesRegressor

    rows, target = _known(rows, target)
    dense, (linear, _) = features.dense, by_words(features, rows, target)
    trees = ExtraTreesRegressor(
        TREES, min_samples_leaf=2, max_features=0.5, bootstrap=True, oob_score=True, random_state=seed
    ).fit(dense[rows], target)
    mean = trees.predict(dense)
    mean[rows] = trees.oob_prediction_
    mean = (linear + mean) / 2
    return mean, float(np.std(target - mean[rows])) + 1e-9


def _known(rows: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    some = np.random.default_rng(0).permutation(np.flatnonzero(np.isfinite(target)))[:LEARNED_FROM]
    some.sort()
    return rows[some], target[some]
