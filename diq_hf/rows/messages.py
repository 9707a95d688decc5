"""What rows are made of before they are tokens: conversations and texts in plain Python, checked."""

from typing import Any

from .encoded import RowError


def plain(value: Any) -> Any:
    """Numpy and torch values, as a formatted dataset gives them, in plain Python."""
    return value.tolist() if hasattr(value, "tolist") else value


def chatml(row: dict) -> dict:
    """ShareGPT `conversations` renamed to `messages`."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], dict) or "from" not in turns[0]:
        return row
    for turn in turns:
        if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
            raise RowError("every turn of `conversations` must be a dict with `from` and `value`.")
    names = {"from": "role", "value": "content"}
    messages = [{names.get(key, key): value for key, value in turn.items()} for turn in turns]
    return {**{name: value for name, value in row.items() if name != "conversations"}, "messages": messages}


def join(part: Any, column: str) -> str:
    if isinstance(part, list):
        return "\n".join(message["content"] for message in part if message.get("content"))
    return check_text(part, column)


def check_text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"`{column}` must be a string, got {type(value).__name__}.")
    return value


def check_filled(answer: str | dict) -> None:
    """The trainer would train such a row on its end token alone, and the row would rank high for it."""
    text = answer if isinstance(answer, str) else answer.get("content") or answer.get("tool_calls")
    if not text or (isinstance(text, str) and not text.strip()):
        raise RowError("its text to train on is empty. Remove the row, or fill in its completion.")


def check_integers(values: Any, column: str, length: int) -> None:
    if not isinstance(values, list) or len(values) != length or not all(isinstance(value, int) for value in values):
        raise RowError(
            f"`{column}` must be a list of {length} integers, one for each token. Mend it, or rename the column if it "
            "means something else."
        )


def check_messages(messages: Any, column: str) -> None:
    if not isinstance(messages, list) or not messages:
        raise RowError(f"`{column}` must be a non-empty list of messages.")
    for message in messages:
        if not isinstance(message, dict) or "role" not in message:
            raise RowError(f"every message of `{column}` must be a dict with `role` and `content`.")
        content = message.get("content")
        if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
            raise RowError(f"a message of `{column}` has a {type(content).__name__} as `content`, not a string.")
