"""Rows of a trainer as a source of difficulty reads them: by their own words where the trainer kept them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from transformers import Trainer
from trl import SFTTrainer

from ..columns import class_label_numbers, label_values
from ..difficulty.sources import DifficultySource
from ..rows.encoded import IGNORE_INDEX, EncodedRow, RowError
from ..rows.formats import RowEncoder
from ..rows.messages import plain


# What trainers make of a row's words.
TOKENS = ("input_ids", "labels", "completion_mask", "assistant_masks")
OTHERS = (
    "Other sources need no answer: `DIQCallback(difficulty='num_tokens')`, a column of numbers "
    "('column:NAME') or a classifier; and `DIQCallback(strategy='influence')` needs no difficulty."
)


class RowWords:
    """Rows of a trainer's dataset for sources of difficulty.

    A prepared dataset keeps the columns it was made from. Where these, encoded with the trainer's settings, give the
    very tokens that are trained, a source reads them and finds what it finds in [`~diq_hf.DIQScorer`]. Otherwise (a
    formatting function, tokens of the user's own) it reads the tokens, whose answer is what is trained.

    Args:
        trainer ([`~transformers.Trainer`]):
            The trainer.
        dataset (`Dataset`):
            The rows of its loader, in their order.
    """

    def __init__(self, trainer: Trainer, dataset: Any):
        self.kept, self.dataset, args = trainer.train_dataset, dataset, trainer.args
        names = ("truncation_mode", "completion_only_loss", "assistant_only_loss", "dataset_text_field")
        settings = {name: getattr(args, name) for name in names} if isinstance(trainer, SFTTrainer) else {}
        tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
        self.encoder = RowEncoder(tokenizer, max_length=getattr(args, "max_length", None), **settings)

    def prepare(self, row: int, sequence: EncodedRow, source: DifficultySource) -> Any:
        """What a source needs of a row that is trained as `sequence`.

        Raises:
            [`RowError`]: The source cannot read it.
        """
        columns, text = self._columns(row), self.encoder.dataset_text_field
        words = {name: value for name, value in columns.items() if name not in TOKENS}
        if "prompt" in words and isinstance(words.get(text), str):
            # The trainer ends this column with EOS instead of the completion, and an encoder would the next one.
            words[text] = words[text].removesuffix(self.encoder.processing_class.eos_token or "")
        features = getattr(self.kept, "features", None) or {}
        for name in set(source.columns) & set(words):
            if (numbers := class_label_numbers(features.get(name), name)) is not None:
                words[name] = label_values(words[name], numbers)
        try:
            if (encoder := self._reader(words, sequence, source)) is not None:
                return source.prepare(words, encoder)
            # As it is trained: it was cut already.
            return source.prepare(words | self._tokens(columns, sequence), replace(self.encoder, max_length=None))
        except RowError as error:
            raise RowError(f"Training row {row}: {error} {OTHERS}") from error

    def _columns(self, row: int) -> dict[str, Any]:
        """The row's columns, of the trainer's dataset if the loader's row is the same; the loader may have others."""
        of_loader = {name: plain(value) for name, value in self.dataset[row].items()}
        if self.kept is self.dataset or len(self.kept) != len(self.dataset):
            return of_loader
        kept = {name: plain(value) for name, value in self.kept[row].items()}
        shared = set(kept) & set(of_loader)
        told_by = {name for name in shared if name.endswith("_ids")} or shared  # a row is told by its tokens
        return kept if told_by and all(kept[name] == of_loader[name] for name in told_by) else of_loader

    def _reader(self, words: Mapping, sequence: EncodedRow, source: DifficultySource) -> RowEncoder | None:
        """What encodes the words as the row is trained, if they are the row."""
        if not set(words) & {"prompt", "messages", "conversations", self.encoder.dataset_text_field}:
            return None
        if source.reusable:  # reads text, whatever is trained of it
            return self.encoder
        for encoder in (self.encoder, replace(self.encoder, max_length=None)):  # a prepared dataset is not cut
            try:
                if np.array_equal(encoder(words).input_ids, sequence.input_ids):
                    return encoder
            except ValueError:  # no format, no template: tokens of the user's own
                return None
        return None

    def _tokens(self, columns: Mapping, sequence: EncodedRow) -> dict[str, Any]:
        """The row's tokens and its answer."""
        labels, mask = sequence.labels, columns.get("completion_mask")
        if mask is not None and (labels != IGNORE_INDEX).all():  # trained on everything, though it has an answer
            keep_start = self.encoder.truncation_mode == "keep_start"
            mask = np.array(mask[: len(labels)] if keep_start else mask[-len(labels) :], dtype=bool)
            labels = np.where(mask, labels, IGNORE_INDEX)
        return {"input_ids": sequence.input_ids.tolist(), "labels": labels.tolist()}
