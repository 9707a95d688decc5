"""What each row would train on, for people to look at: its tokens, which of them count, what was cut and refused."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ..columns import with_class_names
from .encoded import IGNORE_INDEX, RowError
from .formats import RowEncoder
from .messages import readable


# Of so many bytes at most a character consists, and each may be a token.
_LONGEST_CHARACTER = 8


class Piece(NamedTuple):
    """A token as text, or the few that are one character.

    Args:
        text (`str`):
            What it says.
        trained (`bool`):
            Whether its loss counts.
        special (`bool`):
            Whether it is one of the tokenizer's special tokens.
    """

    text: str
    trained: bool
    special: bool


@dataclass(frozen=True)
class RowView:
    """One row as a trainer would take it.

    Args:
        index (`int`):
            Its number.
        problem (`str`, *optional*):
            Why it would be refused.
        roles (`tuple[str, ...]`, *optional*):
            Who speaks, in order; of plain rows the columns.
        input_ids (`np.ndarray`, *optional*):
            The tokens that are left.
        trained (`np.ndarray`, *optional*):
            Whether each of them is trained.
        num_cut (`int`, *optional*, defaults to 0):
            Tokens that are beyond `max_length`.
        num_trained_cut (`int`, *optional*, defaults to 0):
            Those among them that would have been trained.
    """

    index: int
    problem: str | None = None
    roles: tuple[str, ...] = ()
    input_ids: np.ndarray | None = None
    trained: np.ndarray | None = None
    num_cut: int = 0
    num_trained_cut: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens that are left."""
        return 0 if self.input_ids is None else len(self.input_ids)

    @property
    def num_trained(self) -> int:
        """Tokens that are trained; the first has nothing before it and never counts."""
        return 0 if self.trained is None else int(self.trained[1:].sum())


def views(dataset: Any, encoder: RowEncoder, rows: Iterable[int]) -> Iterator[RowView]:
    """Some rows of a dataset, whether they can be trained on or not."""
    known, whole = {*encoder.columns, "image", "images"}, replace(encoder, max_length=None)
    names = [name for name in dataset.column_names if name in known] or dataset.column_names
    dataset = dataset.select_columns(names).with_format(None)
    for index in map(int, rows):
        yield _view(with_class_names(dataset[index], dataset.features, encoder.of_template), index, encoder, whole)


def _view(row: Mapping, index: int, encoder: RowEncoder, whole: RowEncoder) -> RowView:
    roles: tuple[str, ...] = ()
    try:
        roles = _roles(row, encoder)
        every = whole(row)
        left = encoder.truncated(every.input_ids, every.labels)
    except RowError as error:
        return RowView(index, str(error), roles)
    trained = left.labels != IGNORE_INDEX
    trained_cut = int((every.labels != IGNORE_INDEX).sum() - trained.sum())
    return RowView(index, None, roles, left.input_ids, trained, len(every) - len(left), trained_cut)


def pieces(seen: RowView, tokenizer: Any) -> list[Piece]:
    """A row's tokens as texts, which together are the text of all."""
    ids, special = seen.input_ids.tolist(), set(tokenizer.all_special_ids)
    decode = lambda part: tokenizer.decode(part, skip_special_tokens=False)  # noqa: E731
    found, before, start = [], [], 0
    for end in range(1, len(ids) + 1):
        part = ids[start:end]
        ends_here = end == len(ids) or seen.trained[end] != seen.trained[start] or len(part) == _LONGEST_CHARACTER
        # Beside the token before it, since some decoders drop the space at a text's beginning.
        text = decode([*before, *part])[len(decode(before)) :] if before else decode(part)
        if text.endswith("\ufffd") and not ends_here:
            continue
        found.append(Piece(text, bool(seen.trained[start]), ids[start] in special))
        before, start = part, end
    return found


@dataclass(frozen=True)
class Overview:
    """Many rows in numbers.

    Args:
        lengths (`np.ndarray`):
            Tokens of each row that can be trained on, as they are left.
        trained (`np.ndarray`):
            Tokens of each that are trained.
        num_cut (`int`):
            Rows that are cut.
        roles (`dict[tuple[str, ...], int]`):
            How many rows have which roles, the most first.
        problems (`dict[str, list[int]]`):
            Which rows would be refused for which reason, numbers in reasons left out.
    """

    lengths: np.ndarray
    trained: np.ndarray
    num_cut: int
    roles: Mapping[tuple[str, ...], int]
    problems: Mapping[str, Sequence[int]]

    @classmethod
    def of(cls, seen: Iterable[RowView]) -> "Overview":
        """Counts rows."""
        lengths, trained, cut, roles, problems = [], [], 0, Counter(), {}
        for row in seen:
            if row.problem is not None:
                problems.setdefault(re.sub(r"(?<![\[\w])\d+", "…", row.problem), []).append(row.index)
                continue
            lengths.append(row.num_tokens)
            trained.append(row.num_trained)
            cut += row.num_cut > 0
            roles[_folded(row.roles)] += 1
        by_count = dict(sorted(problems.items(), key=lambda reason: -len(reason[1])))
        return cls(
            np.array(lengths, dtype=int), np.array(trained, dtype=int), cut, dict(roles.most_common()), by_count
        )


def _roles(row: Mapping, encoder: RowEncoder) -> tuple[str, ...]:
    row = readable(encoder.shaped(row))
    if "input_ids" in row:
        return ("input_ids",)
    if "prompt" in row:
        parts = [row["prompt"], row.get("completion") or []]
        if not all(isinstance(part, list) for part in parts):
            return ("prompt", "completion")
    else:
        parts = [row.get("messages") or []]
    said = tuple(
        str(message.get("role"))
        for part in parts
        if isinstance(part, list)
        for message in part
        if isinstance(message, Mapping)
    )
    return said or (encoder.dataset_text_field,)


def _folded(roles: tuple[str, ...]) -> tuple[str, ...]:
    """Turns that repeat are one kind of row, however often."""
    turn = roles[-2:]
    while len(turn) == 2 and turn[0] != turn[1] and roles[-4:-2] == turn:
        roles = roles[:-2]
    return roles
