"""Rows of one dataset that stand in another: what a model is judged by, or steered by, must not be what it trains on.

The same text once case, white space and punctuation are away, nearly the same by the Jaccard index of their shingles,
or the same question with another answer. The pool passes in blocks, so only the other rows are kept.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .duplicates import BLOCK, SAMPLE, PrefixIndex
from .shingles import TOKEN, Commonness, ShingleSets, normalized, shingle_sets
from .texts import RowTexts


# A shingle is a template's, and tells no rows apart, if it is in so many texts and in such a share of them.
TEMPLATE_ROWS = 10
TEMPLATE_SHARE = 0.005
# What is no punctuation: words, and the signs by which 5 + 3 is not 5 - 3.
_BARE = re.compile(TOKEN.pattern + r"|[+^=<>×÷±]|(?<=[\d\s)])[-*/](?=\s?[\d(])")
# An option of multiple choice, which has a letter or a number of its own.
_OPTION = re.compile(r"\s*\(?(?:[A-Za-z]|\d)[.):]\s+\S")
_COUNT = np.uint64(48)  # how common a shingle is stands above so many bits of its key


@dataclass(frozen=True)
class Leak:
    """A row of the pool that says what a row of another dataset says.

    Args:
        pool_row (`int`):
            Its number in the pool.
        other_row (`int`):
            The other row's number.
        similarity (`float`):
            The Jaccard index of what is alike, of a row and of its answer the smaller; 1 if it is equal but for case,
            white space and punctuation.
        by (`str`):
            `"row"` if prompt and answer are alike, `"prompt"` if the question is, with another answer.
    """

    pool_row: int
    other_row: int
    similarity: float
    by: str


def find_leaks(
    pool: Any, others: Any, max_similarity: float = 0.7, text_columns: Sequence[str] | None = None
) -> list[Leak]:
    """Pairs of a pool's row and a row of another dataset that say the same or ask the same.

    A row's prompt and answer are found as `select_subset` finds them; system messages do not count, nor do passages
    that ten different texts and 0.5 % of all have in common: one instruction before many questions makes no leak. Of
    plain text no question can be told from its answer, so it leaks as a whole only. A question of multiple choice is
    compared without its options with questions that have none.

    Args:
        pool ([`~datasets.Dataset`]):
            What is trained on.
        others ([`~datasets.Dataset`]):
            Validation or held-out rows, in any format.
        max_similarity (`float`, *optional*, defaults to 0.7):
            From this Jaccard index of runs of four words on, rows are alike; 1 finds equal ones alone.
        text_columns (`Sequence[str]`, *optional*):
            Columns of a row's text in both, the answer last; by default by the rows' format.

    Returns:
        `list[Leak]`: By rows of the pool, then of the others.

    Raises:
        `ValueError`: `max_similarity` is no share, or no column is known to hold texts.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> pool = Dataset.from_list([{"prompt": "Is it flu?", "completion": "No."}])
    >>> find_leaks(pool, Dataset.from_list([{"prompt": "IS IT FLU", "completion": "Yes, it is."}]))
    [Leak(pool_row=0, other_row=0, similarity=1.0, by='prompt')]

    ```
    """
    return find_leaks_in([pool], pool, others, max_similarity, text_columns)


def find_leaks_in(
    parts: Iterable[Any],
    some: Any,
    others: Any,
    max_similarity: float = 0.7,
    text_columns: Sequence[str] | None = None,
) -> list[Leak]:
    """As [`find_leaks`], of a pool that comes in parts, one after another.

    Args:
        parts (`Iterable`):
            Its rows: datasets, numbered through.
        some ([`~datasets.Dataset`]):
            Rows of it, by which common passages are told.
        others ([`~datasets.Dataset`]):
            The other rows.
        max_similarity (`float`, *optional*, defaults to 0.7):
            See [`find_leaks`].
        text_columns (`Sequence[str]`, *optional*):
            See [`find_leaks`].
    """
    if not 0 < max_similarity <= 1:
        raise ValueError(f"`max_similarity` is {max_similarity}; it is a share in (0, 1], 1 for equal rows alone.")
    read = RowTexts(some, text_columns)
    raw = RowTexts(others, text_columns)(np.arange(len(others)))
    known, stems = _bare(raw), _bare(map(_stem, raw))
    sample = [*known, *_bare(read(np.arange(0, len(some), max(1, len(some) // SAMPLE))))] if len(some) else known
    whole = _Known(known, sample, max_similarity)
    asked = _Known([(prompt, "") for prompt, _ in known], [(prompt, "") for prompt, _ in sample], max_similarity)
    stemmed = _Known(stems, sample, max_similarity)
    leaks: list[Leak] = []
    start = 0
    for raw in _blocks(parts, text_columns):
        texts, of_choice = _bare(raw), _bare(map(_stem, raw))
        questions = [(prompt, "") for prompt, _ in texts]
        optionless = [("" if any(stem) else prompt, "") for (prompt, _), stem in zip(texts, of_choice, strict=True)]
        alike = [pair for pair in asked.alike(of_choice) if not any(stems[pair[1]])]
        alike += [*stemmed.alike(optionless), *asked.alike(questions)]
        found = {(row, other): (share, "prompt") for row, other, share in sorted(alike, key=lambda pair: pair[2])}
        found |= {(row, other): (share, "row") for row, other, share in whole.alike(texts)}
        leaks += [Leak(start + row, other, *found[row, other]) for row, other in sorted(found)]
        start += len(raw)
    return leaks


def _blocks(parts: Iterable[Any], text_columns: Sequence[str] | None) -> Iterator[list[tuple[str, str]]]:
    for part in parts:
        read = RowTexts(part, text_columns)
        for start in range(0, len(part), BLOCK):
            yield read(np.arange(start, min(start + BLOCK, len(part))))


class _Known:
    """Texts that must not be met again.

    Args:
        texts (`list`):
            Each a prompt and an answer in bare words.
        sample (`list`):
            Of all texts some, by which common shingles are told.
        threshold (`float`):
            From which share of its shingles on a text is met again.
    """

    def __init__(self, texts: list[tuple[str, str]], sample: list[tuple[str, str]], threshold: float):
        self._texts, self._threshold = texts, threshold
        self._equal: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            self._equal.setdefault(_joined(text), []).append(row)
        self._firsts = [rows[0] for text, rows in self._equal.items() if text]
        if threshold == 1:
            return
        sample = list(dict.fromkeys(text for text in sample if any(text)))
        self._template = np.uint64(max(TEMPLATE_ROWS, int(TEMPLATE_SHARE * len(sample)) + 1))
        self._index = PrefixIndex(threshold, Commonness.of(sample))
        self._index.add(np.array(self._firsts, dtype=np.int64), self._sets([texts[row] for row in self._firsts]))

    def alike(self, texts: list[tuple[str, str]]) -> list[tuple[int, int, float]]:
        """Each pair of a new text and a known row that are alike, with their similarity."""
        found = []
        near: dict[int, list[int]] = {}
        if self._threshold < 1:
            sets = self._sets(texts)
            near = dict(self._index.candidates(sets, len(self._texts) + np.arange(len(texts))))
        for i, text in enumerate(texts):
            equal = self._equal.get(_joined(text), []) if any(text) else []
            found += [(i, row, 1.0) for row in equal]
            for first, share, answers in self._index.similarities(sets[i], near[i]) if i in near else ():
                known = self._texts[first]
                if (
                    all(text) and all(known) and text[1] != known[1]
                ):  # rows with one long prompt and answers of their own are different rows
                    share = min(share, answers)
                if share >= self._threshold and first not in equal:
                    found += [(i, row, share) for row in self._equal[_joined(known)]]
        return found

    def _sets(self, texts: list[tuple[str, str]]) -> ShingleSets:
        """Shingles of texts, less those of templates."""
        sets = shingle_sets(texts, self._index.common)
        kept = sets.keys >> _COUNT < self._template - np.uint64(1)
        ends = np.concatenate([[0], np.cumsum(kept)])
        return ShingleSets(sets.keys[kept], sets.of_answer[kept], ends[sets.starts])


def _stem(text: tuple[str, str]) -> tuple[str, str]:
    """A question of multiple choice without the options at its end; empty of any other."""
    lines = [line for line in text[0].split("\n") if line.strip()]
    options = next((i for i, line in enumerate(reversed(lines)) if not _OPTION.match(line)), 0)
    return ("\n".join(lines[:-options]) if options > 1 else "", "")


def _bare(texts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Prompts and answers in words alone; a sign is spelled, or shingles would not see it."""
    return [(_spelled(prompt), _spelled(answer)) for prompt, answer in texts]


def _spelled(text: str) -> str:
    found = _BARE.findall(normalized(text))
    return " ".join(word if word[0].isalnum() or word[0] == "_" else f"sign{ord(word)}" for word in found)


def _joined(text: tuple[str, str]) -> str:
    return " ".join(filter(None, text))
