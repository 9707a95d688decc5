"""Levels of difficulty: whole numbers from 1 (easiest) to 5 (hardest)."""

import re
from typing import Any


NUM_LEVELS = 5


def as_level(value: Any) -> int | None:
    """The level that a value is, `None` if it is none.

    2, 2.0 and "2" are the same level, however a file or a judge writes it. Nothing is rounded or guessed: 2.5, "2/5",
    "two" and `True` are no levels.

    Example:

    ```python
    >>> as_level(2), as_level(2.0), as_level(" 2 "), as_level("2.0")
    (2, 2, 2, 2)
    >>> as_level(2.5), as_level(6), as_level("two"), as_level(True)
    (None, None, None, None)

    ```
    """
    if isinstance(value, str):
        if not re.fullmatch(r"\s*[0-9](\.0+)?\s*", value):
            return None
        value = float(value)
    elif isinstance(value, bool) or not hasattr(value, "__float__"):
        return None
    return int(value) if value in range(1, NUM_LEVELS + 1) else None
