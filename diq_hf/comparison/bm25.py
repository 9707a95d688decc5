"""BM25: rows that share rare words with validation rows, and nothing of a model.

The pool's texts are the documents and each validation text is a query, every word of it counted as often as it stands
there. Scores are means over a group's queries, and a row has the largest of its groups: how LESS
(https://huggingface.co/papers/2402.04333) and reproductions of it bring BM25 to their groups. Words are lower-cased
runs of two or more letters or digits; none is left out, for common ones weigh next to nothing, in any language.
"""

from collections.abc import Mapping, Sequence

import numpy as np


def rank(
    pool_texts: Sequence[str], validation_texts: Sequence[str] | Mapping[str | None, Sequence[str]]
) -> np.ndarray:
    """Each text's score, the higher the better, by [bm25s](https://github.com/xhluca/bm25s) as it comes (Lucene's).

    Args:
        pool_texts (`Sequence[str]`):
            Prompt and answer of each row of the pool.
        validation_texts (`Sequence[str]` or `Mapping[str, Sequence[str]]`):
            Those of the validation rows, or of each group's.

    Returns:
        `np.ndarray` of shape `(len(pool_texts),)`.

    Raises:
        `ImportError`: bm25s is not installed.
        `ValueError`: There are no validation texts, or no words in them or in the pool.
    """
    try:
        import bm25s
    except ImportError as error:
        raise ImportError("Strategy `bm25` needs a package: `pip install diq-hf[compare]`.") from error
    groups = list(validation_texts.values()) if isinstance(validation_texts, Mapping) else [validation_texts]
    if not groups or not all(groups):
        raise ValueError("There are no validation texts to look for, or a group has none. Pass one at least.")

    def words(texts: Sequence[str]) -> list[list[str]]:
        return bm25s.tokenize(list(texts), stopwords=None, return_ids=False, show_progress=False)

    documents, queries = words(pool_texts), [words(texts) for texts in groups]
    if not any(documents) or not any(query for group in queries for query in group):
        raise ValueError("BM25 finds no words in the pool or in the validation rows. Leave `bm25` out.")
    index = bm25s.BM25(dtype="float64")
    index.index(documents, show_progress=False)
    means = []
    for group in queries:
        total = np.zeros(len(documents))
        for query in filter(None, group):  # a text without words finds nothing
            total += index.get_scores(query)
        means.append(total / len(group))
    return np.max(means, axis=0)
