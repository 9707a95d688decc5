"""Sources of difficulty: how much knowledge and reasoning a row needs.

A source is any object with a `fingerprint`, the dataset `columns` it reads, and a call that turns a [`RowBatch`] into
one number a row.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .formats import IGNORE_INDEX, EncodedRow, RowEncoder, RowError


@dataclass(frozen=True)
class RowBatch:
    """What a difficulty source may use.

    Args:
        prepared (`list`):
            What the source's own `prepare` returned for each row.
        encoded (`list[EncodedRow]`):
            The rows as the scoring model trains on them.
        losses (`np.ndarray` of shape `(rows,)`):
            The scoring model's loss on `encoded`, in nats.
        encoder ([`~diq_hf.formats.RowEncoder`]):
            How rows become tokens.
        forward (`Callable`):
            Gives the scoring model's losses on further encoded rows.
    """

    prepared: Sequence[Any]
    encoded: Sequence[EncodedRow]
    losses: np.ndarray
    encoder: RowEncoder
    forward: Callable[[Sequence[EncodedRow]], np.ndarray]


class DifficultySource(Protocol):
    """What [`DIQScorer`] asks of a source of difficulty."""

    columns: tuple[str, ...]
    """Dataset columns it reads beside the row itself."""

    @property
    def fingerprint(self) -> str:
        """Names everything that decides its scores."""

    def prepare(self, row: Mapping, encoder: RowEncoder) -> Any:
        """What it needs of one row. Raises [`RowError`] for a row it cannot score, before anything is computed."""

    def __call__(self, batch: RowBatch) -> np.ndarray:
        """Scores of shape `(rows,)`."""


class IFDDifficulty:
    """Instruction-following difficulty under the scoring model itself: l(answer | prompt) / l(answer).

    Above 1 the prompt does not help the model to predict the answer; far below 1 it gives the answer away. It needs
    no set-up, but it measures how well prompt and answer fit for *this* model: an answer that has nothing to do with
    its prompt looks difficult, and very short answers swing widely. Both losses run over the same tokens; without the
    prompt they follow the BOS (else the EOS) token alone. Introduced as IFD in https://huggingface.co/papers/2308.12032.
    """

    columns = ()
    fingerprint = "ifd-1"

    def prepare(self, row: Mapping, encoder: RowEncoder) -> EncodedRow:
        try:
            return encoder.encode_answer(row)
        except RowError as error:
            raise RowError(
                f"IFD, the default difficulty, cannot be taken: {error} Or name another source with `difficulty=`."
            ) from error

    def __call__(self, batch: RowBatch) -> np.ndarray:
        answers = batch.prepared
        given_prompt = batch.losses.copy()
        # Rows that are trained on their answer alone have this loss from the influence pass already.
        missing = [
            i
            for i, (row, answer) in enumerate(zip(batch.encoded, answers, strict=True))
            if not np.array_equal(row.labels, answer.labels)
        ]
        if missing:
            given_prompt[missing] = batch.forward([answers[i] for i in missing])
        alone = batch.forward([_without_prompt(answer, batch.encoder) for answer in answers])
        with np.errstate(divide="ignore", invalid="ignore"):
            return given_prompt / alone


def _without_prompt(answer: EncodedRow, encoder: RowEncoder) -> EncodedRow:
    tokenizer = encoder.processing_class
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise ValueError(
            "IFD starts an answer without its prompt with BOS or EOS, and the tokenizer has neither. Set one."
        )
    trained = np.flatnonzero(answer.labels[1:] != IGNORE_INDEX) + 1
    return EncodedRow(
        np.concatenate([[start], answer.input_ids[trained]]), np.concatenate([[IGNORE_INDEX], answer.labels[trained]])
    )


class ColumnDifficulty:
    """A difficulty that the dataset has already.

    Args:
        column (`str`):
            A column of numbers; larger is harder. A null stays unscored.
    """

    def __init__(self, column: str):
        self.column = column
        self.columns = (column,)
        self.fingerprint = f"column-1:{column}"

    def prepare(self, row: Mapping, encoder: RowEncoder) -> float:
        if self.column not in row:
            raise ValueError(
                f"The difficulty column {self.column!r} is not in the dataset. Name one that is, or another source."
            )
        value = row[self.column]
        try:
            return float("nan") if value is None else float(value)
        except (TypeError, ValueError) as error:
            raise RowError(f"its difficulty column {self.column!r} holds {value!r}, not a number.") from error

    def __call__(self, batch: RowBatch) -> np.ndarray:
        return np.array(batch.prepared)


class ClassifierDifficulty:
    """Expected level under a sequence-classification checkpoint, read from the row's prompt.

    With n > 2 ordered classes the score is Σ k·p(k), k = 1..n; with two it is the probability of the harder one; a
    regression head (one label) gives its value. The order of the classes is read from `id2label` where its names hold
    numbers (`"LABEL_0"`, `"level 3"`, …) and has to be given otherwise.

    Args:
        model (`str`):
            Hub id or folder of a sequence-classification checkpoint.
        labels (`Sequence[str]`, *optional*):
            The class names from easiest to hardest.
        text (`str`, *optional*, defaults to `"prompt"`):
            What is read: `"prompt"` or `"prompt+completion"`. What is over the checkpoint's length is cut off.
        revision (`str`, *optional*):
            Revision on the Hub.
        device (`str`, *optional*):
            Device; by default the accelerator if there is one.
        per_device_batch_size (`int`, *optional*, defaults to `32`):
            Rows in a forward pass.

    Raises:
        `ValueError`: The order of the classes cannot be read.

    Example:

    ```python
    difficulty = ClassifierDifficulty("path/to/classifier", labels=["easy", "medium", "hard"])
    diq_score = DIQScorer(model, validation, difficulty=difficulty)
    ```
    """

    columns = ()

    def __init__(
        self,
        model: str,
        labels: Sequence[str] | None = None,
        text: str = "prompt",
        revision: str | None = None,
        device: str | None = None,
        per_device_batch_size: int = 32,
    ):
        if text not in ("prompt", "prompt+completion"):
            raise ValueError(f"`text` is {text!r}; use 'prompt' or 'prompt+completion'.")
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from .digest import digest, model_digest, tokenizer_digest

        self.text = text
        self.per_device_batch_size = per_device_batch_size
        self.tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
        self.model = AutoModelForSequenceClassification.from_pretrained(model, revision=revision).eval()
        self.order = class_order(self.model.config.id2label, labels)
        positions = getattr(self.model.config, "max_position_embeddings", None) or 512
        self.max_length = min(self.tokenizer.model_max_length, positions)
        digests = model_digest(self.model), tokenizer_digest(self.tokenizer)
        self.fingerprint = digest(["classifier-1", *digests, self.order, text, self.max_length])
        if device is None:
            accelerator = torch.accelerator.current_accelerator(check_available=True)
            device = "cpu" if accelerator is None else accelerator.type
        self.model.to(device)

    def prepare(self, row: Mapping, encoder: RowEncoder) -> str:
        prompt, answer = encoder.texts(row)
        return prompt if self.text == "prompt" else f"{prompt}\n\n{answer}"

    def __call__(self, batch: RowBatch) -> np.ndarray:
        import torch

        texts = batch.prepared
        scores = np.full(len(texts), np.nan)
        by_length = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        with torch.no_grad():
            for start in range(0, len(texts), self.per_device_batch_size):
                picked = by_length[start : start + self.per_device_batch_size]
                inputs = self.tokenizer(
                    [texts[i] for i in picked],
                    truncation=True,
                    max_length=self.max_length,
                    padding=True,
                    return_tensors="pt",
                ).to(self.model.device)
                scores[picked] = self._expected(self.model(**inputs).logits.double()).cpu().numpy()
        return scores

    def _expected(self, logits):
        if self.order is None:
            return logits[:, 0]
        probabilities = logits.softmax(dim=-1)[:, self.order]
        if len(self.order) == 2:
            return probabilities[:, 1]
        return probabilities @ probabilities.new_tensor(range(1, len(self.order) + 1))


def class_order(id2label: Mapping[int, str], labels: Sequence[str] | None = None) -> list[int] | None:
    """Class ids from easiest to hardest; `None` for a regression head.

    Example:

    ```python
    >>> class_order({0: "level 5", 1: "level 1", 2: "level 3"})
    [1, 2, 0]

    ```
    """
    names = {int(i): str(name) for i, name in id2label.items()}
    if labels is not None:
        if sorted(labels) != sorted(names.values()):
            raise ValueError(
                f"`labels` {list(labels)} must be the checkpoint's own, in order: {list(names.values())}."
            )
        ids = {name: i for i, name in names.items()}
        return [ids[label] for label in labels]
    if len(names) == 1:
        return None
    numbers = {i: re.findall(r"(?:(?<!\w)-)?\d+(?:\.\d+)?", name) for i, name in names.items()}
    if any(len(found) != 1 for found in numbers.values()) or len({found[0] for found in numbers.values()}) < len(
        names
    ):
        raise ValueError(
            f"The order of the classes {list(names.values())} cannot be read from their names. Pass `labels=[...]`, "
            "from easiest to hardest."
        )
    return sorted(names, key=lambda i: float(numbers[i][0]))


def difficulty_source(value: Any) -> DifficultySource | None:
    """The source a `difficulty=` argument names: `"ifd"`, `"column:NAME"`, a checkpoint, a source, or `None`."""
    if value is None:
        return None
    if isinstance(value, str):
        if value == "ifd":
            return IFDDifficulty()
        return (
            ColumnDifficulty(value.removeprefix("column:"))
            if value.startswith("column:")
            else ClassifierDifficulty(value)
        )
    if isinstance(value, type) or not all(hasattr(value, name) for name in ("fingerprint", "columns", "prepare")):
        raise TypeError(
            "`difficulty` must be 'ifd', 'column:NAME', a checkpoint or a source such as IFDDifficulty(), got "
            f"{value!r}."
        )
    return value
