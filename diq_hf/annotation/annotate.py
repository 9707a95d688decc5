"""Difficulty labels from an LLM judge for the rows of a dataset: each question is paid for once, whatever happens."""

import json
import queue
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, Value, config
from datasets.utils import tqdm
from transformers.utils import logging

from ..difficulty.agreement import level_agreement
from ..difficulty.levels import NUM_LEVELS
from ..files import refuse_address
from ..rows.formats import RowEncoder
from ..rows.presets import column_template
from ..rows.templates import ColumnTemplate
from .journal import AnswerJournal
from .judge import Answer, Judge, JudgeError, NoAnswer
from .questions import QuestionReader
from .rubric import RUBRIC, Scale


logger = logging.get_logger(__name__)

# So many rows without a label one after another are no accident of the rows.
HOPELESS = 20
OUTCOMES = ("labelled", "refused", "cut off", "unusable", "unanswered", "bad row")


@dataclass(frozen=True)
class Annotation:
    """Rows with their levels, and what became of each question.

    Args:
        dataset ([`~datasets.Dataset`]):
            The rows with a column for each perspective: a level 1 to 5, or null.
        report (`dict`):
            Plain JSON: rows by outcome, answers, tokens, the unlabelled rows with the reason and the judge's words,
            the agreement with another annotation, the journal's path.
    """

    dataset: Dataset
    report: dict = field(repr=False)

    @property
    def labelled(self) -> int:
        """Number of rows that have levels. `diq annotate` ends with an error where there is none."""
        return self.report["labelled"]

    def save(self, folder: str | Path) -> None:
        """Saves the dataset with `save_to_disk`, and the report beside it as `annotation.json`."""
        self.dataset.save_to_disk(folder)
        (Path(folder) / "annotation.json").write_text(json.dumps(self.report, indent=2) + "\n")

    def summary(self) -> str:
        """The report in a few lines: rows by outcome, levels, cost, agreement."""
        report, rows = self.report, len(self.dataset)
        others = [f"{report[name]} {name}" for name in OUTCOMES[1:] if report[name]]
        lines = ["; ".join([f"{report['labelled']} of {rows} rows labelled", *others])]
        if not self.labelled:
            reasons = Counter(row["reason"] for row in report["unlabelled"])
            lines.append(f"Nothing was labelled, most often because: {reasons.most_common(1)[0][0]}")
        names = report["perspectives"]
        width = max(map(len, names))
        for name in names:
            counts = Counter(self.dataset[name][:])
            shown = "  ".join(f"{level}: {counts[level]}" for level in range(1, NUM_LEVELS + 1))
            lines.append(f"{name:<{width}}  {shown}")
        cost = f"{report['answers']} answers, {report['answers_of_this_run']} of them in this run"
        if report["completion_tokens"] is not None:
            cost += f"; {report['prompt_tokens']:,} prompt and {report['completion_tokens']:,} completion tokens"
        if uncounted := report["answers_without_token_counts"]:
            cost += f"; {uncounted} came without token counts"
        lines.append(f"{cost}; {report['retries']} retries")
        for name, agreed in report.get("agreement", {}).items():
            shares = f"agreement on {agreed['rows']} rows"
            if agreed["rows"]:
                kappa = "undefined" if agreed["kappa"] is None else f"{agreed['kappa']:.3f}"
                shares += f": kappa {kappa}, exact {agreed['exact']:.0%}, within one {agreed['within_one']:.0%}"
            lines.append(f"{name:<{width}}  {shares}")
        return "\n".join(lines)


