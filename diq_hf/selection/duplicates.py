"""Duplicates among a few texts: exact after normalisation, and near by the Jaccard index of their shingles."""

import re
import unicodedata
from collections.abc import Sequence


# A word, or one character of the scripts that write no spaces between words.
_TOKEN = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")
SHINGLE = 4


def normalized(text: str) -> str:
    """A text without what makes no difference to a reader: case, runs of white space, forms of the same character."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def exact_duplicates(texts: Sequence[str]) -> list[list[int]]:
    """Positions of texts that are equal once normalised, a group each, in order of appearance.

    Example:

    ```python
    >>> exact_duplicates(["Is it flu?", "No.", "is it  FLU?"])
    [[0, 2]]

    ```
    """
    groups: dict[str, list[int]] = {}
    for position, text in enumerate(texts):
        groups.setdefault(normalized(text), []).append(position)
    return [group for group in groups.values() if len(group) > 1]


def near_duplicates(texts: Sequence[str], threshold: float = 0.7) -> list[tuple[int, int, float]]:
    """Pairs of texts that share at least `threshold` of their shingles (runs of four words), the most alike first.

    Every pair is compared, so this is for thousands of texts at most. Texts that are equal once normalised are left to
    [`exact_duplicates`].

    Example:

    ```python
    >>> near_duplicates(["a b c d e f g h", "a b c d e f g i", "something else altogether"], threshold=0.6)
    [(0, 1, 0.6666666666666666)]

    ```
    """
    plain = [normalized(text) for text in texts]
    sets = [_shingles(text) for text in plain]
    by_size = sorted(range(len(sets)), key=lambda i: len(sets[i]))
    pairs = []
    for place, i in enumerate(by_size):
        for j in by_size[place + 1 :]:
            if len(sets[i]) < threshold * len(sets[j]):
                break  # the rest is larger still: no such pair can share enough
            shared = len(sets[i] & sets[j])
            jaccard = shared / (len(sets[i]) + len(sets[j]) - shared)
            if jaccard >= threshold and plain[i] != plain[j]:
                pairs.append((min(i, j), max(i, j), jaccard))
    return sorted(pairs, key=lambda pair: (-pair[2], pair))


def _shingles(text: str) -> frozenset:
    words = _TOKEN.findall(text)
    if len(words) <= SHINGLE:
        return frozenset([tuple(words)])
    return frozenset(zip(*(words[start:] for start in range(SHINGLE)), strict=False))
