"""Columns of any names as rows to train on: format strings over them."""

import functools
import logging
import re
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..columns import with_class_names
from .encoded import RowError
from .messages import plain


logger = logging.getLogger(__name__)

# Columns of known formats, which would be read before what a template makes.
_BEFORE = ("input_ids", "labels", "completion_mask", "assistant_masks", "messages", "conversations", "chosen")


@dataclass(frozen=True)
class ColumnTemplate:
    """Makes rows with `prompt` and `completion` of a dataset's columns.

    A column's name in braces stands for what the row has there: `{Question}`, of a nested one `{options[A]}` or
    `{answers[0]}`, of a list of texts all of them, a line each, `{contexts[*]}`. `{input?}` may be null or empty, any
    other may not. White space at the ends is cut off, and a system message that turns out empty is left out. Braces
    themselves are doubled.

    Args:
        prompt (`str`, *optional*):
            What the user says.
        completion (`str`, *optional*):
            What the model is trained to answer; where levels alone are wanted it may be missing.
        system (`str`, *optional*):
            The system message.
        messages (`str`, *optional*):
            Instead of prompt and completion: a column of whole conversations (`role`/`content` or ShareGPT's
            `from`/`value`).
        chat (`bool`, *optional*, defaults to `True`):
            Rows are conversations, for the model's chat template. `False` makes plain strings, for models that have
            none.

    Raises:
        `ValueError`: A format string cannot be read, or the parts do not go together.

    Example:

    ```python
    >>> template = ColumnTemplate("{question}", "{reason?}\\n\\n{answer}", chat=False)
    >>> template({"question": "Is it flu?", "reason": None, "answer": "No.", "id": 3})
    {'prompt': 'Is it flu?', 'completion': 'No.'}

    ```
    """

    prompt: str | None = None
    completion: str | None = None
    system: str | None = None
    messages: str | None = None
    chat: bool = True

    def __post_init__(self):
        if self.messages is not None:
            if self.prompt is not None or self.completion is not None:
                raise ValueError("A template has either `messages`, or `prompt` and `completion`.")
            if not self.chat:
                raise ValueError("`messages` are conversations; `chat=False` goes with `prompt` and `completion`.")
        elif self.prompt is None:
            raise ValueError("A template needs `prompt=`: a format string over columns, such as '{question}'.")
        if self.system is not None and not self.chat:
            raise ValueError("Plain text has no system message: write it into `prompt=`, or leave out `chat=False`.")
        for name in ("prompt", "completion", "system"):
            if getattr(self, name) is not None and not _fields(getattr(self, name), name) and name != "system":
                raise ValueError(f"`{name}={getattr(self, name)!r}` names no column: write one in braces, {{column}}.")

    @property
    def _parts(self) -> dict[str, tuple[tuple[str, str | None], ...]]:
        """Of each format string its pieces: text, and what stands after it."""
        given = {name: getattr(self, name) for name in ("system", "prompt", "completion")}
        return {name: _pieces(text, name) for name, text in given.items() if text is not None}

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that it reads."""
        return tuple(dict.fromkeys(name for name, _ in self._named()))

    @property
    def needed(self) -> tuple[str, ...]:
        """Those without which no row can be read."""
        return tuple(dict.fromkeys(name for name, optional in self._named() if not optional))

    @property
    def settings(self) -> dict[str, Any]:
        """What it is made of, as a recipe holds it."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __call__(self, row: Mapping) -> dict[str, Any]:
        """One row, for `ds.map(template)`.

        Raises:
            [`RowError`]: A column is not there, null or empty, or holds something other than text or numbers.
        """
        said = {name: self._said(name, row) for name in self._parts}
        system = [{"role": "system", "content": said["system"]}] if said.get("system") else []
        if self.messages is not None:
            turns = plain(_column(row, self.messages))
            if not isinstance(turns, list) or not turns or not isinstance(turns[0], Mapping):
                raise RowError(f"its column {self.messages!r} holds {_kind(turns)}, not a list of messages.")
            sharegpt = "from" in turns[0]
            if system and sharegpt:
                system = [{"from": "system", "value": said["system"]}]
            return {"conversations" if sharegpt else "messages": [*system, *turns]}
        if not self.chat:
            return {name: said[name] for name in ("prompt", "completion") if name in said}
        made = {"prompt": [*system, {"role": "user", "content": said["prompt"]}]}
        if "completion" in said:
            made["completion"] = [{"role": "assistant", "content": said["completion"]}]
        return made

    def apply(self, dataset: Any, on_bad_row: str = "raise") -> Any:
        """A dataset in these rows: what the template reads, and columns of other formats, are replaced by them.

        Args:
            dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
                The dataset. Of a stream rows are made as they are read, and its columns looked up in its first row
                where it does not name them.
            on_bad_row (`str`, *optional*, defaults to `"raise"`):
                `"raise"`, or `"skip"` for nulls where a row cannot be read, so that it will not be scored.

        Raises:
            [`RowError`]: A row cannot be read; the error names it.
            `ValueError`: A column is missing, or a stream that does not name its columns has no rows.
        """
        from datasets import IterableDataset

        streamed = isinstance(dataset, IterableDataset)
        rows = dataset.with_format(None)
        if streamed and dataset.features is not None:
            rows = rows.decode(False)  # or every picture beside the texts is opened
        present = dataset.column_names or list(next(iter(rows), {}))
        if streamed and not present:
            raise ValueError(
                "The stream has no rows, so no columns either. Look at what it reads, and at its filters."
            )
        self.check_columns(present)
        if not streamed and (whole := self.whole_floats(dataset)):
            logger.warning(whole_words(whole, dataset))
        gone = dict.fromkeys((*self.columns, *_BEFORE, "prompt", "completion"))
        # A stream's later rows may have columns that its first has not.
        how = {} if streamed else {"desc": "Columns to rows"}
        return rows.map(
            functools.partial(_applied, template=self, skip=on_bad_row == "skip", features=dataset.features),
            with_indices=True,
            remove_columns=[name for name in gone if streamed or name in present],
            features=self._features(dataset.features, gone),
            **how,
        )

    def _features(self, of_columns: Any, gone: Mapping) -> Any:
        """Types of the rows, where those of the columns are known."""
        from datasets import Features, List, Value

        if self.messages is not None or of_columns is None:
            return None
        text = Value("string")
        made = List({"role": text, "content": text}) if self.chat else text
        names = ["prompt", *(["completion"] if self.completion is not None else [])]
        return Features(
            {name: kind for name, kind in of_columns.items() if name not in gone} | dict.fromkeys(names, made)
        )

    def reads(self, columns: Any) -> bool:
        """Whether all columns are there that it needs."""
        return all(name in columns for name in self.needed or self.columns)

    def check_columns(self, present: Any) -> None:
        """Refuses a dataset that lacks a column.

        Raises:
            `ValueError`: The error names the missing ones, those that are there, and the nearest by name.
        """
        if missing := [name for name in self.needed if name not in present]:
            near = {name.casefold(): name for name in present}
            meant = [near[name.casefold()] for name in missing if name.casefold() in near]
            hint = f" Upper and lower case count: {meant[0]!r} is there." if meant else ""
            raise ValueError(
                f"The template reads {missing}, which the dataset does not have; it has {sorted(present)}.{hint}"
            )

    def whole_floats(self, dataset: Any) -> list[str]:
        """Columns that it would print as 1.0 or 2.0: numbers with a fraction by type alone, as whole numbers become in
        a table where some are missing."""
        features = dataset.features or {}
        kinds = {name: getattr(features.get(name), "dtype", "") for name in self.columns if self.messages is None}
        found = []
        for name in (name for name, kind in kinds.items() if str(kind).startswith("float")):
            values = [value for value in dataset.with_format(None)[name][:] if value is not None and value == value]
            if values and all(float(value).is_integer() for value in values):
                found.append(name)
        return found

    def _named(self) -> list[tuple[str, bool]]:
        named = [] if self.messages is None else [(self.messages, False)]
        for pieces in self._parts.values():
            named += [(_name(field), field.endswith("?")) for _, field in pieces if field is not None]
        return named

    def _said(self, part: str, row: Mapping) -> str:
        text = "".join(before + ("" if field is None else _value(row, field)) for before, field in self._parts[part])
        return text.strip()


