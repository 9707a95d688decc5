"""Held-out rows: what a model has learned is told by their losses, and by its choice among answers.

A question of multiple choice is answered by the option that is the likeliest reply: the sum of log p over the tokens
of the option's text as the assistant's turn, its end included, after the question in the model's chat format
(`Question: ...\\nAnswer:` where there is none). Other options are not shown. But for the end, without which a reply
that begins like another could never be told from it, this is what `lm-eval` calls `acc`; with `normalize` each sum is
divided by the characters of the option's text, its `acc_norm`, which short options win less often.
"""

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from torch import nn

from ..rows.encoded import EncodedRow, RowError
from ..rows.formats import RowEncoder
from ..rows.messages import readable
from ..rows.validation import row_name
from ..selection.texts import RowTexts
from .forward import Forward


QUESTION = ("question", "options", "answer")
WITHOUT_GROUPS = "all"


@dataclass(frozen=True)
class Question:
    """A question with its options, each encoded as a reply to it.

    Args:
        replies (`tuple[EncodedRow, ...]`):
            Question and option, the option alone trained.
        characters (`tuple[int, ...]`):
            Of each option's text.
        right (`int`):
            Position of the right option.
    """

    replies: tuple[EncodedRow, ...]
    characters: tuple[int, ...]
    right: int


