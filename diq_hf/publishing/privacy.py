"""What must not get out: tokens, and the folders of this machine."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote


# Where a path may begin: at the start, after a blank, a quote, a bracket or a sign that joins it to a name.
_BEGINS = r"(?:^|(?<=[\s=:,;|('\"`\[{]))"
_PATHS = re.compile(
    rf"{_BEGINS}(?:/(?=[\w.])|~[\w.-]*[/\\]|\.{{1,2}}[/\\])"  # /home/me, ~/x, ~me/x, ./x, ..\x
    r"|\bfile:/"  # file:///home/me
    r"|(?<![A-Za-z0-9])[A-Za-z]:[\\/](?!/)"  # C:\Users, C:/Users, but no http://
    rf"|{_BEGINS}\\\\[\w.?]",  # \\server\share
    flags=re.IGNORECASE,
)
# As the Hub makes them: `hf_` (an organization's `api_org_`) before 34 letters and digits, or before a JWT. No name in
# code has so long a word, and what stands before one may be anything, such as the n of a line break in JSON.
_TOKENS = re.compile(r"(?:hf|api_org)_[A-Za-z0-9]{34}|hf_(?:oauth|jwt)_eyJ[\w-]{10}")


def refuse_private(value: Any, token: str | None, where: str = "recipe") -> None:
    """Raises if a token or a path of this machine is about to be published, as a value or as a name.

    Example:

    ```python
    >>> refuse_private({"validation": [{"group": "~5", "note": "and/or, see https://example.com/a"}]}, None)
    >>> refuse_private({"pool": {"name": "file:///home/me/pool.jsonl"}}, None)
    Traceback (most recent call last):
    ValueError: recipe['pool']['name'] holds a local path, 'file:///home/me/pool.jsonl'. Name its last part only.

    ```
    """
    if isinstance(value, Mapping):
        for name, part in value.items():
            refuse_private(name, token, f"a name in {where}")
            refuse_private(part, token, f"{where}[{name!r}]")
    elif isinstance(value, list | tuple):
        for part in value:
            refuse_private(part, token, where)
    elif isinstance(value, str):
        for text in (value, unquote(value)):  # in an address, a path may be written with %2F
            refuse_token(text, token, where)
            if _PATHS.search(text):
                raise ValueError(f"{where} holds a local path, {value!r}. Name its last part only.")


def refuse_token(text: str, token: str | None, where: str) -> None:
    """Raises if a text holds an access token: the one that is used, or what looks like one.

    Example:

    ```python
    >>> refuse_token("from transformers import hf_tokenizer_of_something_long", "secret", "the page")
    >>> refuse_token("my secret", "secret", "the page")
    Traceback (most recent call last):
    ValueError: the page holds a token. Take it out.

    ```
    """
    if (token and token in text) or _TOKENS.search(text):
        raise ValueError(f"{where} holds a token. Take it out.")
