"""Sources of difficulty: how much knowledge and reasoning a row needs.

A source is any object with a `fingerprint`, the dataset `columns` it reads, and a call that turns a [`RowBatch`] into
one number a row, or several: see [`DifficultySource`].
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from datasets import Dataset

from ..columns import labels_as_numbers
from ..digest import digest
from ..rows.encoded import EncodedRow, RowError
from ..rows.formats import TEXTS, RowEncoder
from .answers import AnswerLosses, given_prompt, without_prompt
from .classifier import DifficultyClassifier
from .heads import UNNAMED


@dataclass(frozen=True)
class RowBatch:
    """What a difficulty source may use. A `reusable` source gets `prepared` and `encoder` alone.

    Args:
        prepared (`list`):
            What the source's own `prepare` returned for each row.
        encoded (`list[EncodedRow]`):
            The rows as the scoring model trains on them.
        losses (`np.ndarray` of shape `(rows,)`):
            The scoring model's loss on `encoded`, in nats.
        encoder ([`~diq_hf.rows.formats.RowEncoder`]):
            How rows become tokens.
        forward (`Callable`):
            Gives the scoring model's losses on further encoded rows.
        answers ([`~diq_hf.difficulty.answers.AnswerLosses`], *optional*):
            The answers' losses with and without their prompts, where they are known already.
    """

    prepared: Sequence[Any]
    encoded: Sequence[EncodedRow] | None
    losses: np.ndarray | None
    encoder: RowEncoder
    forward: Callable[[Sequence[EncodedRow]], np.ndarray] | None
    answers: AnswerLosses | None = None


class DifficultySource(Protocol):
    """What [`DIQScorer`] asks of a source of difficulty."""

    columns: tuple[str, ...]
    """Dataset columns it reads beside the row itself. Of a ClassLabel column it gets the numbers of its names."""

    extra_columns: tuple[str, ...]
    """Columns it gives beside `difficulty`, to be had by `DIQScorer(extra_columns=...)`."""

    reusable: bool
    """Whether its scores are the same beside any scoring model and dear enough to be kept on disk for the next one."""

    @property
    def fingerprint(self) -> str:
        """Names everything that decides its scores."""

    def prepare(self, row: Mapping, encoder: RowEncoder) -> Any:
        """What it needs of one row. Raises [`RowError`] for a row it cannot score, before anything is computed."""

    def __call__(self, batch: RowBatch) -> dict[str, np.ndarray]:
        """`difficulty` and the extra columns, each of shape `(rows,)`."""


class _OfScoringModel:
    """What sources share that look at the scoring model's own losses or tokens."""

    columns = ()
    extra_columns = ()
    reusable = False


class _OfAnswer(_OfScoringModel):
    """Sources that need the loss of the answer alone, l(answer | prompt)."""

    name: str

    def prepare(self, row: Mapping, encoder: RowEncoder) -> EncodedRow:
        try:
            return encoder.encode_answer(row)
        except RowError as error:
            raise RowError(
                f"{self.name} cannot be taken: {error} Or name another source with `difficulty=`."
            ) from error

    def given_prompt(self, batch: RowBatch) -> np.ndarray:
        if batch.answers is not None:
            return batch.answers.given
        return given_prompt(batch.prepared, batch.encoded, batch.losses, batch.forward)


class IFDDifficulty(_OfAnswer):
    """Instruction-following difficulty under the scoring model itself: l(answer | prompt) / l(answer).

    Above 1 the prompt does not help the model to predict the answer; far below 1 it gives the answer away. It needs
    no set-up, but it measures how well prompt and answer fit for *this* model: an answer that has nothing to do with
    its prompt looks difficult, and very short answers swing widely. Both losses run over the same tokens; without the
    prompt they follow the BOS (else the EOS) token alone. Introduced as IFD in https://huggingface.co/papers/2308.12032.
    """

    name = "IFD, the default difficulty,"
    fingerprint = "ifd-1"

    def __call__(self, batch: RowBatch) -> dict[str, np.ndarray]:
        if batch.answers is not None:
            alone = batch.answers.alone
        else:
            alone = batch.forward([without_prompt(answer, batch.encoder) for answer in batch.prepared])
        with np.errstate(divide="ignore", invalid="ignore"):
            return {"difficulty": self.given_prompt(batch) / alone}


class LossDifficulty(_OfAnswer):
    """Mean loss of the answer under the scoring model itself, given its prompt, in nats: l(answer | prompt).

    It costs nothing where rows are trained on their answer alone. It measures how surprising the answer's *text* is to
    this model, not how hard the question is: a wrong, garbled or oddly worded answer scores high, and a hard question
    answered by a long fluent chain of thought scores low, since most of its tokens are easy to guess.
    """

    name = "The answer's loss"
    fingerprint = "loss-1"

    def __call__(self, batch: RowBatch) -> dict[str, np.ndarray]:
        return {"difficulty": self.given_prompt(batch)}