class HeldOut:
    """Rows that no strategy may see, encoded once, by which every trained model is measured.

    Args:
        rows ([`~datasets.Dataset`] or `list[dict]`):
            Rows of any format that [`~trl.SFTTrainer`] takes, questions of multiple choice, or both. A question has
            columns `question`, `options` (a list of texts, or a dict of texts by letter) and `answer` (a letter, a
            position from 0, or the right option's text). Of a row that is a question alone the right reply's loss is
            the row's, so that each row has one.
        encoder ([`~diq_hf.rows.formats.RowEncoder`]):
            Encodes rows as training does. Questions are never truncated.
        group_column (`str`, *optional*):
            Column of strings that name the rows' groups. Without it all are one group, `"all"`.
        normalize (`bool`, *optional*, defaults to `False`):
            Whether the options' likelihoods are divided by the characters of their texts.

    Raises:
        [`~diq_hf.rows.encoded.RowError`]: A row cannot be encoded, or a question's answer is none of its options.

    Example:

    ```python
    heldout = HeldOut(load_dataset("json", data_files="heldout.jsonl", split="train"), RowEncoder(tokenizer), "source")
    losses, correct = heldout.measure(model)
    ```
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        encoder: RowEncoder,
        group_column: str | None = None,
        normalize: bool = False,
    ):
        if isinstance(rows, str | Mapping | DatasetDict | IterableDataset | IterableDatasetDict):
            raise TypeError(
                f"The held-out rows are a {type(rows).__name__}, and must be a dataset with a length or a list of "
                "rows. Pick a split (`ds['test']`), and make a stream a dataset "
                "(`Dataset.from_list(list(stream))`)."
            )
        if not len(rows):
            raise ValueError("There are no held-out rows, so nothing could be told apart. Pass a few hundred.")
        self.normalize = normalize
        self.rows: list[EncodedRow] = []
        self.questions: list[Question] = []
        groups: list[str] = []
        of_questions: list[str] = []
        for i, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise TypeError(f"Held-out row {i} is a {type(row).__name__}, not a dict.")
            try:
                group = _group(row, group_column)
                encoded, question = _encoded(row, encoder)
            except RowError as error:
                raise _named(i, row, error) from error
            self.rows.append(encoded)
            groups.append(group)
            if question is not None:
                self.questions.append(question)
                of_questions.append(group)
        self.groups = tuple(groups)
        """Each row's group."""
        self.question_groups = tuple(of_questions) or None
        """Each question's group; `None` where there is none."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Each row's trained tokens."""
        return tuple(row.num_trained for row in self.rows)

    def measure(
        self,
        model: nn.Module,
        max_tokens_per_batch: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Losses and right answers of one model.

        Args:
            model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
                A causal language model, whatever it trains. It comes back as it was.
            max_tokens_per_batch (`int`, *optional*):
                As in [`~diq_hf.engine.influence.InfluenceEngine`].
            progress (`Callable`, *optional*):
                Called with the number of rows and options just done.

        Returns:
            `tuple[np.ndarray, np.ndarray | None]`: mean loss of each row over its trained tokens in nats, float64, and
            for each question 1.0 where the right option is the likeliest, else 0.0; `None` without questions.

        Raises:
            `ValueError`: A trained weight or a loss is not finite.
        """
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not parameter.isfinite().all():
                raise ValueError(
                    f"Weights of `{name}` are not finite: the training has diverged. Lower its learning rate."
                )
        replies = [reply for question in self.questions for reply in question.replies]
        try:
            sums = Forward(model, max_tokens_per_batch).losses([*self.rows, *replies], progress)
        except RowError as error:
            raise RowError(f"Held-out rows, followed by the questions' options: {error}") from error
        if len(wrong := np.flatnonzero(~np.isfinite(sums))):
            raise ValueError(
                f"The loss of {len(wrong)} of {len(sums)} held-out rows and options is not finite, of row {wrong[0]} "
                "for one: the training has diverged, or the model's dtype overflows. Lower the learning rate, or use "
                "bf16 or fp32."
            )
        losses = sums[: len(self.rows)] / np.array(self.tokens)
        if not self.questions:
            return losses, None
        ends = np.cumsum([len(question.replies) for question in self.questions])[:-1]
        correct = []
        for question, surprise in zip(self.questions, np.split(sums[len(self.rows) :], ends), strict=True):
            if self.normalize:
                surprise = surprise / np.array(question.characters)
            correct.append(float(surprise.argmin() == question.right))
        return losses, np.array(correct)


def plain_texts(rows: Dataset) -> Dataset:
    """What held-out rows say, as strings `prompt` and `completion`, by which they are looked for elsewhere.

    Of a row that is a question alone they are the question and the right option.
    """
    read = RowTexts(rows)
    texts = read(np.arange(len(rows))) if read.columns else [("", "")] * len(rows)
    if set(QUESTION) <= set(rows.column_names):
        for i, row in enumerate(rows.select_columns(list(QUESTION)).with_format(None)):
            if texts[i] == ("", "") and _is_question(row):
                try:
                    letters, options = _options(row["options"])
                    texts[i] = (row["question"], options[_right(row["answer"], letters, options)])
                except RowError as error:
                    raise _named(i, row, error) from error
    prompts, completions = zip(*texts, strict=True)
    return Dataset.from_dict({"prompt": prompts, "completion": completions})


def _named(i: int, row: Mapping, error: RowError) -> RowError:
    shown = row if row.get("question") is None else {"text": row["question"]}
    return RowError(f"Held-out {row_name(i, i, shown)}: {error}")


def _is_question(row: Mapping) -> bool:
    return all(row.get(name) is not None for name in QUESTION)


def _group(row: Mapping, group_column: str | None) -> str:
    if group_column is None:
        return WITHOUT_GROUPS
    name = row.get(group_column)
    if not isinstance(name, str):
        raise RowError(f"it has {name!r} as {group_column!r}, which is to name its group: a string.")
    return name


def _encoded(row: Mapping, encoder: RowEncoder) -> tuple[EncodedRow, Question | None]:
    """What the row's loss is taken on, and its question if it has one."""
    question = _question(row, replace(encoder, max_length=None)) if _is_question(row) else None
    formats = ("input_ids", "prompt", "messages", "conversations", "chosen", encoder.dataset_text_field)
    if any(row.get(name) is not None for name in formats):
        return encoder(row), question
    if question is not None:
        return question.replies[question.right], question
    if row.get("options") is not None and row.get("question") is not None:
        missing = ", ".join(f"`{name}`" for name in QUESTION if row.get(name) is None)
        raise RowError(f"a question of multiple choice has `question`, `options` and `answer`; it lacks {missing}.")
    return encoder(row), None  # which says what formats there are


def _question(row: Mapping, encoder: RowEncoder) -> Question:
    row = readable({name: row[name] for name in QUESTION})
    if not isinstance(row["question"], str) or not row["question"].strip():
        raise RowError("its `question` must be a text that is not empty.")
    letters, texts = _options(row["options"])
    right = _right(row["answer"], letters, texts)
    chat = getattr(encoder.processing_class, "chat_template", None) is not None
    replies = tuple(encoder.encode_answer(_reply(row["question"], text, chat)) for text in texts)
    return Question(replies, tuple(map(len, texts)), right)


def _reply(question: str, text: str, chat: bool) -> dict:
    if not chat:
        return {"prompt": f"Question: {question}\nAnswer:", "completion": f" {text}"}
    return {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": text}],
    }


def _options(options: Any) -> tuple[list[str], list[str]]:
    """Letters and texts. Nulls, which Arrow puts where another row has a letter, are no options."""
    if isinstance(options, Mapping):
        named = [(str(letter).strip(), text) for letter, text in options.items() if text is not None]
    elif isinstance(options, list):
        named = list(zip(string.ascii_uppercase, options, strict=False))
        if len(options) > len(named):
            raise RowError(f"it has {len(options)} options, more than there are letters.")
    else:
        raise RowError(f"its `options` must be a list or a dict of texts, got {type(options).__name__}.")
    if wrong := [text for _, text in named if not isinstance(text, str) or not text.strip()]:
        raise RowError(f"its `options` must be texts that are not empty, got {wrong[0]!r}.")
    if len(named) < 2:
        raise RowError(f"it has {len(named)} option, and a choice needs two.")
    return [letter for letter, _ in named], [text.strip() for _, text in named]


def _right(answer: Any, letters: list[str], texts: list[str]) -> int:
    """Position of the right option, where the answer names just one, once."""
    if isinstance(answer, bool) or not isinstance(answer, int | str):
        raise RowError(f"its `answer` must be a letter, a position or a text, got {answer!r}.")
    found = set()
    if isinstance(answer, int):
        if str(answer) in letters:  # options that are called 1, 2, 3
            found = {letters.index(str(answer))}
        elif 0 <= answer < len(texts):
            found = {answer}
    else:
        answer = answer.strip()
        found = {i for i, letter in enumerate(letters) if letter.casefold() == answer.casefold()}
        found |= {i for i, text in enumerate(texts) if text == answer}
    if not found:
        raise RowError(
            f"its `answer` {answer!r} is none of its options: {', '.join(letters)}, a position from 0 to "
            f"{len(texts) - 1}, or an option's text."
        )
    right = min(found)
    if len(found) > 1 or texts.count(texts[right]) > 1:
        raise RowError(f"its `answer` {answer!r} may mean several of its options. Give a letter, each text once.")
    return right
