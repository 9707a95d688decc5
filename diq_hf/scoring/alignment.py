"""Where does a row point? The column `alignment`: cosines of its gradient with that of each validation row.

The mean validation gradient says how far a row helps all of them together; a row that helps a few of them much is no
better there than one that helps all a little, and rows whose gradients are long, the short ones, come before all
others. With a cosine for each validation row these can choose in turn: `select_subset(order="alignment")`.

A product with every validation row's own gradient would take as much memory as so many models, so the gradients are
compared by their projections, from the same pass: a cosine's error is about 1 / √[`DIM`].
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engine.projections import Projection


# Numbers that a gradient is projected to for it, unless projections are asked for: more cost next to nothing.
DIM = 16384
# Fewer leave little of cosines that lie about 0.1 apart.
LEAST_DIM = 1024


def alignment_projection(names: Sequence[str], seed: int) -> Projection:
    """The map that gradients are compared by."""
    return Projection(DIM, names, seed)


def validation_order(sizes: Sequence[int]) -> np.ndarray:
    """The validation rows, of groups one after another, so that the groups take turns as fairly as their sizes allow.

    Example:

    ```python
    >>> validation_order([2, 4]).tolist()
    [0, 2, 3, 1, 4, 5]

    ```
    """
    places = np.concatenate([np.arange(size) / size for size in sizes])
    return np.argsort(places, kind="stable")


def cosines(gradients: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of each of some gradients with each of others; NaN for one that is not known, 0 for one that is zero."""
    return _unit(gradients) @ _unit(others).T


def validation_projections(scorer: Any, progress: Any) -> np.ndarray:
    """Projected gradients of a scorer's validation rows, in the order of their turns."""
    rows = [row for group in scorer.validation.values() for row in group]
    found = scorer.engine.project(rows, [], scorer.compared_by, progress)[0]
    return found[validation_order([len(group) for group in scorer.validation.values()])]


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.full_like(vectors, 0.0), where=lengths != 0)