class NumTokensDifficulty(_OfScoringModel):
    """Number of tokens of the row as it is trained on, cut to `max_length`.

    Longer rows often hold longer reasoning, so it is a fair first guess within one source of data. It misleads where
    rows are long for another reason (pasted context, a wordy writer), between sources that differ in style, and above
    `max_length`, where all rows are the same. It is also tied to influence, which favours short rows.
    """

    fingerprint = "num-tokens-1"

    def prepare(self, row: Mapping, encoder: RowEncoder) -> None:
        return None

    def __call__(self, batch: RowBatch) -> dict[str, np.ndarray]:
        return {"difficulty": np.array([len(row) for row in batch.encoded], dtype=float)}


class ColumnDifficulty:
    """A difficulty that the dataset has already.

    Args:
        column (`str`):
            A column of numbers; larger is harder. A null stays unscored. A ClassLabel column counts by the numbers in
            its names ("1" to "5", "level 1" to "level 5") and is refused where they hold none. `map` tells nothing of
            features on a stream or in numpy or torch format: there the ids arrive as they are.
        lower_is_harder (`bool`, *optional*, defaults to `False`):
            The column counts the other way, as a pass rate does: `difficulty` is its negative.

    Raises:
        `ValueError`: A column named `difficulty` is to count the other way, and would be replaced by that.

    Example:

    ```python
    diq_score = DIQScorer(model, validation, difficulty=ColumnDifficulty("pass_rate", lower_is_harder=True))
    ```
    """

    extra_columns = ()
    reusable = False  # nothing to save

    def __init__(self, column: str, lower_is_harder: bool = False):
        if lower_is_harder and column == "difficulty":
            raise ValueError(
                "A column named 'difficulty' is kept as it is, and larger is harder there. Rename it to what it "
                "holds, 'pass_rate' for instance."
            )
        self.column = column
        self.columns = (column,)
        self.lower_is_harder = lower_is_harder
        self.fingerprint = f"column-1:{column}{':lower' if lower_is_harder else ''}"

    def missing(self, dataset: Dataset) -> np.ndarray:
        """Numbers of the rows that have no difficulty: a null, or a number that is not finite.

        Raises:
            `ValueError`: There is no such column, or no row has a difficulty.
        """
        if self.column not in dataset.column_names:
            self.prepare({}, None)  # says so
        rows = labels_as_numbers(dataset.select_columns([self.column]), [self.column]).with_format(None)
        is_known = np.ones(len(dataset), dtype=bool)
        for i, value in enumerate(rows[self.column][:]):
            with contextlib.suppress(RowError):  # refused when it is scored
                is_known[i] = np.isfinite(self.prepare({self.column: value}, None))
        if len(dataset) and not is_known.any():
            raise ValueError(
                f"The difficulty column {self.column!r} holds no finite number in any of {len(dataset)} rows, so none "
                "would have a difficulty. Fill it in, or name another source: `difficulty='ifd'` needs no column."
            )
        return np.flatnonzero(~is_known)

    def prepare(self, row: Mapping, encoder: RowEncoder | None) -> float:
        if self.column not in row:
            raise ValueError(
                f"The difficulty column {self.column!r} is not in the dataset. Name one that is, or another source."
            )
        value = row[self.column]
        try:
            return float("nan") if value is None else float(value)
        except (TypeError, ValueError) as error:
            raise RowError(f"its difficulty column {self.column!r} holds {value!r}, not a number.") from error

    def __call__(self, batch: RowBatch) -> dict[str, np.ndarray]:
        values = np.array(batch.prepared, dtype=float)
        return {"difficulty": -values if self.lower_is_harder else values}


