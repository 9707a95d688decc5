"""Is this the answer to this prompt? A test whose error is known, from two losses a row.

What a prompt tells of an answer is Λ = log p(answer | prompt) - log p(answer), in nats. How large Λ is where the
prompt is another row's is measured: a few hundred answers get foreign prompts, of the same source and of like length,
one short forward pass each. A row's `mismatch` is the share of those that their foreign prompt helps at least as much:
near 0 for an answer to its prompt, and uniform on [0, 1] for one that belongs elsewhere. Passing over rows above 0.2
therefore catches 0.8 of the foreign answers, whatever the model is; how many right ones it costs depends on how well
the model reads.

Compared is Λ/√S, S = -log p(answer) being the nats there are to tell: chance moves Λ by about √S, so that long and
short, plain and odd answers can be held against each other. (Of Λ/√n, Λ/n, Λ/S and Λ/√S, n tokens, the last tells
swapped answers from right ones best.)

What it cannot see. A wrong answer about the right thing: its words are helped by the prompt like those of a right one.
A very short answer ("yes"): its one or two tokens carry less than the test can tell from chance, so right ones are
spread over [0, 1] as well, and a bound passes over nearly as many of them as of foreign ones. An answer that needs no
prompt (a form letter, a definition that begins by naming its subject). Of a conversation it tests the last answer
against all that stands before it: an earlier turn that gives the subject away hides a last question that does not
belong, and earlier answers are not tested. Template tokens are alike in both losses and cancel. Answers cut by
`max_length` are tested by what is left of them.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..difficulty.answers import Forward, answer_losses, prompt_length, with_prompt_of
from ..digest import digest, tokenizer_digest
from ..engine.tensor_files import load_tensors, save_tensors
from ..rows.encoded import EncodedRow, RowError
from ..rows.formats import RowEncoder


# Foreign pairs in the null of a large dataset; fewer than the second are said to be too few.
NULL_SIZE, NULL_LEAST = 384, 32
# A source with fewer foreign answers than this is held against those of all sources.
SOURCE_LEAST = 64
# Rows looked at for each pair: enough to find another one of the same source and of like length.
CANDIDATES = 8


@dataclass(frozen=True)
class MismatchNull:
    """How much foreign prompts help.

    Args:
        gains (`np.ndarray` of shape `(pairs,)`):
            Λ of answers after foreign prompts, in nats.
        surprises (`np.ndarray` of shape `(pairs,)`):
            S of the same answers, in nats.
        sources (`tuple[str, ...]`):
            Their sources, `""` where no column names them.
        seed (`int`):
            By which the pairs were drawn.
    """

    gains: np.ndarray
    surprises: np.ndarray
    sources: tuple[str, ...]
    seed: int

    def __call__(self, gains: np.ndarray, surprises: np.ndarray, sources: Sequence[str]) -> np.ndarray:
        """`mismatch` of answers by how much their own prompts help; NaN for a gain that is not finite."""
        null, found = self.gains / np.sqrt(self.surprises), np.asarray(gains) / np.sqrt(surprises)
        of, sources = np.array(self.sources), np.array(list(sources))
        share = np.full(len(found), np.nan)
        for source in np.unique(sources):
            held = np.sort(null[of == source] if (of == source).sum() >= SOURCE_LEAST else null)
            rows = (sources == source) & np.isfinite(found)
            share[rows] = 1 - np.searchsorted(held, found[rows]) / len(held)
        return share

    @property
    def digest(self) -> str:
        """Names what decides the column."""
        return digest([self.gains.tolist(), self.surprises.tolist(), self.sources, self.seed])

    def quantiles(self) -> dict[str, float]:
        """Λ/√S of the foreign answers, in nats: what a bound on `mismatch` means for a row."""
        shares = (0.95, 0.9, 0.8, 0.5)
        found = np.quantile(self.gains / np.sqrt(self.surprises), shares)
        return {f"{1 - share:.2f}": round(float(value), 4) for share, value in zip(shares, found, strict=True)}

    def save(self, path: Path, recipe: str) -> None:
        """Writes it under a recipe that names model, dataset and settings."""
        tensors = {"gains": torch.from_numpy(self.gains), "surprises": torch.from_numpy(self.surprises)}
        save_tensors(path, tensors, {"recipe": recipe, "sources": list(self.sources), "seed": self.seed})

    @classmethod
    def load(cls, path: Path, recipe: str) -> "MismatchNull":
        """Reads one back.

        Raises:
            `ValueError`: The file is torn, or was made by another recipe.
        """
        tensors, found = load_tensors(path)
        if found["recipe"] != recipe:
            raise ValueError(f"{path} belongs to another model, dataset or setting. Remove it to have it made again.")
        gains, surprises = (tensors[name].numpy() for name in ("gains", "surprises"))
        return cls(gains, surprises, tuple(found["sources"]), found["seed"])


def draw_null(
    answers: Sequence[EncodedRow],
    sources: Sequence[str],
    encoder: RowEncoder,
    forward: Forward,
    size: int = NULL_SIZE,
    seed: int = 0,
) -> MismatchNull:
    """Gives answers the prompts of other rows and measures how much those help.

    Args:
        answers (`Sequence[EncodedRow]`):
            Rows as [`~diq_hf.rows.formats.RowEncoder.encode_answer`] gives them.
        sources (`Sequence[str]`):
            Where each is from: foreign prompts are of the same source.
        encoder ([`~diq_hf.rows.formats.RowEncoder`]):
            How rows become tokens.
        forward (`Callable`):
            Losses of encoded rows.
        size (`int`, *optional*, defaults to 384):
            Pairs.
        seed (`int`, *optional*, defaults to `0`):
            Of the draw.

    Raises:
        `ValueError`: The rows are too few, or too much alike, for a null.
    """
    pairs = foreign_pairs(answers, sources, size, seed, encoder.max_length)
    if len(pairs) < NULL_LEAST:
        raise ValueError(
            f"`mismatch` takes at least {NULL_LEAST} answers with the prompts of other rows of their source, and "
            f"these {len(answers)} rows give {len(pairs)}. Leave it out of `extra_columns`, or calibrate on more rows "
            "of the same kind: `diq_score.calibrate(more_rows)`."
        )
    own = [answers[i] for i, _ in pairs]
    given = forward([with_prompt_of(answers[i], answers[j]) for i, j in pairs])
    losses = answer_losses(own, encoder, forward, given)
    if not np.isfinite(losses.gain).all():
        raise ValueError(
            "An answer with a foreign prompt has no finite loss, so `mismatch` cannot be calibrated. Check the "
            "model's dtype (fp16 overflows where bf16 and fp32 do not)."
        )
    return MismatchNull(losses.gain, losses.surprise, tuple(sources[i] for i, _ in pairs), seed)


def foreign_pairs(
    answers: Sequence[EncodedRow], sources: Sequence[str], size: int, seed: int, max_length: int | None
) -> list[tuple[int, int]]:
    """Pairs (answer, row whose prompt it gets): another prompt of the same source and of like length, under which the
    whole answer still fits into `max_length`; no answer has a second one before all have a first."""
    draw = np.random.default_rng(seed)
    starts = np.array([prompt_length(answer) for answer in answers], dtype=int)
    room = np.array([max(max_length or np.inf, len(answer)) - answer.num_trained for answer in answers])
    prompts = [answer.input_ids[:start].tobytes() for answer, start in zip(answers, starts, strict=True)]
    members: dict[str, list[int]] = {}
    for i, source in enumerate(sources):
        members.setdefault(source, []).append(i)
    partners = [
        _partners(i, np.array(members[sources[i]]), starts, room[i], prompts, draw) for i in range(len(answers))
    ]
    order, pairs = draw.permutation(len(answers)), []
    while len(pairs) < size:
        before = len(pairs)
        for i in order:
            if len(pairs) < size and (partner := next(partners[i], None)) is not None:
                pairs.append((int(i), partner))
        if len(pairs) == before:
            break
    return pairs


def _partners(
    i: int, others: np.ndarray, starts: np.ndarray, room: float, prompts: list[bytes], draw: np.random.Generator
) -> Iterator[int]:
    others = others[starts[others] <= room]
    others = np.array([j for j in others if prompts[j] != prompts[i]], dtype=int)
    nearest = others[np.argsort(np.abs(starts[others] - starts[i]), kind="stable")]
    yield from map(int, draw.permutation(nearest[: max(16, len(nearest) // 4)]))


def sources_of(rows: Sequence[Mapping[str, Any]], column: str) -> list[str]:
    """Where rows are from, `""` where no column says so."""
    return [str(row[column]) if row.get(column) is not None else "" for row in rows]


def calibrate(scorer: Any, dataset: Sequence[Mapping[str, Any]], size: int, seed: int) -> MismatchNull:
    """A scorer's null from a dataset: see [`~diq_hf.DIQScorer.calibrate`]."""
    answers, kept = _some_answers(scorer, dataset, size, seed)
    return draw_null(answers, sources_of(kept, scorer.source_column), scorer.encoder, scorer.engine.losses, size, seed)


