"""The main table of the DIQ paper (arXiv 2508.01450) as one script: prepare, score, compare.

    cd examples/paper
    python paper.py prepare
    torchrun --nproc_per_node 8 paper.py score
    python paper.py compare

README.md says what each step costs, what is known of the paper's set-up, and what has never been run.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset, load_dataset, load_from_disk

from diq_hf import DIQScorer
from diq_hf.comparison.compare import compare
from diq_hf.comparison.page import markdown_table


POOL = "FreedomIntelligence/medical-o1-reasoning-SFT"
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
STRATEGIES = ("diq-paper", "diq", "random", "influence", "difficulty", "length", "less", "rds", "full")
VALIDATION_ROWS = 45  # a task; the paper takes 20, and finds ranks stable from 360 to 450 rows of nine tasks on
INSTRUCTION = "Answer the question. End with: The answer is X, where X is the letter of the right option."


class Task(NamedTuple):
    """A multiple-choice benchmark on the Hub, and how its rows become question, options and the right letter."""

    path: str
    config: str | None
    validation: str | None  # split to draw validation rows from; without one they are held out of the test split
    test: str
    read: Callable[[dict], tuple[str, dict[str, str], str]]


TASKS = {
    "medqa": Task(
        "GBaker/MedQA-USMLE-4-options",
        None,
        "train",
        "test",
        lambda row: (row["question"], row["options"], row["answer_idx"]),
    ),
    "medmcqa": Task(
        "openlifescienceai/medmcqa",
        None,
        "train",
        "validation",
        lambda row: (row["question"], {x.upper(): row[f"op{x}"] for x in "abcd"}, "ABCD"[row["cop"]]),
    ),
    "pubmedqa": Task(
        "qiaojin/PubMedQA",
        "pqa_labeled",
        None,
        "train",
        lambda row: (
            "\n".join([*row["context"]["contexts"], row["question"]]),
            {"A": "yes", "B": "no", "C": "maybe"},
            {"yes": "A", "no": "B", "maybe": "C"}[row["final_decision"]],
        ),
    ),
    "medxpertqa": Task(
        "TsinghuaC3I/MedXpertQA",
        "Text",
        None,
        "test",
        lambda row: (row["question"], row["options"], row["label"]),
    ),
}


def read_task(name: str) -> tuple[str, list[dict], list[dict] | None]:
    """A task's name, its test questions, and others to draw validation rows from if there are any.

    A path is a JSONL file of `question`, `options` (letters and texts) and `answer` (a letter).
    """

    def plain(rows: Dataset, read: Callable) -> list[dict]:
        return [dict(zip(("question", "options", "answer"), read(row), strict=True)) for row in rows]

    if name not in TASKS:
        rows = [json.loads(line) for line in Path(name).read_text(encoding="utf-8").splitlines() if line.strip()]
        return Path(name).stem, rows, None
    task = TASKS[name]
    splits = [None if split is None else load_dataset(task.path, task.config, split=split) for split in task[2:4]]
    validation, test = (None if split is None else plain(split, task.read) for split in splits)
    return name, test, validation


def chat(question: str, answer: str) -> dict:
    return {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def as_prompt(row: dict) -> str:
    options = "\n".join(f"{letter}. {text}" for letter, text in sorted(row["options"].items()) if text)
    return f"{INSTRUCTION}\n\n{row['question']}\n\n{options}"


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_rows(path: Path) -> Dataset:
    return load_dataset("json", data_files=str(path), split="train")


def as_validation(row: dict) -> dict:
    """Prompt and answer, as a model is to be good at them."""
    return chat(as_prompt(row), f"{row['options'][row['answer']]}. The answer is {row['answer']}")


def as_heldout(row: dict) -> dict:
    """The same, and the choice of a letter: the likeliest of the sentences that end an answer."""
    letters = sorted(letter for letter, text in row["options"].items() if text)
    options = {letter: f"The answer is {letter}" for letter in letters}
    return as_validation(row) | {"question": as_prompt(row), "options": options, "answer": row["answer"]}


def prepare(options: argparse.Namespace) -> None:
    """The pool, 45 validation rows of each task, and each task's other questions, as JSONL."""
    local = options.pool.endswith((".jsonl", ".json"))
    pool = read_rows(options.pool) if local else load_dataset(options.pool, "en", split="train")
    rows = [chat(row["Question"], f"{row['Complex_CoT']}\n\n{row['Response']}") for row in pool]
    write_rows(options.work / "pool.jsonl", rows)
    validation, heldout = [], []
    for name in options.tasks:
        task, test, others = read_task(name)
        rng = np.random.default_rng(options.seed)
        source = test if others is None else others
        drawn = rng.permutation(len(source))[:VALIDATION_ROWS].tolist()
        validation += [as_validation(source[i]) | {"task": task} for i in drawn]
        if others is None:
            test = [row for i, row in enumerate(test) if i not in set(drawn)]
        asked = np.sort(rng.permutation(len(test))[: options.limit]).tolist()
        heldout += [as_heldout(test[i]) | {"task": task} for i in asked]
        print(f"{task}: {len(drawn)} validation rows, {len(asked)} test questions")
    write_rows(options.work / "validation.jsonl", validation)
    write_rows(options.work / "heldout.jsonl", heldout)
    print(f"{len(rows)} rows in the pool, {len(validation)} validation rows")