class ClassifierDifficulty:
    """Expected level under a [`DifficultyClassifier`], read from the row's prompt.

    It is as good as the labels the classifier learned from and as close to your rows as theirs were: look at its card
    before you trust it on another domain. It sees no answer by default, so a spoiled answer leaves it unmoved.

    `DIQScorer.score` keeps its scores on disk apart from the influence, so that scoring the same dataset with another
    model does not run it again.

    Args:
        model (`str`, `Path` or [`DifficultyClassifier`]):
            Hub id or folder of a sequence-classification checkpoint, or a loaded classifier. With n > 2 ordered
            classes the score is Σ k·p(k), k = 1..n; with two it is the probability of the harder one; a regression
            head (one label) gives its value.
        perspective (`str`, *optional*):
            The head that becomes `difficulty`; by default `"overall"`, or the only one. Every head named
            `"knowledge"`, `"reasoning"` or `"overall"` is to be had as well, as `difficulty_<perspective>`.
        labels (`Sequence[str]`, *optional*):
            The class names from easiest to hardest, where they hold no numbers (as `"level 3"` does).
            `"LABEL_0"` and the like are nobody's names, and say nothing of an order.
        text (`str`, *optional*, defaults to `"prompt"`):
            What is read: `"prompt"` or `"prompt+completion"`, which refuses rows without an answer. The end is cut off
            where it is over the classifier's length, so the answer goes before the question.
        revision (`str`, *optional*):
            Revision on the Hub.
        device (`str`, *optional*):
            Device; by default the accelerator if there is one.

    Raises:
        `ValueError`: The order of the classes cannot be read, or there is no such perspective.

    Example:

    ```python
    difficulty = ClassifierDifficulty("path/to/classifier", perspective="reasoning")
    diq_score = DIQScorer(model, validation, difficulty=difficulty, extra_columns=["difficulty_knowledge"])
    ```
    """

    columns = ()
    reusable = True

    def __init__(
        self,
        model: Any,
        perspective: str | None = None,
        labels: Sequence[str] | None = None,
        text: str = "prompt",
        revision: str | None = None,
        device: str | None = None,
    ):
        if text not in TEXTS:
            raise ValueError(f"`text` is {text!r}; use 'prompt' or 'prompt+completion'.")
        if not isinstance(model, DifficultyClassifier):
            model = DifficultyClassifier.from_pretrained(model, labels, revision=revision, device=device)
        self.classifier = model
        self.text = text
        self.perspective = model.main_perspective if perspective is None else perspective
        if self.perspective not in model.heads:
            wrong = "has no main one" if perspective is None else f"has no {perspective!r}"
            raise ValueError(f"The classifier {wrong}: pass `perspective=`, one of {list(model.heads)}.")
        self.fingerprint = digest(["classifier-source-2", model.fingerprint, text, self.perspective])

    @property
    def extra_columns(self) -> tuple[str, ...]:
        return tuple(f"difficulty_{name}" for name in self.classifier.heads if name != UNNAMED)

    def prepare(self, row: Mapping, encoder: RowEncoder) -> str:
        return "\n\n".join(filter(None, encoder.rated_texts(row, self.text)))

    def __call__(self, batch: RowBatch) -> dict[str, np.ndarray]:
        found = self.classifier(batch.prepared)
        columns = {f"difficulty_{name}": levels.expected for name, levels in found.items() if name != UNNAMED}
        return {"difficulty": found[self.perspective].expected, **columns}


NAMED = {"ifd": IFDDifficulty, "loss": LossDifficulty, "num_tokens": NumTokensDifficulty}


def difficulty_source(
    value: Any,
    perspective: str | None = None,
    labels: Sequence[str] | None = None,
    lower_is_harder: bool = False,
) -> DifficultySource | None:
    """The source a `difficulty=` argument names: of `NAMED`, `"column:NAME"`, a checkpoint, a source, or `None`.

    Args:
        value (`str` or [`DifficultySource`], *optional*):
            The argument.
        perspective (`str`, *optional*):
            Of a checkpoint: see [`ClassifierDifficulty`].
        labels (`Sequence[str]`, *optional*):
            Of a checkpoint, too.
        lower_is_harder (`bool`, *optional*, defaults to `False`):
            Of a column: see [`ColumnDifficulty`].

    Raises:
        `ValueError`: One of these goes with another kind of source.
    """
    is_column = isinstance(value, str) and value.startswith("column:")
    if lower_is_harder and not is_column:
        raise ValueError("`lower_is_harder=True` says how a column counts: `difficulty='column:pass_rate'`.")
    if perspective is not None or labels is not None:
        if is_column or value is None or (isinstance(value, str) and value in NAMED):
            name = "labels" if perspective is None else "perspective"
            raise ValueError(f"`{name}` is for a classifier, and `difficulty={value!r}` is none.")
        return ClassifierDifficulty(value, perspective, labels)
    if value is None:
        return None
    if isinstance(value, str):
        if value in NAMED:
            return NAMED[value]()
        column = value.removeprefix("column:")
        return ColumnDifficulty(column, lower_is_harder) if is_column else ClassifierDifficulty(value)
    if isinstance(value, DifficultyClassifier):
        return ClassifierDifficulty(value)
    wanted = ("fingerprint", "columns", "extra_columns", "reusable", "prepare")
    if isinstance(value, type) or not all(hasattr(value, name) for name in wanted):
        raise TypeError(
            "`difficulty` must be 'ifd', 'loss', 'num_tokens', 'column:NAME', a checkpoint or a source such as "
            f"IFDDifficulty(), got {value!r}."
        )
    return value