def _applied(row: Mapping, index: int, template: ColumnTemplate, skip: bool, features: Any) -> dict[str, Any]:
    try:
        return template(with_class_names(row, features, template.columns))
    except RowError as error:
        if not skip:
            raise RowError(f"Row {index}: {error}") from error
        logger.warning(f"Not read: row {index}: {error}")
        return {"messages": None} if template.messages is not None else {"prompt": None, "completion": None}


def whole_words(names: list[str], dataset: Any) -> str:
    """What is said of [`~ColumnTemplate.whole_floats`]."""
    rows = dataset.with_format(None)
    shown = next(value for value in rows[names[0]][:] if value is not None and value == value)
    return (
        f"Column {names[0]!r} holds whole numbers as floats, and the template writes {str(shown)!r}: whole numbers of "
        "a CSV file or a pandas table become floats where one is missing. If you mean integers, "
        f"`ds.cast_column({names[0]!r}, Value('int64'))`, or save the rows as JSON lines with integers."
    )


@functools.cache
def _pieces(text: str, part: str) -> tuple[tuple[str, str | None], ...]:
    try:
        pieces = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(
            f"`{part}={text!r}` is no format string: {error}. A brace that is text is doubled: {{{{ }}}}."
        ) from error
    for _, field, spec, conversion in pieces:
        if spec or conversion:
            raise ValueError(
                f"`{part}={text!r}`: {{{field}}} takes a column's name alone, without {spec or conversion!r}."
            )
        if field is not None and not field.removesuffix("?"):
            raise ValueError(f"`{part}={text!r}` has braces without a column's name: write {{column}}.")
    return tuple((before, field) for before, field, _, _ in pieces)