def score(options: argparse.Namespace) -> None:
    """Difficulty, influence and mismatch of the pool; goes on where a killed run stopped."""
    scorer = DIQScorer(
        options.model,
        read_rows(options.work / "validation.jsonl"),
        difficulty=options.difficulty,
        max_length=options.max_length,
        group_column="task",
        extra_columns=["loss", "mismatch"],
    )
    scored = scorer.score(read_rows(options.work / "pool.jsonl"), cache_dir=options.work / "chunks")
    if int(os.environ.get("RANK", 0)) == 0:
        scored.save_to_disk(options.work / "scored")


def run(options: argparse.Namespace) -> None:
    """Trains on what each strategy takes, and holds it against random rows at the same budget.

    As the paper trains: LoRA r = 8 on q, k and v, 1e-4 with cosine decay, 3 epochs. The batch size is ours. Start it
    once a GPU: processes share the runs, and go on where killed ones stopped.
    """
    result = compare(
        load_from_disk(options.work / "scored"),
        options.model,
        read_rows(options.work / "validation.jsonl"),
        read_rows(options.work / "heldout.jsonl"),
        options.work / "compared",
        options.strategies,
        options.ratio,
        options.seeds,
        budget=options.budget,
        training={
            "num_train_epochs": 3,
            "max_length": options.max_length,
            # Parts of a step of several average rows each, so that longer rows than those fill them as well.
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": max(1, options.batch_size // 4),
        },
        difficulty=options.difficulty,
        group_column="task",
        on_leak="drop",
        tasks=options.lm_eval,
    )
    print(markdown_table(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--work", type=Path, default=Path("paper_output"), help="folder for everything made")
    common.add_argument("--model", default=MODEL)
    common.add_argument("--max_length", type=int, default=8192)
    common.add_argument("--difficulty", default="ifd", help="as in DIQScorer: a classifier in the paper")
    steps = parser.add_subparsers(required=True)
    commands = {}
    for name, step in (("prepare", prepare), ("score", score), ("compare", run)):
        commands[name] = steps.add_parser(name, parents=[common], help=step.__doc__.splitlines()[0])
        commands[name].set_defaults(step=step)
    prepared, compared = commands["prepare"], commands["compare"]
    prepared.add_argument("--pool", default=POOL, help="Hub id, or JSONL with the same three columns")
    prepared.add_argument("--tasks", nargs="+", default=list(TASKS), help="names above, or JSONL files")
    prepared.add_argument("--limit", type=int, help="questions of each task")
    prepared.add_argument("--seed", type=int, default=0, help="of the draw")
    compared.add_argument("--strategies", nargs="+", default=STRATEGIES)
    compared.add_argument("--ratio", nargs="+", type=float, default=(0.01, 0.1))
    compared.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    compared.add_argument("--budget", default="tokens", help="what is equal: tokens, or rows as in the paper")
    compared.add_argument("--batch_size", type=int, default=16, help="average rows in a step")
    compared.add_argument("--lm_eval", nargs="+", default=(), help="tasks of lm-eval to measure by as well")
    options = parser.parse_args()
    options.step(options)


if __name__ == "__main__":
    main()
