"""Texts that are there twice: equal once normalised, or near by the Jaccard index of their shingles.

Near ones are found without comparing every pair, and none is missed: two sets that share enough also share one of
their rarest members (Bayardo, Ma and Srikant 2007, https://doi.org/10.1145/1242572.1242591), so only those are looked
up. What is found is compared in full.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import xxhash

from .shingles import Commonness, ShingleSets, normalized, shingle_sets


# Texts that are shingled at once.
BLOCK = 2048
# Texts by which common shingles are told from rare ones.
SAMPLE = 10_000
# Pairs that are looked at at once.
_PAIRS = 4_000_000


def exact_duplicates(texts: Sequence[str]) -> list[list[int]]:
    """Positions of texts that are equal once normalised, a group each, in order of appearance.

    Example:

    ```python
    >>> exact_duplicates(["Is it flu?", "No.", "is it  FLU?"])
    [[0, 2]]

    ```
    """
    return [group for group in _groups([normalized(text) for text in texts]) if len(group) > 1]


def near_duplicates(texts: Sequence[str], threshold: float = 0.7) -> list[tuple[int, int, float]]:
    """Pairs of texts that share at least `threshold` of their shingles (runs of four words), the most alike first.

    Texts that are equal once normalised are left to [`exact_duplicates`].

    Example:

    ```python
    >>> near_duplicates(["a b c d e f g h", "a b c d e f g i", "something else altogether"], threshold=0.6)
    [(0, 1, 0.6666666666666666)]

    ```
    """
    groups = _groups([normalized(text) for text in texts])
    plain = [("", normalized(texts[group[0]])) for group in groups]
    index = PrefixIndex(threshold, Commonness.of(plain[:: max(1, len(plain) // SAMPLE)]))
    found = []
    for start in range(0, len(plain), BLOCK):
        sets = shingle_sets(plain[start : start + BLOCK], index.common)
        ids = np.arange(start, start + len(sets.sizes))
        index.add(ids, sets)
        for text, others in index.candidates(sets, ids):
            shares = index.similarities(sets[text], [other for other in others if other < ids[text]])
            for other, share, _ in shares:
                if share >= threshold:
                    pairs = itertools.product(groups[other], groups[ids[text]])
                    found += [(min(pair), max(pair), share) for pair in pairs]
    return sorted(found, key=lambda pair: (-pair[2], pair))


class PrefixIndex:
    """Sets of shingles, to be asked which of them may share enough with a new one.

    Args:
        threshold (`float`):
            Enough, as a Jaccard index.
        common ([`Commonness`]):
            Which shingles are rare. It has no influence on what is found.
    """

    def __init__(self, threshold: float, common: Commonness):
        self.threshold, self.common = threshold, common
        self.sets: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        # The rare shingles of all sets and whose they are, in a few sorted runs, each at least twice the next.
        self._runs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, ids: np.ndarray, sets: ShingleSets, texts: Sequence[int] | None = None) -> None:
        """Takes in some of `sets`, all by default; `ids` are their names, whole numbers."""
        texts = range(len(sets.sizes)) if texts is None else texts
        for name, text in zip(ids.tolist(), texts, strict=True):
            keys, of_answer = sets[text]
            self.sets[name] = keys.copy(), of_answer.copy()
        places, text = _rarest(sets, self.threshold)
        names = np.full(len(sets.sizes), -1)
        names[texts] = ids
        places, text = places[names[text] >= 0], text[names[text] >= 0]
        run = (sets.keys[places], names[text], sets.sizes[text])
        self._runs.append(_sorted_run(run))
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            last, before = self._runs.pop(), self._runs.pop()
            self._runs.append(_sorted_run(tuple(map(np.concatenate, zip(before, last, strict=True)))))

    def candidates(self, sets: ShingleSets, ids: np.ndarray) -> Iterator[tuple[int, list[int]]]:
        """For each of some sets that has any: its position in `sets`, and the names of others that may share enough.

        `ids` are the sets' own names, which are left out.
        """
        places, text = _rarest(sets, self.threshold)
        pairs = [np.zeros((0, 2), dtype=np.int64)]
        for keys, names, sizes in self._runs:
            left = np.searchsorted(keys, sets.keys[places], side="left")
            right = np.searchsorted(keys, sets.keys[places], side="right")
            pairs += _matches(text, left, right, names, sizes, sets.sizes, self.threshold)
        pairs = np.unique(np.concatenate(pairs), axis=0)
        pairs = pairs[ids[pairs[:, 0]] != pairs[:, 1]]
        texts, starts, counts = np.unique(pairs[:, 0], return_index=True, return_counts=True)
        for text, start, count in zip(texts.tolist(), starts, counts, strict=True):
            yield text, pairs[start : start + count, 1].tolist()

    def similarities(self, new: tuple[np.ndarray, np.ndarray], names: Sequence[int]) -> list[tuple[int, float, float]]:
        """Jaccard indices of a new set with sets that are here: of all shingles, and of those of the answers."""
        if not names:
            return []
        keys, of_answer = new
        others = [self.sets[name] for name in names]
        theirs = np.concatenate([other for other, _ in others])
        of_their_answers = np.concatenate([answer for _, answer in others])
        starts = np.cumsum([0, *(len(other) for other, _ in others[:-1])])
        places = np.minimum(np.searchsorted(keys, theirs), len(keys) - 1)
        shared = keys[places] == theirs
        jaccard = []
        for mine, theirs_here, both in (
            (len(keys), np.ones(len(theirs), dtype=bool), shared),
            (int(of_answer.sum()), of_their_answers, shared & of_their_answers & of_answer[places]),
        ):
            intersection = np.add.reduceat(both.astype(np.int64), starts)
            union = mine + np.add.reduceat(theirs_here.astype(np.int64), starts) - intersection
            jaccard.append(np.where(union, intersection / np.maximum(union, 1), 1.0).tolist())
        return list(zip(names, *jaccard, strict=True))


class Copies:
    """Which rows repeat one that was taken before them: the same text once normalised, or nearly the same.

    Nearly the same are two rows that share `max_similarity` of their shingles, and of their answers' shingles as well:
    rows with one long instruction and answers of their own are different rows.

    Args:
        read (`Callable`):
            Gives the prompts and answers of some rows.
        rows (`np.ndarray`):
            All rows that may be asked about.
        max_similarity (`float`):
            From this Jaccard index on a row is a copy; 1 leaves only rows that are equal once normalised.
    """

    def __init__(self, read: Callable[[np.ndarray], list[tuple[str, str]]], rows: np.ndarray, max_similarity: float):
        self._read, self._threshold, self._near = read, max_similarity, max_similarity < 1
        self._first: dict[bytes, int] = {}  # the row that was taken with a text
        self._digests: dict[int, bytes] = {}
        # Taken rows of the blocks before this one; of this one all texts that are new, named by their first rows.
        self._before = self._block = None
        self._sets: ShingleSets | None = None
        self._texts: dict[int, tuple[str, str]] = {}
        self._places: dict[tuple[str, str], int] = {}
        self._names: list[int] = []
        self._taken: dict[int, int] = {}
        if self._near:
            sample = rows[:: max(1, len(rows) // SAMPLE)]
            self._before = PrefixIndex(max_similarity, Commonness.of(self._normalized(sample)))

    def prepare(self, rows: np.ndarray) -> None:
        """Reads a block of rows, in the order in which they will be asked about."""
        texts = self._normalized(rows)
        self._digests = {row: _digest(text) for row, text in zip(rows.tolist(), texts, strict=True) if any(text)}
        if not self._near:
            return
        if self._taken:
            where = {name: place for place, name in enumerate(self._names)}
            places = [where[name] for name in self._taken]
            self._before.add(np.array(list(self._taken.values())), self._sets, places)
        self._texts = dict(zip(rows.tolist(), texts, strict=True))
        self._taken, self._places, self._names = {}, {}, []
        for row, text in self._texts.items():
            digest = self._digests.get(row)
            if digest and digest not in self._first and text not in self._places:
                self._places[text] = len(self._names)
                self._names.append(row)
        self._sets = shingle_sets(list(self._places), self._before.common)
        names = np.array(self._names, dtype=np.int64)
        self._block = PrefixIndex(self._threshold, self._before.common)
        self._block.add(names, self._sets)
        self._candidates = [dict(index.candidates(self._sets, names)) for index in (self._before, self._block)]

    def of(self, row: int) -> int | None:
        """The taken row that a row repeats: an equal one, or the one that is most alike."""
        digest = self._digests.get(row)
        if digest in self._first:
            return self._first[digest]
        if not self._near or digest is None:
            return None
        place = self._places[self._texts[row]]
        before, beside = (candidates.get(place, []) for candidates in self._candidates)
        found = self._before.similarities(self._sets[place], before)
        beside = self._block.similarities(self._sets[place], [name for name in beside if name in self._taken])
        found += [(self._taken[name], *shares) for name, *shares in beside]
        copies = [(share, other) for other, share, answers in found if min(share, answers) >= self._threshold]
        return max(copies)[1] if copies else None

    def take(self, row: int) -> None:
        """Takes a row, so that later ones may be copies of it."""
        if (digest := self._digests.get(row)) is None:
            return  # a row without a text
        self._first[digest] = row
        if self._near:
            self._taken[self._names[self._places[self._texts[row]]]] = row

    def _normalized(self, rows: np.ndarray) -> list[tuple[str, str]]:
        return [(normalized(prompt), normalized(answer)) for prompt, answer in self._read(rows)]


class KnownCopies:
    """As [`Copies`], where it is known which row each repeats: a copy is one of a row that was taken.

    Args:
        duplicate_of (`np.ndarray`):
            For each row the row that it repeats, -1 for none.
    """

    def __init__(self, duplicate_of: np.ndarray):
        self._duplicate_of, self._taken = duplicate_of.tolist(), set()

    def prepare(self, rows: np.ndarray) -> None:
        """Nothing is read."""

    def of(self, row: int) -> int | None:
        """The taken row that a row repeats."""
        other = self._duplicate_of[row]
        return other if other in self._taken else None

    def take(self, row: int) -> None:
        """Takes a row."""
        self._taken.add(row)


def _digest(text: tuple[str, str]) -> bytes:
    return xxhash.xxh3_128_digest(" ".join(filter(None, text)).encode(errors="surrogatepass"))


def _groups(plain: Sequence[str]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for position, text in enumerate(plain):
        groups.setdefault(text, []).append(position)
    return list(groups.values())


def _rarest(sets: ShingleSets, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Of each text the shingles of which another must have one to be as near as that; and whose they are."""
    sizes = sets.sizes
    # Without these a text has fewer than `threshold` of its shingles left. (1e-9: 0.7 times 10 is 7, not 7.000…1.)
    counts = sizes - np.ceil(threshold * sizes - 1e-9).astype(np.int64) + (sizes > 0)
    text = np.repeat(np.arange(len(sizes)), counts)
    inside = np.arange(len(text)) - np.repeat(np.cumsum(counts) - counts, counts)
    return sets.starts[text] + inside, text


def _sorted_run(run: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    order = np.argsort(run[0], kind="stable")
    return tuple(column[order] for column in run)


def _matches(text: np.ndarray, left: np.ndarray, right: np.ndarray, names, sizes, new_sizes, threshold) -> list:
    """Pairs of a new text and a name whose rare shingle it shares, as far as their sizes allow them to be near."""
    found = []
    met = np.flatnonzero(right > left)
    pieces = np.cumsum(right[met] - left[met]) // _PAIRS
    for piece in np.split(met, np.flatnonzero(np.diff(pieces)) + 1):
        counts = right[piece] - left[piece]
        new = np.repeat(text[piece], counts)
        place = np.repeat(left[piece] - np.cumsum(counts) + counts, counts) + np.arange(len(new))
        mine, theirs = new_sizes[new], sizes[place]
        fits = np.minimum(mine, theirs) >= threshold * np.maximum(mine, theirs) - 1e-9
        found.append(np.unique(np.stack([new[fits], names[place[fits]]], axis=1), axis=0))
    return found
