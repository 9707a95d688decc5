"""Rows of every dataset format that TRL's `SFTTrainer` takes, as the token ids and labels it would train on.

Formats: `text`, `prompt` + `completion` (strings or conversations), `messages`, ShareGPT `conversations`, and
pre-tokenized `input_ids` with `labels`, `completion_mask` or `assistant_masks`. The trainer prepares a whole dataset
with a chain of `map` calls; here the same steps are taken for one row, so that a bad row can be named, and each row of
a mixture is read by the columns that are not null in it. The trainer itself takes one format at a time.

What differs from the trainer: ShareGPT roles are translated, see [`~diq_hf.rows.messages.chatml`].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .encoded import IGNORE_INDEX, EncodedRow, RowError
from .labels import MASKS, check_integers, check_masks, completion_mask, last_run, row_labels
from .messages import (
    check_filled,
    check_messages,
    check_text,
    join,
    preferred,
    readable,
    speaker,
    split_answer,
    warn_of_roles,
)
from .shapes import no_completion, unknown_row
from .templates import ColumnTemplate
from .tokens import RowTokens


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
    "chosen",
    "tools",
    "chat_template_kwargs",
)
# Those that count beside whatever a template makes of the others.
BESIDE = ("tools", "chat_template_kwargs", "image", "images")
TEXTS = ("prompt", "prompt+completion")


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
        template ([`~diq_hf.rows.templates.ColumnTemplate`], *optional*):
            Makes rows of columns that are no format. A row that lacks them and is of a known format is read by that.

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
    template: ColumnTemplate | None = None

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
        settings = {name: getattr(self, name) for name in names}
        return settings | {"columns": self.template.settings} if self.template else settings

    @property
    def columns(self) -> tuple[str, ...]:
        """Every dataset column that may decide what a row trains on."""
        return tuple(dict.fromkeys([*ROW_COLUMNS, self.dataset_text_field, *self.of_template]))

    @property
    def of_template(self) -> tuple[str, ...]:
        """Those that a template reads: of a ClassLabel column the classes' names."""
        return self.template.columns if self.template else ()

    @cached_property
    def _training_template(self) -> str | None:
        """The template that marks the assistant's tokens; `None` where the tokenizer's own does."""
        from trl.chat_template_utils import get_training_chat_template, has_generation_markers

        if has_generation_markers(self.processing_class.chat_template):
            return None
        return get_training_chat_template(self.processing_class)

    def __call__(self, row: Mapping) -> EncodedRow:
        """Encodes one row.

        Raises:
            [`RowError`]: The row has no known format, holds something other than text, or has no token to train on.
        """
        tokens = self.__dict__["_last"] = RowTokens(self.processing_class)
        row = self.shaped(row)
        check_masks(row)
        read = readable(row)
        if row.get("conversations") is not None and "conversations" not in read:  # they were ShareGPT turns
            warn_of_roles(row, read["messages"])
        return self.truncated(*self._labelled(read, tokens, self.completion_only_loss, self.assistant_only_loss))

    def encode_answer(self, row: Mapping) -> EncodedRow:
        """Encodes a row so that only its final answer is trained, whatever the loss settings.

        The answer of a conversation is its last message, which must be the assistant's: of `messages` with several
        turns the earlier ones are prompt, also where the loss is on all of them. Where `prompt` and `completion` stand
        apart it is the completion. Of a pre-tokenized row it is the last run of trained tokens, so again the last turn
        where every turn of the assistant's is trained. A row that was just encoded is not tokenized again.

        Raises:
            [`RowError`]: The row has no prompt apart from its answer.
        """
        row = self._read(row)
        if "input_ids" not in row and "prompt" not in row:
            messages = row.pop("messages", None)
            if not messages:
                raise RowError(
                    "it is plain text, so no prompt can be told from its answer. Use `prompt` + `completion` rows."
                )
            check_messages(messages, "messages")
            prompt, completion = split_answer(messages)
            if not completion:
                raise RowError(
                    f"its last message is from {messages[-1]['role']!r}, not from the assistant, so it has no answer."
                )
            if not prompt:
                raise RowError("its answer is its only message, so it has no prompt.")
            row |= {"prompt": prompt, "completion": completion}
        tokens = RowTokens(self.processing_class, before=self.__dict__.get("_last"))
        input_ids, labels = self._labelled(row, tokens, completion_only=True)
        labels = last_run(labels)
        if labels[0] != IGNORE_INDEX:
            raise RowError("all its tokens are trained, so no prompt can be told from its answer.")
        if labels[1] != IGNORE_INDEX and input_ids[0] == getattr(self.processing_class, "bos_token_id", None):
            raise RowError("its prompt is empty, so its answer cannot be compared with and without it.")
        encoded = self.truncated(input_ids, labels)
        if encoded.labels[0] != IGNORE_INDEX:
            raise RowError(f"nothing of its prompt is left after truncation to `max_length={self.max_length}`.")
        return encoded

    def texts(self, row: Mapping) -> tuple[str, str]:
        """A row's prompt and answer as plain text, without template or special tokens.

        The answer is the completion, a conversation's last message if it is the assistant's, or a preference row's
        `chosen` answer; tool calls are part of it, as JSON. Plain text is all prompt, and so is a row without an
        answer. Only pre-tokenized rows need the tokenizer.
        """
        row = self._read(row)
        if "input_ids" in row:
            if self.processing_class is None:
                raise RowError("it is pre-tokenized, and its text needs the tokenizer it was made with.")
            input_ids, labels = self._labelled(row, None, completion_only=True)
            labels = last_run(labels)
            start = int((labels != IGNORE_INDEX).argmax())
            # Without a mask it is plain text, which is all prompt.
            prompt, answer = (input_ids[:start], input_ids[labels != IGNORE_INDEX]) if start else (input_ids, [])
            decode = self.processing_class.decode
            return decode(prompt, skip_special_tokens=True), decode(answer, skip_special_tokens=True)
        if "completion" in row and "prompt" in row:
            prompt, answer = row["prompt"], row["completion"]
        elif "messages" in row:
            check_messages(row["messages"], "messages")
            prompt, answer = split_answer(row["messages"])
        elif "chosen" in row:
            prompt, answer = preferred(row)
        elif "prompt" in row or self.dataset_text_field in row:
            prompt, answer = row.get("prompt", row.get(self.dataset_text_field)), ""
        else:
            raise unknown_row(row, self.dataset_text_field)
        return join(prompt, "prompt"), join(answer, "completion")

    def rated_texts(self, row: Mapping, text: str = "prompt") -> tuple[str, str | None]:
        """What a classifier or a judge is to read: the prompt, and the answer if `text` is `"prompt+completion"`.

        Raises:
            [`RowError`]: What is to be read is empty.
        """
        prompt, answer = self.texts(row)
        if not prompt.strip():
            raise RowError("its prompt is empty, so there is nothing to rate.")
        if text == "prompt":
            return prompt, None
        if not answer.strip():
            raise RowError(f"it has no answer beside its prompt, so `text={text!r}` cannot be read. Use 'prompt'.")
        return prompt, answer

    def _read(self, row: Mapping) -> dict:
        row = self.shaped(row)
        check_masks(row)
        return readable(row)

    def shaped(self, row: Mapping) -> Mapping:
        if self.template and (self.template.reads(row) or not self._is_known(row)):
            return self.template(row) | {name: row[name] for name in BESIDE if row.get(name) is not None}
        return row

    def _labelled(
        self,
        row: dict,
        tokens: RowTokens | None,
        completion_only: bool | None = None,
        assistant_only: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        if "image" in row or "images" in row:
            raise RowError("it holds images, and only text rows can be scored.")
        encoded = self._pretokenized(row) if "input_ids" in row else self._tokenize(row, tokens, assistant_only)
        input_ids = np.asarray(encoded["input_ids"], dtype=np.int64)
        labels = row_labels(encoded, row, completion_only)
        self._check_vocabulary(input_ids)
        self._check_vocabulary(labels[labels != IGNORE_INDEX])
        if not (labels[1:] != IGNORE_INDEX).any():
            raise RowError(
                "it has no token to train on: every token is masked. Remove the row, or mend its completion or its "
                "mask."
            )
        return input_ids, labels

    def truncated(self, input_ids: np.ndarray, labels: np.ndarray) -> EncodedRow:
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
        for name in ("input_ids", *MASKS):
            if name in row:
                check_integers(row[name], name, len(row["input_ids"]) if isinstance(row["input_ids"], list) else 0)
        return row

    def _tokenize(self, row: dict, tokens: RowTokens, assistant_only: bool) -> dict:
        if "prompt" in row:
            return self._prompt_completion(row, tokens, assistant_only)
        if "messages" in row:
            check_messages(row["messages"], "messages")
            if speaker(row["messages"][-1]) == "assistant":
                check_filled(row["messages"][-1])
            return self._render(row, tokens, row["messages"], assistant_only, mask=True)
        if self.dataset_text_field in row:
            text = check_text(row[self.dataset_text_field], self.dataset_text_field)
            check_filled(text)
            return {"input_ids": tokens.text(text if text.endswith(tokens.eos) else text + tokens.eos)}
        raise unknown_row(row, self.dataset_text_field)

    def _is_known(self, row: Mapping) -> bool:
        formats = ("input_ids", "prompt", "messages", "conversations", self.dataset_text_field)
        return any(row.get(name) is not None for name in formats)

    def _prompt_completion(self, row: dict, tokens: RowTokens, assistant_only: bool) -> dict:
        if "completion" not in row:
            raise no_completion(row, self.template)
        prompt, completion = row["prompt"], row["completion"]
        if {type(prompt), type(completion)} == {str, list}:
            raise RowError("one of `prompt` and `completion` is a string, the other a list. Make both the same.")
        if isinstance(prompt, list):
            check_messages(prompt, "prompt")
            check_messages(completion, "completion")
            check_filled(completion[-1])
            encoded = dict(self._render(row, tokens, prompt + completion, assistant_only, mask=True))
            prompt_ids = self._render(row, tokens, prompt, assistant_only, add_generation_prompt=True)["input_ids"]
        else:
            check_text(prompt, "prompt")
            check_text(completion, "completion")
            check_filled(completion)
            # Like the trainer, which gives the EOS token to the text column of a row that has one as well.
            text = row.get(self.dataset_text_field)
            text_takes_eos = isinstance(text, str) and not text.endswith(tokens.eos)
            if not text_takes_eos and not completion.endswith(tokens.eos):
                completion += tokens.eos
            prompt_ids = tokens.text(prompt)
            encoded = {"input_ids": tokens.text(prompt + completion)}
        encoded["completion_mask"] = completion_mask(prompt_ids, encoded["input_ids"])
        return encoded

    def _render(
        self, row: dict, tokens: RowTokens, messages: list[dict], assistant_only: bool, mask: bool = False, **kwargs
    ) -> dict:
        if self.processing_class.chat_template is None:
            raise ValueError(
                "The rows are conversations but the tokenizer has no chat template. Set "
                "`processing_class.chat_template`, or use an instruct model's tokenizer."
            )
        if assistant_only and mask:
            kwargs["return_assistant_tokens_mask"] = True
        return tokens.chat(row, messages, self._training_template if assistant_only else None, **kwargs)
