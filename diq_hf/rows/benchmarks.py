"""Questions with their right answers, of benchmarks and of files, as rows to steer a selection by.

Of every multiple-choice question the prompt lists the options by letter, and the completion is the right letter with
what it stands for. The readers of the named benchmarks follow their published columns; none of them has been tried on
the Hub's own files from here (`tried`), so look at what they give with `diq look`.
"""

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..digest import digest
from .encoded import RowError
from .messages import check_messages, plain, readable, split_answer
from .presets import PRESETS
from .shapes import fitting, unknown_shape


QUESTION, OPTIONS, RIGHT = (
    ("question", "Question", "problem"),
    ("options", "choices"),
    ("answer_idx", "answer", "label", "answerKey"),
)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark on the Hub.

    Args:
        dataset (`str`):
            Its Hub id.
        split (`str`):
            The split with public answers.
        read (`Callable`):
            Makes a row of one of its own, or `None` of one that is not for us.
        config (`str`, *optional*):
            Its configuration.
        tried (`bool`, *optional*, defaults to `False`):
            Whether the reader was tried on the Hub's own files.
    """

    dataset: str
    split: str
    read: Callable[[Mapping], dict | None]
    config: str | None = None
    tried: bool = False


def choice_row(question: str, options: Any, answer: Any) -> dict[str, Any]:
    """A multiple-choice question as a row.

    Args:
        question (`str`):
            The question.
        options (`Sequence[str]` or `Mapping[str, str]`):
            The options, in order or by letter, or as two lists, `label` and `text`; empty ones do not count.
        answer (`str` or `int`):
            The right one: its letter, its number from 0, or its text.

    Raises:
        [`RowError`]: There are fewer than two options, or none of them is the answer.

    Example:

    ```python
    >>> row = choice_row("Which is a virus?", ["E. coli", "HIV"], "B")
    >>> print(row["prompt"][0]["content"])
    Which is a virus?
    <BLANKLINE>
    A. E. coli
    B. HIV
    >>> row["completion"][0]["content"]
    'B. HIV'

    ```
    """
    given = _lettered(options)
    kept = [i for i, (_, text) in enumerate(given) if text]
    if len(kept) < 2:
        raise RowError(f"its question has {len(kept)} options, and a choice takes two at least.")
    if not isinstance(question, str) or not question.strip():
        raise RowError("its question is empty.")
    right = _right(given, answer)
    if right not in kept:
        raise RowError(f"its answer {answer!r} is an option that is empty.")
    # By letters of our own, since files number theirs in many ways.
    lines = [f"{letter}. {given[i][1]}" for letter, i in zip(string.ascii_uppercase, kept, strict=False)]
    return _chat(f"{question.strip()}\n\n" + "\n".join(lines), lines[kept.index(right)])


def _lettered(options: Any) -> list[tuple[str, str]]:
    """Each option's letter and text, where it stands."""
    if isinstance(options, Mapping) and set(options) == {"label", "text"}:
        pairs = zip(options["label"], options["text"], strict=True)
    elif isinstance(options, Mapping):
        pairs = options.items()
    elif isinstance(options, str):
        raise RowError("its options are one string, and are taken as a list or by letter. Read them with a template.")
    else:
        pairs = zip(string.ascii_uppercase, options, strict=False)
    return [(str(letter).strip(), "" if text is None else str(text).strip()) for letter, text in pairs]


def _right(given: Sequence[tuple[str, str]], answer: Any) -> int:
    letters = [letter for letter, _ in given]
    if isinstance(answer, int | np.integer) and not isinstance(answer, bool):
        if str(answer) in letters:  # options that are called 1, 2, 3
            return letters.index(str(answer))
        if 0 <= answer < len(given):
            return int(answer)
    elif isinstance(answer, str):
        said = answer.strip()
        for known in (letters, [text for _, text in given]):
            if said in known:
                return known.index(said)
        folded = [letter.casefold() for letter in letters]
        if said.casefold().strip("().") in folded:
            return folded.index(said.casefold().strip("()."))
    raise RowError(f"its answer {answer!r} is none of its options {letters}.")


