"""Token ids of one row's texts and conversations, each made once."""

import json
from collections.abc import Callable
from typing import Any

from .encoded import RowError


class RowTokens:
    """What the tokenizer makes of the parts of one row.

    Args:
        processing_class ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer.
        before ([`RowTokens`], *optional*):
            Another reading. What it made of the very same text, template and arguments is taken from there, since
            tokenizing is what reading costs.
    """

    def __init__(self, processing_class: Any, before: "RowTokens | None" = None):
        self.processing_class = processing_class
        self._before = {} if before is None else before._made
        self._made: dict[Any, Any] = {}

    @property
    def eos(self) -> str:
        """The end of every text."""
        if self.processing_class.eos_token is None:
            raise ValueError("The tokenizer has no `eos_token`, and text rows end with it. Set one.")
        return self.processing_class.eos_token

    def text(self, text: str) -> list[int]:
        """Of a plain text."""
        return self._once(text, lambda: self.processing_class(text=text)["input_ids"])

    def chat(self, row: dict, messages: list[dict], chat_template: str | None, **kwargs) -> dict:
        """Of a conversation: `input_ids`, and `assistant_masks` where asked for.

        Raises:
            [`RowError`]: The template cannot render it, or marks no token of the assistant's.
        """
        kwargs |= row.get("chat_template_kwargs") or {}
        try:
            tools = row.get("tools")
            tools = json.loads(tools) if isinstance(tools, str) else tools
        except json.JSONDecodeError as error:
            raise RowError(f"its `tools` are no JSON: {error}") from error
        key = chat_template, json.dumps([messages, tools, kwargs], default=repr)
        return self._once(key, lambda: self._rendered(messages, chat_template, tools=tools, **kwargs))

    def _rendered(self, messages: list[dict], chat_template: str | None, **kwargs) -> dict:
        from jinja2 import TemplateError

        try:
            rendered = self.processing_class.apply_chat_template(
                messages, tokenize=True, return_dict=True, chat_template=chat_template, **kwargs
            )
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            # A template is a program of its author's: whatever it raises, it is this row it cannot render.
            raise RowError(f"the chat template cannot render its messages: {error}") from error
        encoded = {name: rendered[name] for name in ("input_ids", "assistant_masks") if name in rendered}
        if "assistant_masks" in encoded and 1 not in encoded["assistant_masks"]:
            raise RowError("`assistant_only_loss=True`, but the chat template marks no assistant token in it.")
        return encoded

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = self._before[key] if key in self._before else make()
        return self._made[key]