def _fields(text: str, part: str) -> list[str]:
    return [field for _, field in _pieces(text, part) if field is not None]


_KEYS = re.compile(r"\[([^\[\]]+)\]")


def _name(field: str) -> str:
    return field.removesuffix("?").partition("[")[0]


def _value(row: Mapping, field: str) -> str:
    """What a row has for a field, as text."""
    name, shown = _name(field), f"column {_name(field)!r}"
    value = _column(row, name, optional=field.endswith("?"))
    for key in _KEYS.findall(field.removesuffix("?")[len(name) :]):
        value, shown = _part(value, key, shown), f"{shown[:-1]}[{key}]'"
    if value is None or value != value:  # a table's missing number
        text = ""
    elif isinstance(value, str | int | float):
        text = str(value)
    else:
        raise RowError(
            f"its {shown} holds {_kind(value)}, and a template takes text or numbers."
            f"{_inside(value, field.removesuffix('?'))}"
        )
    if not text.strip() and not field.endswith("?"):
        found = "empty" if isinstance(value, str) else "null"
        raise RowError(f"its {shown} is {found}. Fill it in, or write {{{field}?}} where it may be missing.")
    return text


def _column(row: Mapping, name: str, optional: bool = False) -> Any:
    if name not in row:
        if optional:
            return None
        raise RowError(f"it has no column {name!r}; it has {sorted(row)}.")
    return plain(row[name])


def _part(value: Any, key: str, shown: str) -> Any:
    if isinstance(value, Mapping):
        if key not in value:
            raise RowError(f"its {shown} has no {key!r}; it has {sorted(value)}.")
        return value[key]
    if isinstance(value, list):
        if key == "*":
            return _lines(value, shown)
        if not key.isdigit() or int(key) >= len(value):
            raise RowError(f"its {shown} is a list of {len(value)}, and has no {key!r}.")
        return value[int(key)]
    raise RowError(f"its {shown} holds {_kind(value)}, which has no parts such as {key!r}.")


def _lines(texts: list, shown: str) -> str:
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise RowError(f"its {shown} is a list with {_kind(wrong[0])} in it, and `[*]` takes texts alone.")
    return "\n".join(texts)


def _kind(value: Any) -> str:
    if hasattr(value, "getbands") or (isinstance(value, Mapping) and {"bytes", "path"} <= set(value)):
        return "an image or another file"
    if isinstance(value, Mapping):
        return f"a struct of {sorted(value)}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "null" if value is None else f"a {type(value).__name__}"


def _inside(value: Any, name: str) -> str:
    if isinstance(value, Mapping) and value and not {"bytes", "path"} <= set(value):
        return f" Name a part of it: {{{name}[{next(iter(value))}]}}."
    if not isinstance(value, list) or not value:
        return ""
    every = f", or all of them, a line each: {{{name}[*]}}" if all(isinstance(part, str) for part in value) else ""
    return f" Name one of them: {{{name}[0]}}{every}."
