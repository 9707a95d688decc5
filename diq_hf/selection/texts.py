"""What a row says, in any format, as plain text. No tokenizer: this is for telling rows apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


# Columns that hold a row's prompt, and beside it the answer; of a row the first that is there counts.
FORMATS = (
    ("prompt", ("completion", "chosen")),
    ("messages", ()),
    ("conversations", ()),
    ("text", ()),
    ("input_ids", ()),
)
# Says how to answer, not what; the same for many rows.
_SYSTEM = ("system", "developer")


class RowTexts:
    """Prompts and answers of rows.

    Args:
        scored ([`~datasets.Dataset`]):
            The rows.
        columns (`Sequence[str]`, *optional*):
            Columns that make up a row's text, the last of them its answer. By default the first of `prompt` with
            `completion` or `chosen`, `messages`, `conversations`, `text` and `input_ids` that a row has; of a
            conversation the last message is the answer, and system messages do not count.

    Raises:
        `ValueError`: A column is missing.
    """

    def __init__(self, scored: Any, columns: Sequence[str] | None = None):
        present = scored.column_names
        if columns is not None:
            if isinstance(columns, str):
                raise TypeError(f"`text_columns` is a list of columns: `[{columns!r}]`.")
            if not columns or (missing := [name for name in columns if name not in present]):
                raise ValueError(f"The dataset has no text column {missing if columns else []}; it has {present}.")
        self.chosen = None if columns is None else list(columns)
        known = [name for first, beside in FORMATS for name in (first, *beside)]
        self.columns = self.chosen or [name for name in known if name in present]
        self._rows = scored.select_columns(self.columns).with_format(None) if self.columns else None

    def __call__(self, rows: np.ndarray) -> list[tuple[str, str]]:
        """Prompt and answer of each row; what cannot be told apart is all answer."""
        if not self.columns:
            raise ValueError(
                "Texts are compared, and no column is known to hold any. Name them: `text_columns=[...]`."
            )
        columns = self._rows[rows.tolist()]
        return [self._of(dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]

    def _of(self, row: Mapping[str, Any]) -> tuple[str, str]:
        if self.chosen is not None:
            *prompt, answer = (said(row[name]) for name in self.chosen)
            return "\n".join(filter(None, prompt)), answer
        for first, beside in FORMATS:
            value = row.get(first)
            if value is None:
                continue
            answers = [row[name] for name in beside if row.get(name) is not None]
            if answers:
                return said(value), said(answers[0])
            if first in ("messages", "conversations") and len(value) > 1:
                return said(value[:-1]), said(value[-1])
            return "", said(value)
        return "", ""


def said(value: Any) -> str:
    """All the words of a value: of messages what they say, without roles and without system messages.

    Example:

    ```python
    >>> said([{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"text": "Hi"}]}])
    'Hi'

    ```
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        role = value.get("role", value.get("from"))
        if isinstance(role, str) and role.lower() in _SYSTEM:
            return ""
        return " ".join(filter(None, (said(part) for name, part in value.items() if name not in _MARKS)))
    if isinstance(value, list | tuple):
        return " ".join(filter(None, map(said, value)))
    return "" if value is None else str(value)


_MARKS = ("role", "from", "type", "id", "tool_call_id")
