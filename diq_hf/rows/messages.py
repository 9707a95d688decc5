"""What rows are made of before they are tokens: conversations and texts in plain Python, checked."""

import functools
import json
import logging
from collections.abc import Mapping
from typing import Any

from .encoded import RowError


logger = logging.getLogger(__name__)  # not of transformers: reports read rows without it

# Who speaks, by the names that files in the wild have for it. `function` is a function's answer, as in OpenAI's files.
SPEAKERS = {
    "system": ("system", "developer"),
    "user": ("user", "human"),
    "assistant": ("assistant", "gpt", "chatgpt", "bot", "model", "bing", "bard", "function_call"),
    "tool": ("tool", "observation", "function", "function_response", "tool_response", "tool_result"),
}
_SPEAKER = {name: speaker for speaker, names in SPEAKERS.items() for name in names}


def readable(row: Mapping) -> dict:
    """A row in plain Python: a null column is as if it were not there, ShareGPT turns are messages.

    Mixtures of several formats hold nulls in the columns of the others, so each row is read by what it has.
    """
    return chatml({name: plain(value) for name, value in row.items() if value is not None})


def plain(value: Any) -> Any:
    """Numpy and torch values, as a formatted dataset gives them, in plain Python."""
    return value.tolist() if hasattr(value, "tolist") else value


def speaker(message: Mapping) -> str | None:
    """Who speaks: `"system"`, `"user"`, `"assistant"` or `"tool"`, whatever the file calls them; `None` if unknown."""
    role = message.get("role", message.get("from"))
    return _SPEAKER.get(role.strip().casefold()) if isinstance(role, str) else None


def chatml(row: Mapping) -> Mapping:
    """ShareGPT `conversations` (from/value) as `messages` (role/content), with roles that chat templates know.

    `human` and `gpt`, and what else [`SPEAKERS`] lists, in upper or lower case, become user, assistant, system and
    tool; what a `function_call` says is the assistant's. `SFTTrainer` renames the keys alone and hands the roles to
    the chat template as they stand, which then raises, leaves the turns out, or trains on headings that no later
    prompt has. So rows are scored with the roles they mean, and a warning says how to train on the same tokens: on
    what `ds.map(chatml, remove_columns="conversations")` gives.

    Raises:
        [`RowError`]: A turn has no `from` and `value`, or an unknown role.

    Example:

    ```python
    >>> chatml({"conversations": [{"from": "human", "value": "Why?"}]})
    {'messages': [{'role': 'user', 'content': 'Why?'}]}

    ```
    """
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], dict) or "from" not in turns[0]:
        return row
    messages = []
    for i, turn in enumerate(turns):
        if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
            raise RowError("every turn of `conversations` must be a dict with `from` and `value`.")
        if (role := speaker(turn)) is None:
            raise RowError(
                f"turn {i} of `conversations` is from {turn['from']!r}, and the known ones are "
                f"{', '.join(_SPEAKER)}. Rename it, or bring the rows to `messages` with your chat template's roles."
            )
        others = {key: value for key, value in turn.items() if key not in ("from", "value")}
        messages.append({"role": role, "content": turn["value"], **others})
    return {**{name: value for name, value in row.items() if name != "conversations"}, "messages": messages}


def warn_of_roles(row: Mapping, messages: list[dict]) -> None:
    """Says once that rows are encoded with other roles than the trainer would give them."""
    turns = plain(row["conversations"])
    if any(turn["from"] != message["role"] for turn, message in zip(turns, messages, strict=True)):
        roles_differ()


@functools.cache
def roles_differ() -> None:
    logger.warning(
        "ShareGPT roles such as 'human' and 'gpt' are read as 'user' and 'assistant'. SFTTrainer does not translate "
        "them: train on `ds.map(chatml, remove_columns='conversations')`, with `from diq_hf.rows.messages import "
        "chatml`."
    )


def split_answer(messages: list[dict]) -> tuple[list[dict], list[dict]]:
    """A conversation's prompt and its answer: the last message if it is the assistant's, else none."""
    cut = len(messages) - (speaker(messages[-1]) == "assistant")
    return messages[:cut], messages[cut:]


def preferred(row: dict) -> tuple[Any, Any]:
    """Prompt and answer of a preference row, whose `chosen` may be the answer or the whole conversation."""
    prompt, chosen = row.get("prompt"), row["chosen"]
    if isinstance(chosen, list):
        check_messages(chosen, "chosen")
        if prompt is None or speaker(chosen[0]) in ("system", "user"):
            return split_answer(chosen)
    if prompt is None:
        raise RowError(
            "its `chosen` holds prompt and answer in one string. Tell them apart with `ds.map(trl.extract_prompt)`."
        )
    return prompt, chosen


def join(part: Any, column: str) -> str:
    """A string, or what the messages of a conversation say, without their roles."""
    if not isinstance(part, list):
        return check_text(part, column)
    if not part:
        return ""
    check_messages(part, column)
    return "\n".join(filter(None, map(_said, part)))


def _said(message: dict) -> str:
    calls = [_filled(call.get("function") or call) for call in message.get("tool_calls") or ()]
    lines = [json.dumps(call, ensure_ascii=False, default=str) for call in calls]
    return "\n".join(filter(None, [message.get("content"), *lines]))


def _filled(value: Any) -> Any:
    """Without the nulls that Arrow puts where another row has a key."""
    if isinstance(value, dict):
        return {key: _filled(entry) for key, entry in value.items() if entry is not None}
    return [_filled(entry) for entry in value] if isinstance(value, list) else value


def check_text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"`{column}` must be a string, got {type(value).__name__}.")
    return value


def check_filled(answer: str | dict) -> None:
    """The trainer would train such a row on its end token alone, and the row would rank high for it."""
    text = answer if isinstance(answer, str) else answer.get("content") or answer.get("tool_calls")
    if not text or (isinstance(text, str) and not text.strip()):
        raise RowError("its text to train on is empty. Remove the row, or fill in its completion.")


def check_messages(messages: Any, column: str) -> None:
    if isinstance(messages, str):
        raise RowError(
            f"`{column}` is a string, and must be a list of messages: CSV holds no lists. Save the dataset as JSON "
            "lines or Parquet."
        )
    if not isinstance(messages, list) or not messages:
        raise RowError(f"`{column}` must be a non-empty list of messages.")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or "role" not in message:
            raise RowError(
                f"every message of `{column}` must be a dict with `role` and `content`; turns with `from` and `value` "
                "belong in a column `conversations`."
            )
        if not isinstance(message["role"], str):
            raise RowError(f"message {i} of `{column}` is from {message['role']!r}: its `role` must say who speaks.")
        content = message.get("content")
        if isinstance(content, list):
            raise RowError(
                f"a message of `{column}` has a list as `content`, and only text can be scored. Join the texts of its "
                "parts to one string."
            )
        if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
            raise RowError(f"a message of `{column}` has a {type(content).__name__} as `content`, not a string.")
