"""A dataset whose columns are no known format: what it looks like, and which template would read it."""

from collections.abc import Iterable, Mapping
from typing import Any

from .encoded import RowError
from .presets import PRESETS


ACCEPTED = (
    "`messages`, `prompt` + `completion`, `conversations` (from/value), a text column or pre-tokenized `input_ids`"
)
# What people call a question and its answer; the likelier names first.
QUESTIONS = ("question", "prompt", "instruction", "problem", "query", "input", "user", "title")
ANSWERS = ("answer", "response", "completion", "output", "solution", "reply", "assistant", "target", "long_answer")
_SHOWN, _SHOWN_COLUMNS = 60, 8


def unknown_shape(columns: Iterable[str], row: Mapping | None = None) -> str:
    """Says that columns are no known format: which they are, how the first row begins, and what would read them.

    Args:
        columns (`Iterable[str]`):
            Names of the dataset's columns.
        row (`Mapping`, *optional*):
            Its first row.

    Example:

    ```python
    >>> fitting = unknown_shape(["Question", "Response"], {"Question": "Is it flu?", "Response": "No."})
    >>> fitting.partition("Read them with ")[2]
    "`columns=ColumnTemplate('{Question}', '{Response}')`."

    ```
    """
    names = sorted(columns)
    said = f"The columns {names} are no known format."
    if row:
        shown = ", ".join(f"{name}: {cut_short(row[name])}" for name in list(row)[:_SHOWN_COLUMNS])
        said += f" The first row: {shown}{', …' if len(row) > _SHOWN_COLUMNS else ''}."
    fitting = fitting_template(names)
    if fitting is None:
        return f"{said} Use {ACCEPTED}, or say what is what: `columns=ColumnTemplate('{{a_column}}', '{{another}}')`."
    return f"{said} Read them with `columns={fitting}`."


def check_shape(dataset: Any, text_field: str = "text", answers: bool = True) -> None:
    """Refuses a dataset whose columns are no known format, before anything is computed.

    Args:
        dataset ([`~datasets.Dataset`]):
            The dataset.
        text_field (`str`, *optional*, defaults to `"text"`):
            Column of plain text rows.
        answers (`bool`, *optional*, defaults to `True`):
            Whether a `prompt` alone is not enough.

    Raises:
        `ValueError`: The error says what is there and what would read it.
    """
    names = set(dataset.column_names)
    whole = names & {"input_ids", "messages", "conversations", "chosen", text_field}
    if not whole and not ("prompt" in names and ("completion" in names or not answers)):
        raise ValueError(unknown_shape(names, dataset.with_format(None)[0] if len(dataset) else None))


def unknown_row(row: Mapping, text_field: str) -> RowError:
    """What to say of a row that is of no known format."""
    if "chosen" in row:
        return RowError(
            "it is a preference row, and `SFTTrainer` trains on none. Make its prompt a column `prompt`, and its "
            "`chosen` answer a `completion`."
        )
    if "conversations" in row:
        return RowError("its `conversations` have no `from` and `value`. Rename the column to `messages`.")
    if not row:
        return RowError(f"all its columns are null. Use {ACCEPTED} (`dataset_text_field={text_field!r}`).")
    return RowError(unknown_shape(row, row).replace("The columns", "its columns", 1))


def fitting_template(columns: Iterable[str]) -> str | None:
    """The preset, or the template by the columns' names, that reads these columns, as `columns=` takes it."""
    names = list(columns)
    fits = [name for name, preset in PRESETS.items() if set(preset.needed) <= set(names)]
    if fits:  # the one that leaves the least unread
        return repr(max(fits, key=lambda name: len(set(PRESETS[name].columns) & set(names))))
    by_lower = {name.casefold(): name for name in names}
    found = [next((by_lower[name] for name in known if name in by_lower), None) for known in (QUESTIONS, ANSWERS)]
    return None if None in found else "ColumnTemplate({!r}, {!r})".format(*(f"{{{name}}}" for name in found))


def cut_short(value: Any, length: int = _SHOWN) -> str:
    """How a value begins."""
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 1]}…"