def _chat(question: str, answer: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def _pubmedqa(row: Mapping) -> dict:
    context = "\n".join(row["context"]["contexts"])
    return choice_row(f"{context}\n\n{row['question']}", ["yes", "no", "maybe"], row["final_decision"])


def _medmcqa(row: Mapping) -> dict | None:
    if row["cop"] is None or row["cop"] < 0:  # the test's answers are kept back
        return None
    return choice_row(row["question"], [row[f"op{letter}"] for letter in "abcd"], row["cop"])


def _gpqa(row: Mapping) -> dict | None:
    if row["Subdomain"] not in ("Molecular Biology", "Genetics"):
        return None
    options = [row["Correct Answer"], *(row[f"Incorrect Answer {i}"] for i in (1, 2, 3))]
    order = np.random.default_rng(int(digest(row["Question"])[:8], 16)).permutation(4)
    return choice_row(row["Question"], [options[i] for i in order], int(np.flatnonzero(order == 0)[0]))


def _hle(row: Mapping) -> dict | None:
    if row.get("image") or "Biology" not in row["category"]:
        return None
    return _chat(row["question"].strip(), str(row["answer"]).strip())  # the options are in the question


def _mmlu_pro(row: Mapping) -> dict | None:
    return choice_row(row["question"], row["options"], row["answer"]) if row["category"] == "health" else None


def _medxpertqa(row: Mapping) -> dict:
    return choice_row(row["question"].split("\nAnswer Choices:")[0], row["options"], row["label"])


def _medbullets(row: Mapping) -> dict:
    return choice_row(row["question"], row["options"], row["answer"])


def _medqa(row: Mapping) -> dict:
    return choice_row(row["question"], row["options"], row["answer_idx"])


BENCHMARKS = {
    "gpqa": Benchmark("Idavidrein/gpqa", "train", _gpqa, "gpqa_main"),
    "hle": Benchmark("cais/hle", "test", _hle),
    "medbullets": Benchmark("mkieffer/Medbullets", "op5_test", _medbullets),
    "medmcqa": Benchmark("openlifescienceai/medmcqa", "validation", _medmcqa),
    "medqa": Benchmark("GBaker/MedQA-USMLE-4-options", "train", _medqa),
    "medxpertqa": Benchmark("TsinghuaC3I/MedXpertQA", "test", _medxpertqa, "Text"),
    "mmlu-pro-health": Benchmark("TIGER-Lab/MMLU-Pro", "test", _mmlu_pro),
    "pubmedqa": Benchmark("qiaojin/PubMedQA", "train", _pubmedqa, "pqa_labeled"),
}


def read_question(row: Mapping) -> dict[str, Any]:
    """A row of any file as prompt and completion in messages.

    A multiple-choice question has `question`, `options` (a list, or a struct by letter) and `answer` (a letter, a
    number from 0, or the option's text). Else it is a conversation, `prompt` and `completion`, or columns that a
    preset reads, `question` and `answer` for instance.

    Raises:
        [`RowError`]: It is none of these.
    """
    row = {name: plain(value) for name, value in row.items() if value is not None}
    question, options, right = (next((row[name] for name in names if name in row), None) for names in _SHAPE)
    if question is not None and options is not None:
        return choice_row(question, options, right)
    row = readable(row)
    if "messages" in row:
        check_messages(row["messages"], "messages")
        prompt, completion = split_answer(row["messages"])
        if not prompt or not completion:
            raise RowError("its conversation has no question followed by an answer.")
        return {"prompt": prompt, "completion": completion}
    if "prompt" in row and "completion" in row:
        prompt, completion = row["prompt"], row["completion"]
        return _chat(prompt, completion) if isinstance(prompt, str) else {"prompt": prompt, "completion": completion}
    if not isinstance(name := fitting(row, row), str):
        raise RowError(unknown_shape(row, row).replace("The columns", "its columns", 1))
    return read_question(PRESETS[name](row))


_SHAPE = (QUESTION, OPTIONS, RIGHT)


def sample(size: int, count: int, task: str, seed: int = 0) -> list[int]:
    """Which rows of a task are taken: the same whatever other tasks there are, in order."""
    generator = np.random.default_rng([seed, int(digest(task)[:8], 16)])
    return sorted(generator.permutation(size)[:count].tolist())
