"""An answer's losses with its own prompt, without one, and with another row's: what a prompt does for an answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..rows.encoded import IGNORE_INDEX, EncodedRow
from ..rows.formats import RowEncoder


Forward = Callable[[Sequence[EncodedRow]], np.ndarray]


@dataclass(frozen=True)
class AnswerLosses:
    """Losses of answers, in nats a token.

    Args:
        given (`np.ndarray` of shape `(rows,)`):
            After the prompt.
        alone (`np.ndarray` of shape `(rows,)`):
            Of the same tokens without it.
        num_tokens (`np.ndarray` of shape `(rows,)`):
            The answers' tokens.
    """

    given: np.ndarray
    alone: np.ndarray
    num_tokens: np.ndarray

    @property
    def gain(self) -> np.ndarray:
        """What the prompt tells of the answer: log p(answer | prompt) - log p(answer), in nats."""
        return self.num_tokens * (self.alone - self.given)

    @property
    def surprise(self) -> np.ndarray:
        """What there is to tell: -log p(answer), in nats."""
        return self.num_tokens * self.alone


def answer_losses(
    answers: Sequence[EncodedRow],
    encoder: RowEncoder,
    forward: Forward,
    given: np.ndarray | None = None,
) -> AnswerLosses:
    """Losses of encoded answers ([`RowEncoder.encode_answer`]), those after their prompts unless they are known."""
    alone = forward([without_prompt(answer, encoder) for answer in answers])
    counts = np.array([answer.num_trained for answer in answers])
    return AnswerLosses(forward(answers) if given is None else given, alone, counts)


def given_prompt(
    answers: Sequence[EncodedRow], encoded: Sequence[EncodedRow], losses: np.ndarray, forward: Forward
) -> np.ndarray:
    """Losses of answers after their prompts, where those of the rows as they are trained are known."""
    found = losses.copy()
    # Rows that are trained on their answer alone have this loss already.
    pairs = zip(encoded, answers, strict=True)
    missing = [i for i, (row, answer) in enumerate(pairs) if not np.array_equal(row.labels, answer.labels)]
    if missing:
        found[missing] = forward([answers[i] for i in missing])
    return found


def without_prompt(answer: EncodedRow, encoder: RowEncoder) -> EncodedRow:
    """The answer's tokens after the BOS (else the EOS) token alone."""
    tokenizer = encoder.processing_class
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise ValueError(
            "An answer without its prompt starts with BOS or EOS, and the tokenizer has neither. Set one."
        )
    return _after(np.array([start]), answer)


def with_prompt_of(answer: EncodedRow, other: EncodedRow) -> EncodedRow:
    """The answer's tokens after another row's prompt."""
    return _after(other.input_ids[: prompt_length(other)], answer)


def prompt_length(answer: EncodedRow) -> int:
    """Tokens before the first one that is trained."""
    return int(np.argmax(answer.labels[1:] != IGNORE_INDEX)) + 1


def _after(start: np.ndarray, answer: EncodedRow) -> EncodedRow:
    trained = np.flatnonzero(answer.labels[1:] != IGNORE_INDEX) + 1
    return EncodedRow(
        np.concatenate([start, answer.input_ids[trained]]),
        np.concatenate([np.full(len(start), IGNORE_INDEX), answer.labels[trained]]),
    )