def annotate(
    dataset: Dataset,
    model: str,
    base_url: str | None = None,
    provider: str | None = None,
    token: str | None = None,
    rubric: Mapping[str, Scale] = RUBRIC,
    text: str = "prompt",
    compare_with: Dataset | None = None,
    max_concurrency: int = 8,
    overwrite: bool = False,
    on_bad_row: str = "raise",
    cache_dir: str | Path | None = None,
    processing_class: Any = None,
    dataset_text_field: str = "text",
    columns: str | Mapping | ColumnTemplate | None = None,
    **judge_options,
) -> Annotation:
    """Asks an LLM judge how difficult each row is, from every perspective of a rubric, and adds the levels as columns.

    Each answer is written to a journal before it counts, so a run that was killed or stopped goes on where it was, and
    a row is not paid for twice. Rows without a valid answer get nulls, never a default.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows in any format [`DIQScorer`] takes. Equal questions are asked once.
        model (`str`):
            The judge: its name on the endpoint or on the Hub.
        base_url (`str`, *optional*):
            An OpenAI-compatible endpoint; by default the model is reached through an Inference Provider.
        provider (`str`, *optional*):
            Which Inference Provider; by default the Hub picks one.
        token (`str`, *optional*):
            With `base_url` the endpoint's own, and none is sent by default; else the saved Hugging Face token.
        rubric (`dict[str, Scale]`, *optional*, defaults to [`RUBRIC`]):
            The perspectives to rate: those of `RUBRIC` (knowledge, reasoning, overall), some of them, or your own.
        text (`str`, *optional*, defaults to `"prompt"`):
            What the judge reads: `"prompt"`, or `"prompt+completion"`, for which a row must have an answer.
        compare_with ([`~datasets.Dataset`], *optional*):
            The same rows annotated by another judge or in another run (`seed=`): the report then holds the agreement.
        max_concurrency (`int`, *optional*, defaults to `8`):
            Questions under way at once.
        overwrite (`bool`, *optional*, defaults to `False`):
            Replace columns of the same name.
        on_bad_row (`str`, *optional*, defaults to `"raise"`):
            `"raise"`, or `"skip"` to leave rows that cannot be read unlabelled.
        cache_dir (`str` or `Path`, *optional*):
            Folder for the journals; by default `diq_hf` in the cache of `datasets`.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Tokenizer, for pre-tokenized rows only.
        dataset_text_field (`str`, *optional*, defaults to `"text"`):
            Column of plain text rows.
        columns (`str` or [`~diq_hf.rows.templates.ColumnTemplate`], *optional*):
            For rows of no known format: a preset such as `"alpaca"`, or format strings over columns.
        judge_options:
            Further arguments of [`~diq_hf.annotation.judge.Judge`]: `temperature`, `max_tokens`,
            `max_completion_tokens`, `seed`, `json_schema`, `timeout`, `max_retries`, `retry_delay`. Models that take
            neither a temperature nor `max_tokens` (OpenAI's o1, o3, gpt-5) are asked with `temperature=None` and
            `max_completion_tokens=4096`.

    Returns:
        [`Annotation`]: The labelled dataset and a report.

    Raises:
        [`~diq_hf.annotation.judge.JudgeError`]: The judge cannot be asked (a wrong token, an unknown model, an
            outage, only unusable answers). Answers so far are kept; mend the cause and run again.

    Example:

    ```python
    labelled = annotate(ds, model="Qwen/Qwen3-32B", base_url="http://localhost:8000/v1")
    labelled.dataset["knowledge"]
    ```
    """
    if max_concurrency < 1:
        raise ValueError(f"`max_concurrency` must be at least 1, got {max_concurrency}.")
    refuse_address(cache_dir, "cache_dir")
    for name, rows in (("dataset", dataset), ("compare_with", compare_with)):
        if not isinstance(rows, Dataset) and (name == "dataset" or rows is not None):
            raise TypeError(
                f"`{name}` must be a `Dataset`, got {type(rows).__name__}. Pick a split of a `DatasetDict`."
            )
    if not overwrite and (clash := [name for name in rubric if name in dataset.column_names]):
        raise ValueError(f"The dataset already has {clash}. Remove the columns, or pass `overwrite=True`.")
    if not len(dataset):
        raise ValueError("The dataset has no rows.")
    judge = Judge(model, rubric, base_url=base_url, provider=provider, token=token, **judge_options)
    template = column_template(columns)
    if template is not None:
        template.check_columns(dataset.column_names)
    encoder = RowEncoder(processing_class, dataset_text_field=dataset_text_field, template=template)
    reader = QuestionReader(encoder, text, on_bad_row)
    folder = Path(config.HF_DATASETS_CACHE) / "diq_hf" if cache_dir is None else Path(cache_dir)
    # Every row is read before the first is paid for.
    with AnswerJournal(folder, judge.recipe) as journal:
        keys = [None if question is None else journal.key(question) for question in reader.questions(dataset)]
        if compare_with is not None:
            others = reader.questions(compare_with)
            _check_same_rows(keys, [None if q is None else journal.key(q) for q in others], compare_with, rubric)
        run = _Run(judge, journal, lambda position: reader.question(dataset, position))
        positions: dict[str, int] = {}
        for i, key in enumerate(keys):
            if key is not None:
                positions.setdefault(key, i)
        run.ask(positions, max_concurrency)
        report = _report(judge, journal, run, keys)
        levels = [(_last(journal, key) or {}).get("levels") or {} for key in keys]
    for name in rubric:
        if name in dataset.column_names:
            dataset = dataset.remove_columns(name)
        dataset = dataset.add_column(name, [row.get(name) for row in levels], feature=Value("int32"))
    if compare_with is not None:
        report["agreement"] = {name: _agreement(dataset[name][:], compare_with[name][:]) for name in rubric}
    if unlabelled := len(dataset) - report["labelled"]:
        logger.warning(f"{unlabelled} of {len(dataset)} rows have no levels.")
    return Annotation(dataset, report)