def can_calibrate(scorer: Any, dataset: Sequence[Mapping[str, Any]], seed: int = 0) -> bool:
    """Whether a dataset has different answers enough for a null; no pass of the model is made."""
    answers, kept = _some_answers(scorer, dataset, NULL_SIZE, seed)
    sources = sources_of(kept, scorer.source_column)
    pairs = foreign_pairs(answers, sources, NULL_LEAST, seed, scorer.encoder.max_length)
    return len({answer for answer, _ in pairs}) >= NULL_LEAST


def _some_answers(
    scorer: Any, dataset: Sequence[Mapping[str, Any]], size: int, seed: int
) -> tuple[list[EncodedRow], list[Mapping[str, Any]]]:
    """Rows at random, as many as so large a null may take, with those that have no answer left out."""
    positions = np.sort(np.random.default_rng(seed).permutation(len(dataset))[: CANDIDATES * size])
    rows = [dataset[int(i)] for i in positions]
    answers, kept = [], []
    for row in rows:
        with contextlib.suppress(RowError):  # refused when it is scored
            answers.append(
                scorer.encoder.encode_answer({name: row[name] for name in scorer.encoder.columns if name in row})
            )
            kept.append(row)
    return answers, kept


def null_size(rows: int) -> int:
    """Foreign pairs for a dataset: a quarter of its rows, lest a small one cost more to test than to score.

    Example:

    ```python
    >>> [null_size(rows) for rows in (50, 480, 100_000)]
    [96, 120, 384]

    ```
    """
    return min(NULL_SIZE, max(3 * NULL_LEAST, rows // 4))


def null_recipe(scorer: Any, dataset: str, size: int = NULL_SIZE, seed: int = 0) -> str:
    """Names what decides a null: the model, how rows become tokens, the dataset and the draw."""
    tokens = [tokenizer_digest(scorer.processing_class), scorer.encoder.settings, scorer.source_column]
    return digest(["mismatch-1", scorer.weights_digest(), *tokens, dataset, size, seed])
