"""A dataset whose columns are no known format: what it looks like, and which template would read it."""

from collections.abc import Iterable, Mapping
from typing import Any

from .encoded import RowError
from .messages import speaker
from .presets import PRESETS
from .templates import ColumnTemplate


ACCEPTED = (
    "`messages`, `prompt` + `completion`, `conversations` (from/value), a text column or pre-tokenized `input_ids`"
)
# What people call a question and its answer; the likelier names first.
QUESTIONS = ("question", "prompt", "instruction", "problem", "query", "input", "user", "title")
ANSWERS = ("answer", "response", "completion", "output", "solution", "reply", "assistant", "target", "long_answer")
OPTIONS = ("options", "choices")
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
    fitting = fitting_template(names, row)
    if fitting is None and is_choice(names):
        return (
            f"{said} They are questions with options, which a prompt must hold: make rows of them with "
            "`ds.map(read_question)` (`from diq_hf.rows.benchmarks import read_question`), or validation rows with "
            "`diq validation --source TASK=DATASET`."
        )
    if fitting is None:
        return f"{said} Use {ACCEPTED}, or say what is what: `columns=ColumnTemplate('{{a_column}}', '{{another}}')`."
    return f"{said} Read them with `columns={fitting}`."


def check_shape(dataset: Any, text_field: str = "text", on_bad_row: str = "raise", named: str = "") -> None:
    """Refuses a dataset whose columns, or whose first row, are of no format that is trained on, before anything is
    computed: preference rows, prompts alone, columns of other names.

    Args:
        dataset ([`~datasets.Dataset`]):
            The dataset.
        text_field (`str`, *optional*, defaults to `"text"`):
            Column of plain text rows.
        on_bad_row (`str`, *optional*, defaults to `"raise"`):
            `"skip"` where the first row may be a bad one.
        named (`str`, *optional*):
            What the rows are called, `"Validation"` for instance.

    Raises:
        `ValueError`: The error says what is there and what would read it.
    """
    names, row = set(dataset.column_names), dataset.with_format(None)[0] if len(dataset) else {}
    whole = {"input_ids", "messages", "conversations", text_field}
    known = names & whole or {"prompt", "completion"} <= names
    if not known and "chosen" not in names:
        told = unknown_shape(names, row)
        raise ValueError(f"{named} rows: {told}" if named else told)
    row = {name: value for name, value in row.items() if value is not None}
    refusal = None
    if "prompt" in row and "input_ids" not in row:
        refusal = no_completion(row) if "completion" not in row else None
    elif not row.keys() & whole:
        refusal = unknown_row(row, text_field)
    if refusal is not None and (on_bad_row == "raise" or not known):
        raise RowError(f"{f'{named} row' if named else 'Row'} 0: {refusal}")


def no_completion(row: Mapping, template: ColumnTemplate | None = None) -> RowError:
    """What to say of a row that has a prompt alone."""
    remedy = ""
    if "messages" in row:
        remedy = (
            " To train on its `messages`, read them with `columns='messages'`, or remove the column `prompt`: "
            "`SFTTrainer` looks at it first."
        )
    elif "chosen" in row:
        remedy = chosen_remedy(row)
    elif template is not None and template.completion is None:
        remedy = " The template names none: add `completion=`, the answer of its columns."
    return RowError(f"it has a `prompt` but no `completion`.{remedy}")


def unknown_row(row: Mapping, text_field: str) -> RowError:
    """What to say of a row that is of no known format."""
    if "chosen" in row:
        return RowError(f"it is a preference row, and `SFTTrainer` trains on none.{chosen_remedy(row)}")
    if "conversations" in row:
        return RowError(_unknown_turns(row["conversations"]))
    if not row:
        return RowError(f"all its columns are null. Use {ACCEPTED} (`dataset_text_field={text_field!r}`).")
    return RowError(unknown_shape(row, row).replace("The columns", "its columns", 1))


def chosen_remedy(row: Mapping) -> str:
    """How to train on a preference row's `chosen` answer."""
    chosen, prompted = row["chosen"], "prompt" in row
    if isinstance(chosen, str) and prompted:
        return " To train on its `chosen` answer, read it with `columns=ColumnTemplate('{prompt}', '{chosen}')`."
    whole = isinstance(chosen, list) and chosen and speaker(chosen[0]) in ("system", "user")
    if whole:
        return " To train on its `chosen` answers, read them with `columns=ColumnTemplate(messages='chosen')`."
    apart = "" if prompted else "tell its prompt apart with `ds.map(trl.extract_prompt)` and "
    return f" To train on its `chosen` answer, {apart}rename that column to `completion`."


def _unknown_turns(turns: Any) -> str:
    if isinstance(turns, str):
        return (
            "its `conversations` is a string, and must be a list of turns: CSV holds no lists. Save the dataset as "
            "JSON lines or Parquet."
        )
    if isinstance(turns, list) and turns and isinstance(turns[0], str):
        return (
            "its `conversations` are strings without speakers. A question and its answer are read with "
            "`columns=ColumnTemplate('{conversations[0]}', '{conversations[1]}')`; of more turns make messages."
        )
    return (
        "its `conversations` have no `from` and `value`. Rename the column to `messages`, or read it with "
        "`columns='sharegpt'`."
    )


def is_choice(columns: Iterable[str]) -> bool:
    """Whether columns are a question's with its options, of which a question and an answer alone make no row."""
    names = {name.casefold() for name in columns}
    return bool(names & {"question", "problem"}) and bool(names & set(OPTIONS))


def fitting(columns: Iterable[str], row: Mapping | None = None) -> str | ColumnTemplate | None:
    """The preset's name, or the template by the columns' names, that reads these columns.

    Args:
        columns (`Iterable[str]`):
            The columns' names.
        row (`Mapping`, *optional*):
            A row, by which a column of conversations is told.
    """
    names, row = list(columns), row or {}
    by_lower = {name.casefold(): name for name in names}
    question, answer = (
        next((by_lower[name] for name in known if name in by_lower), None) for known in (QUESTIONS, ANSWERS)
    )
    if is_choice(names):  # and a question means nothing without them
        options = next(by_lower[name] for name in OPTIONS if name in by_lower)
        listed = answer is None or not isinstance(row.get(options), str)
        return None if listed else ColumnTemplate(f"{{{question}}}\n\n{{{options}}}", f"{{{answer}}}")
    fits = [name for name, preset in PRESETS.items() if set(preset.needed) <= set(names)]
    if fits:  # the one that leaves the least unread
        return max(fits, key=lambda name: len(set(PRESETS[name].columns) & set(names)))
    if said := [name for name, value in row.items() if _is_conversation(value)]:
        return ColumnTemplate(messages=said[0])
    return None if None in (question, answer) else ColumnTemplate(f"{{{question}}}", f"{{{answer}}}")


def fitting_template(columns: Iterable[str], row: Mapping | None = None) -> str | None:
    """As [`fitting`], the way that `columns=` is written."""
    found = fitting(columns, row)
    if not isinstance(found, ColumnTemplate):
        return None if found is None else repr(found)
    if found.messages is not None:
        return f"ColumnTemplate(messages={found.messages!r})"
    return f"ColumnTemplate({found.prompt!r}, {found.completion!r})"


def _is_conversation(value: Any) -> bool:
    turn = value[0] if isinstance(value, list) and value else None
    return isinstance(turn, Mapping) and ({"role", "content"} <= set(turn) or {"from", "value"} <= set(turn))


def cut_short(value: Any, length: int = _SHOWN) -> str:
    """How a value begins."""
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 1]}…"
