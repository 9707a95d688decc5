"""Templates by name, for the shapes that datasets on the Hub have."""

from collections.abc import Mapping
from typing import Any

from .templates import ColumnTemplate


PRESETS = {
    "alpaca": ColumnTemplate("{instruction}\n\n{input?}", "{output}", "{system?}"),
    "dolly": ColumnTemplate("{instruction}\n\n{context?}", "{response}"),
    "medical-o1": ColumnTemplate("{Question}", "<think>{Complex_CoT}</think>\n\n{Response}"),
    "messages": ColumnTemplate(messages="messages"),
    "open-orca": ColumnTemplate("{question}", "{response}", "{system_prompt?}"),
    "problem-solution": ColumnTemplate("{problem}", "{solution}"),
    "prompt-response": ColumnTemplate("{prompt}", "{response}", "{system?}"),
    "question-answer": ColumnTemplate("{question}", "{answer}"),
    "sharegpt": ColumnTemplate(messages="conversations", system="{system?}"),
}


def column_template(value: Any) -> ColumnTemplate | None:
    """What a `columns=` argument stands for: a preset's name, a template, or a template's parts as a dict.

    Raises:
        `ValueError`: There is no such preset.
    """
    if value is None or isinstance(value, ColumnTemplate):
        return value
    if isinstance(value, str):
        if value not in PRESETS:
            raise ValueError(
                f"`columns={value!r}` is no preset. Choose from {', '.join(PRESETS)}, or write the template: "
                "`columns=ColumnTemplate('{question}', '{answer}')`."
            )
        return PRESETS[value]
    if isinstance(value, Mapping):
        known = list(ColumnTemplate.__dataclass_fields__)
        if unknown := [name for name in value if name not in known]:
            raise ValueError(f"`columns` has the part {unknown[0]!r}; the parts are {known}.")
        return ColumnTemplate(**value)
    raise TypeError(f"`columns` is a preset's name, a ColumnTemplate or its parts, not a {type(value).__name__}.")
