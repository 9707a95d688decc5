"""Texts of others inside a card: shown as they are, whatever they hold, never read as Markdown, HTML or a marker."""

import re
import shlex
from collections.abc import Callable, Sequence


# What no Markdown reader takes for more than it is, even in a table.
_PLAIN = re.compile(r"[\w .,:=@+/()%-]+")


def code(text: object) -> str:
    """A text as inline code that may stand in a table.

    Example:

    ```python
    >>> print(code("q_proj"), code("a|b <!-- x -->"))
    `q_proj` <code>a&#124;b &#60;&#33;-- x --&#62;</code>

    ```
    """
    text = str(text)
    if _PLAIN.fullmatch(text) and text.strip() == text and "  " not in text:
        return f"`{text}`"
    return f"<code>{plain(text)}</code>"


def plain(text: object) -> str:
    """A text outside of code: every sign that Markdown may read is written as its number, blanks in a row as one."""
    text = " ".join(str(text).split()) or " "
    return re.sub(r"[^\w .,:=@+/()%-]|(?<![^\W_])_|_(?![^\W_])|^[+=-]|^ $", lambda sign: f"&#{ord(sign[0])};", text)


def code_block(commands: Sequence[str]) -> str:
    """Shell commands, an option a line."""
    # Lines of the card are found again by what they begin with, and its section by comments.
    if any(re.search(r"^\s*[|#]|[\r\n]|<!--|-->", command) for command in commands):
        signs = {ord(sign): f"&#{ord(sign)};" for sign in "&<>|#\r\n"}
        shown = [_wrapped(command, lambda word: word.translate(signs)) for command in commands]
        return "\n".join(["<pre>", *shown, "</pre>"])
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", " ".join(commands))), default=0))
    return "\n".join([f"{fence}sh", *map(_wrapped, commands), fence])


def _wrapped(command: str, shown: Callable[[str], str] = str) -> str:
    try:
        words = shlex.split(command)
    except ValueError:  # no shell command
        return shown(command)
    if shlex.join(words) != command:
        return shown(command)
    words = [shown(shlex.quote(word)) for word in words]
    return " ".join(f"\\\n    {word}" if word.startswith("--") else word for word in words)