class _Run:
    """Questions put to the judge by several threads, every answer journaled."""

    def __init__(self, judge: Judge, journal: AnswerJournal, question: Any):
        self.judge = judge
        self.journal = journal
        self.question = question
        self.unanswered: dict[str, str] = {}
        self.answers = 0
        self._without_label = 0
        self._counting = threading.Lock()

    def ask(self, positions: Mapping[str, int], max_concurrency: int) -> None:
        """Asks for every key that has no final answer yet; on an error what is under way is still written down."""
        todo: queue.SimpleQueue = queue.SimpleQueue()
        for key, position in positions.items():
            if not self._settled(key):
                todo.put((key, position))
        try:
            with (
                tqdm(total=todo.qsize(), desc="Judging", unit=" rows", disable=todo.empty()) as self.bar,
                ThreadPoolExecutor(max_concurrency) as threads,
            ):
                try:
                    for thread in [threads.submit(self._work, todo) for _ in range(max_concurrency)]:
                        thread.result()
                finally:
                    self.judge.stopped.set()
            if self.unanswered and not any(map(self._settled, positions)):
                raise JudgeError(f"No row got an answer. The last one: {list(self.unanswered.values())[-1]}.")
        except JudgeError as error:  # every thread has ended by now
            done = sum(self._settled(key) for key in positions)
            kept = f"{done} of {len(positions)} questions are answered and kept in {self.journal.path}"
            raise JudgeError(f"{error} {kept}; run again to go on from there.") from None

    def _work(self, todo: queue.SimpleQueue) -> None:
        try:
            while not self.judge.stopped.is_set():
                try:
                    key, position = todo.get_nowait()
                except queue.Empty:
                    return
                self._ask_one(key, self.question(position))
        except BaseException:
            self.judge.stopped.set()
            raise

    def _ask_one(self, key: str, question: str) -> None:
        problem = ""
        try:
            while not self._settled(key):
                if problem:
                    self.judge.pause(self._tries(key) - 1, problem)
                answer = self.judge.ask(question)
                self.journal.append(key, answer.to_dict())
                problem = f"An answer is unusable: {answer.reason}"
                with self._counting:
                    self.answers += 1
            labelled = answer.outcome == "labelled"
            reason = answer.reason
        except NoAnswer as error:
            if self.judge.stopped.is_set():
                return
            labelled, reason = False, str(error)
            self.unanswered[key] = reason
        with self._counting:
            self.bar.set_postfix(retries=self.judge.retries, refresh=False)
            self.bar.update()
            self._without_label = 0 if labelled else self._without_label + 1
            if self._without_label == HOPELESS:
                raise JudgeError(f"{HOPELESS} rows one after another got no label. The last one: {reason}.")

    def _tries(self, key: str) -> int:
        return len(self.journal.answers.get(key, ()))

    def _settled(self, key: str) -> bool:
        last = _last(self.journal, key)
        return last is not None and (last["outcome"] != "unusable" or self._tries(key) > self.judge.max_retries)


def _last(journal: AnswerJournal, key: str | None) -> dict | None:
    answers = journal.answers.get(key) if key is not None else None
    return answers[-1] if answers else None


def _report(judge: Judge, journal: AnswerJournal, run: _Run, keys: list[str | None]) -> dict:
    outcomes, unlabelled = Counter(), []
    for i, key in enumerate(keys):
        last = _last(journal, key)
        if last is None or key in run.unanswered:
            reason = "it cannot be read" if key is None else run.unanswered[key]
            last = Answer("bad row" if key is None else "unanswered", reason=reason).to_dict()
        outcomes[last["outcome"]] += 1
        if last["outcome"] != "labelled":
            unlabelled.append({"row": i, **{name: last[name] for name in ("outcome", "reason", "text")}})
    answers = [answer for key in set(keys) - {None} for answer in journal.answers.get(key, ())]
    report = {"perspectives": list(judge.perspectives)} | {name: outcomes[name] for name in OUTCOMES}
    report |= {"answers": len(answers), "answers_of_this_run": run.answers, "retries": judge.retries}
    for name in ("prompt_tokens", "completion_tokens"):
        counted = [answer[name] for answer in answers if answer[name] is not None]
        report[name] = sum(counted) if counted else None
    report["answers_without_token_counts"] = sum(answer["completion_tokens"] is None for answer in answers)
    return report | {"unlabelled": unlabelled, "journal": str(journal.path), "recipe": judge.recipe}


def _agreement(first: list, second: list) -> dict:
    found = level_agreement(first, second)
    return {name: None if value != value else value for name, value in found.items()}  # JSON has no NaN


def _check_same_rows(keys: list, others: list, compare_with: Dataset, rubric: Mapping) -> None:
    if missing := [name for name in rubric if name not in compare_with.column_names]:
        raise ValueError(f"`compare_with` has no column {missing}: it is no annotation by this rubric.")
    if len(keys) != len(others):
        raise ValueError(f"`compare_with` has {len(others)} rows and the dataset {len(keys)}. Compare the same rows.")
    if different := [i for i, pair in enumerate(zip(keys, others, strict=True)) if pair[0] != pair[1]]:
        raise ValueError(f"Row {different[0]} of `compare_with` is another row. Compare the same rows in one order.")
