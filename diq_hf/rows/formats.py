"""Rows of every dataset format that TRL's `SFTTrainer` takes, as the token ids and labels it would train on.

Formats: `text`, `prompt` + `completion` (strings or conversations), `messages`, ShareGPT `conversations`, and
pre-tokenized `input_ids` with `labels`, `completion_mask` or `assistant_masks`. The trainer prepares a whole dataset
with a chain of `map` calls; here the same steps are taken for one row, so that a bad row can be named.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from .encoded import IGNORE_INDEX, EncodedRow, RowError
from .messages import chatml, check_filled, check_integers, check_messages, check_text, join, plain


# The columns that decide what a row trains on; a scorer reads no others.
ROW_COLUMNS = (
    "input_ids",
    "labels",
    "completion_mask",
    "assistant_masks",
    "prompt",
    "completion",
    "messages",
    "conversations",
    "tools",
    "chat_template_kwargs",
)
ACCEPTED = (
    "`messages`, `prompt` + `completion`, `conversations` (from/value), a text column or pre-tokenized `input_ids`"
)


@dataclass(frozen=True)
class RowEncoder:
    """Turns one row into the token ids and labels `SFTTrainer` would train on with the same settings.

    Args:
        processing_class ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer, with a chat template if rows are conversations.
        max_length (`int` or `None`, *optional*, defaults to `1024`):
            Rows are cut to this many tokens; `None` keeps them whole.
        truncation_mode (`str`, *optional*, defaults to `"keep_start"`):
            `"keep_start"` or `"keep_end"`.
        completion_only_loss (`bool`, *optional*):
            Train on the completion only. By default true exactly for rows with `prompt` and `completion`.
        assistant_only_loss (`bool`, *optional*, defaults to `False`):
            Train on the assistant's turns only, by the template's generation markers.
        dataset_text_field (`str`, *optional*, defaults to `"text"`):
            Column of plain text rows.
        vocab_size (`int`, *optional*):
            Rows of the model's embedding; a larger token id is refused.

    Example:

    ```python
    encoder = RowEncoder(AutoTokenizer.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct"))
    row = encoder({"prompt": "2 + 2 =", "completion": " 4"})
    row.input_ids, row.labels
    ```
    """

    processing_class: Any
    max_length: int | None = 1024
    truncation_mode: str = "keep_start"
    completion_only_loss: bool | None = None
    assistant_only_loss: bool = False
    dataset_text_field: str = "text"
    vocab_size: int | None = None

    def __post_init__(self):
        if self.max_length is not None and self.max_length < 2:
            raise ValueError(f"`max_length` must be at least 2 tokens or None, got {self.max_length}.")
        if self.truncation_mode not in ("keep_start", "keep_end"):
            raise ValueError(f"`truncation_mode` is {self.truncation_mode!r}; use 'keep_start' or 'keep_end'.")

    @property
    def settings(self) -> dict:
        """What, beside the tokenizer, decides how a row is encoded."""
        names = (
            "max_length",
            "truncation_mode",
            "completion_only_loss",
            "assistant_only_loss",
            "dataset_text_field",
        )
        return {name: getattr(self, name) for name in names}

    @property
    def columns(self) -> tuple[str, ...]:
        """Every dataset column that may decide what a row trains on."""
        return (*ROW_COLUMNS, self.dataset_text_field)

    @cached_property
    def chat_template(self) -> str | None:
        """The template rows are rendered with; `None` means the tokenizer's own."""
        if self.processing_class.chat_template is None:
            raise ValueError(
                "The rows are conversations but the tokenizer has no chat template. Set "
                "`processing_class.chat_template`, or use an instruct model's tokenizer."
            )
        if not self.assistant_only_loss:
            return None
        from trl.chat_template_utils import get_training_chat_template, has_generation_markers

        if has_generation_markers(self.processing_class.chat_template):
            return None
        return get_training_chat_template(self.processing_class)

    def __call__(self, row: Mapping) -> EncodedRow:
        """Encodes one row.

        Raises:
            [`RowError`]: The row has no known format, holds something other than text, or has no token to train on.
        """
        row = {name: plain(value) for name, value in row.items()}
        if "image" in row or "images" in row:
            raise RowError("it holds images, and only text rows can be scored.")
        encoded = self._pretokenized(row) if "input_ids" in row else self._tokenize(chatml(row))
        input_ids = np.asarray(encoded["input_ids"], dtype=np.int64)
        labels = self._labels(encoded, row, input_ids)
        self._check_vocabulary(input_ids)
        self._check_vocabulary(labels[labels != IGNORE_INDEX])
        if not (labels[1:] != IGNORE_INDEX).any():
            raise RowError(
                "it has no token to train on: every token is masked. Remove the row, or mend its completion or its "
                "mask."
            )
        cut = slice(None)
        if self.max_length is not None:
            cut = slice(self.max_length) if self.truncation_mode == "keep_start" else slice(-self.max_length, None)
        encoded = EncodedRow(input_ids[cut], labels[cut])
        if not encoded.num_trained:
            raise RowError(
                f"no trained token is left of its {len(input_ids)} tokens after truncation to "
                f"`max_length={self.max_length}`. Raise `max_length`, or use `truncation_mode='keep_end'`."
            )
        return encoded

    def encode_answer(self, row: Mapping) -> EncodedRow:
        """Encodes a row so that only its final answer is trained, whatever the loss settings.

        The answer is the completion, the last assistant message, or the unmasked tokens of a pre-tokenized row.

        Raises:
            [`RowError`]: The row has no prompt apart from its answer.
        """
        row = chatml({name: plain(value) for name, value in row.items()})
        if "input_ids" not in row and "prompt" not in row:
            messages = row.pop("messages", None)
            if not messages:
                raise RowError(
                    "it is plain text, so no prompt can be told from its answer. Use `prompt` + `completion` rows."
                )
            if not isinstance(messages[-1], dict) or messages[-1].get("role") != "assistant":
                raise RowError("its last message is not the assistant's, so it has no answer.")
            row |= {"prompt": messages[:-1], "completion": messages[-1:]}
        encoded = replace(self, completion_only_loss=True, assistant_only_loss=False)(row)
        if encoded.num_trained >= len(encoded) - 1:
            raise RowError("all its tokens are trained, so no prompt can be told from its answer.")
        return encoded

    def texts(self, row: Mapping) -> tuple[str, str]:
        """A row's prompt and answer as plain text, without template or special tokens.

        Of a conversation that ends with the assistant the last message is the answer; plain text is all prompt. Only
        pre-tokenized rows need the tokenizer.
        """
        row = chatml({name: plain(value) for name, value in row.items()})
        if "input_ids" in row:
            if self.processing_class is None:
                raise RowError("it is pre-tokenized, and its text needs the tokenizer it was made with.")
            encoded = self(row)
            trained = encoded.labels != IGNORE_INDEX
            decode = self.processing_class.decode
            return (
                decode(encoded.input_ids[~trained], skip_special_tokens=True),
                decode(encoded.input_ids[trained], skip_special_tokens=True),
            )
        if "prompt" in row:
            prompt, answer = row["prompt"], row.get("completion", "")
        elif "messages" in row:
            messages = row["messages"]
            check_messages(messages, "messages")
            cut = len(messages) - (messages[-1]["role"] == "assistant")
            prompt, answer = messages[:cut], messages[cut:]
        elif self.dataset_text_field in row:
            prompt, answer = row[self.dataset_text_field], ""
        else:
            raise self._unknown_format(row)
        return join(prompt, "prompt"), join(answer, "completion")

    def _check_vocabulary(self, ids: np.ndarray) -> None:
        if self.vocab_size is None or not len(ids) or (ids.min() >= 0 and ids.max() < self.vocab_size):
            return
        raise ValueError(
            f"Token id {ids.min() if ids.min() < 0 else ids.max()} is outside the model's vocabulary of "
            f"{self.vocab_size}: the tokenizer (or the pre-tokenized data) belongs to another model, or masked labels "
            f"are not {IGNORE_INDEX}. Pass the matching `processing_class`, or call "
            "`model.resize_token_embeddings(len(tokenizer))`."
        )

    def _pretokenized(self, row: dict) -> dict:
        for name in ("input_ids", "labels", "completion_mask", "assistant_masks"):
            if name in row:
                check_integers(row[name], name, len(row["input_ids"]) if isinstance(row["input_ids"], list) else 0)
        return row

    def _tokenize(self, row: dict) -> dict:
        if "prompt" in row:
            return self._prompt_completion(row)
        if "messages" in row:
            check_messages(row["messages"], "messages")
            if row["messages"][-1]["role"] == "assistant":
                check_filled(row["messages"][-1])
            return self._render(row, row["messages"], return_assistant_tokens_mask=self.assistant_only_loss)
        if self.dataset_text_field in row:
            text = check_text(row[self.dataset_text_field], self.dataset_text_field)
            check_filled(text)
            return {"input_ids": self._ids(text if text.endswith(self._eos) else text + self._eos)}
        raise self._unknown_format(row)

    def _unknown_format(self, row: dict) -> RowError:
        return RowError(
            f"its columns {sorted(row)} are no known format. Use {ACCEPTED} "
            f"(`dataset_text_field={self.dataset_text_field!r}`)."
        )

    def _prompt_completion(self, row: dict) -> dict:
        if "completion" not in row:
            raise RowError("it has a `prompt` but no `completion`.")
        prompt, completion = row["prompt"], row["completion"]
        if isinstance(prompt, list):
            check_messages(prompt, "prompt")
            check_messages(completion, "completion")
            check_filled(completion[-1])
            encoded = self._render(row, prompt + completion, return_assistant_tokens_mask=self.assistant_only_loss)
            prompt_ids = self._render(row, prompt, add_generation_prompt=True)["input_ids"]
        else:
            check_text(prompt, "prompt")
            check_text(completion, "completion")
            check_filled(completion)
            # Like the trainer, which gives the EOS token to the text column of a row that has one as well.
            text = row.get(self.dataset_text_field)
            text_takes_eos = isinstance(text, str) and not text.endswith(self._eos)
            if not text_takes_eos and not completion.endswith(self._eos):
                completion += self._eos
            prompt_ids = self._ids(prompt)
            encoded = {"input_ids": self._ids(prompt + completion)}
        # Templates may render a prompt differently when it stands alone, and tokens may merge across the boundary:
        # the completion starts where the two token sequences part.
        pairs = zip(prompt_ids, encoded["input_ids"], strict=False)
        shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(prompt_ids), len(encoded["input_ids"])))
        encoded["completion_mask"] = [int(i >= shared) for i in range(len(encoded["input_ids"]))]
        return encoded

    def _labels(self, encoded: dict, row: dict, input_ids: np.ndarray) -> np.ndarray:
        labels = encoded.get("labels", row.get("labels"))
        if labels is not None:
            check_integers(labels, "labels", len(input_ids))
            return np.asarray(labels, dtype=np.int64)
        completion_only = self.completion_only_loss
        if completion_only is None:
            completion_only = "prompt" in row and "completion" in row
        trained = np.ones(len(input_ids), dtype=bool)
        if completion_only and "completion_mask" in encoded:
            trained &= np.asarray(encoded["completion_mask"], dtype=bool)
        if "assistant_masks" in encoded:
            trained &= np.asarray(encoded["assistant_masks"], dtype=bool)
        return np.where(trained, input_ids, IGNORE_INDEX)

    def _render(self, row: dict, messages: list[dict], **kwargs) -> dict:
        from jinja2 import TemplateError

        template = self.chat_template
        tools = row.get("tools")
        kwargs |= row.get("chat_template_kwargs") or {}
        try:
            rendered = self.processing_class.apply_chat_template(
                messages,
                tokenize=True,
                return_dict=True,
                chat_template=template,
                tools=json.loads(tools) if isinstance(tools, str) else tools,
                **kwargs,
            )
        except json.JSONDecodeError as error:
            raise RowError(f"its `tools` are no JSON: {error}") from error
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            # A template is a program of its author's: whatever it raises, it is this row it cannot render.
            raise RowError(f"the chat template cannot render its messages: {error}") from error
        encoded = {name: rendered[name] for name in ("input_ids", "assistant_masks") if name in rendered}
        if "assistant_masks" in encoded and 1 not in encoded["assistant_masks"]:
            raise RowError("`assistant_only_loss=True`, but the chat template marks no assistant token in it.")
        return encoded

    def _ids(self, text: str) -> list[int]:
        return self.processing_class(text=text)["input_ids"]

    @property
    def _eos(self) -> str:
        if self.processing_class.eos_token is None:
            raise ValueError("The tokenizer has no `eos_token`, and text rows end with it. Set one.")
        return self.processing_class.eos_token
