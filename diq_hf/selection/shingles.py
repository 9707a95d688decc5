"""Texts as sets of shingles: hashed runs of four words, sorted so that the rarest come first."""

import itertools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash


# A word, or one character of the scripts that write no spaces between words.
TOKEN = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")
SHINGLE = 4
# Any odd number: it makes the order of words count.
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
# A shingle is 48 bits of its hash, below 16 bits that say how common it is.
_HASH_BITS = np.uint64(48)
_MOST_COMMON = 2**16 - 1
# Of a text only so many characters are read to learn what is common; words that are hashed at once.
_COUNTED = 2000
_AT_ONCE = 1_000_000


def normalized(text: str) -> str:
    """A text without what makes no difference to a reader: case, runs of white space, forms of the same character."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass(frozen=True)
class Commonness:
    """How often shingles are met: those of some texts that are met more than once.

    Args:
        hashes (`np.ndarray`):
            Of the shingles, sorted.
        counts (`np.ndarray`):
            In how many texts each is found, less one.
    """

    hashes: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[tuple[str, str]]) -> "Commonness":
        """Counts the shingles of some texts."""
        texts = [(prompt[:_COUNTED], answer[-_COUNTED:]) for prompt, answer in texts]
        hashes, counts = np.unique(shingle_sets(texts).keys, return_counts=True)
        return cls(hashes[counts > 1], np.minimum(counts[counts > 1] - 1, _MOST_COMMON).astype(np.uint64))

    def keys(self, hashes: np.ndarray) -> np.ndarray:
        """Hashes with their commonness in front, so that sorting puts the rarest first."""
        if not len(self.hashes):
            return hashes
        places = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        counts = np.where(self.hashes[places] == hashes, self.counts[places], np.uint64(0))
        return counts << _HASH_BITS | hashes


NOTHING_KNOWN = Commonness(np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.uint64))


@dataclass(frozen=True)
class ShingleSets:
    """The shingles of several texts, one text after the other.

    Args:
        keys (`np.ndarray`):
            Of each text its different shingles, sorted.
        of_answer (`np.ndarray`):
            Whether a shingle holds a word of the answer.
        starts (`np.ndarray`):
            Where each text begins, and the end of the last.
    """

    keys: np.ndarray
    of_answer: np.ndarray
    starts: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Shingles of each text."""
        return np.diff(self.starts)

    def __getitem__(self, text: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(self.starts[text], self.starts[text + 1])
        return self.keys[part], self.of_answer[part]


def shingle_sets(texts: Sequence[tuple[str, str]], common: Commonness = NOTHING_KNOWN) -> ShingleSets:
    """The shingles of texts, each a prompt and an answer, both normalised.

    A text of fewer than four words is one shingle, and one without a word none.
    """
    parts, words, prompts, waiting = [], [], [], 0
    for prompt, answer in texts:
        of_prompt = TOKEN.findall(prompt)
        both = of_prompt + TOKEN.findall(answer)
        words.append(both + [""] * (SHINGLE - len(both)) if both else both)
        prompts.append(len(of_prompt))
        waiting += len(both)
        if waiting > _AT_ONCE:
            parts.append(_hashed(words, prompts, common))
            words, prompts, waiting = [], [], 0
    parts.append(_hashed(words, prompts, common))
    keys, of_answer, sizes = map(np.concatenate, zip(*parts, strict=True))
    return ShingleSets(keys, of_answer, np.concatenate([[0], np.cumsum(sizes)]))


def _hashed(
    texts: list[list[str]], prompts: list[int], common: Commonness
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of texts in words, of which so many are the prompt's: keys and whose they are, text after text, and sizes."""
    flat = list(itertools.chain.from_iterable(texts))
    vocabulary = {word: xxhash.xxh3_64_intdigest(word.encode(errors="surrogatepass")) for word in set(flat)}
    words = np.fromiter(map(vocabulary.__getitem__, flat), dtype=np.uint64, count=len(flat))
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    text = np.repeat(np.arange(len(texts)), lengths)
    place = np.arange(len(words)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    begins = np.flatnonzero(place <= np.repeat(lengths, lengths) - SHINGLE)

    hashes = np.zeros(len(begins), dtype=np.uint64)
    for step in range(SHINGLE):
        hashes = hashes * _FACTOR + words[begins + step]  # modulo 2**64
    hashes ^= hashes >> np.uint64(32)
    keys = common.keys(hashes * _FACTOR >> np.uint64(16))
    text = text[begins]
    of_answer = place[begins] > np.array(prompts, dtype=np.int64)[text] - SHINGLE

    order = np.lexsort((keys, text))
    keys, text, of_answer = keys[order], text[order], of_answer[order]
    first = np.ones(len(keys), dtype=bool)
    first[1:] = (keys[1:] != keys[:-1]) | (text[1:] != text[:-1])
    firsts = np.flatnonzero(first)
    if len(firsts):
        of_answer = np.logical_or.reduceat(of_answer, firsts)
    return keys[firsts], of_answer, np.bincount(text[firsts], minlength=len(texts))
