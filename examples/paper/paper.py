"""The main table of the DIQ paper (arXiv 2508.01450) as one script: prepare, score, select, train, evaluate, table.

    cd examples/paper
    python paper.py prepare
    torchrun --nproc_per_node 8 paper.py score
    python paper.py select
    torchrun --nproc_per_node 8 paper.py train diq-0.01
    python paper.py evaluate diq-0.01
    python paper.py table

README.md says what each step costs, what is known of the paper's set-up, and what has never been run.
"""

import argparse
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset, load_dataset, load_from_disk
from peft import AutoPeftModelForCausalLM, LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from diq_hf import DIQScorer, select_subset
from diq_hf.engine.influence import InfluenceEngine
from diq_hf.rows.formats import RowEncoder


POOL = "FreedomIntelligence/medical-o1-reasoning-SFT"
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
QKV = ["q_proj", "k_proj", "v_proj"]
RATIOS = (0.01, 0.1)
STRATEGIES = ("diq", "random", "influence", "difficulty", "loss", "length")
VALIDATION_ROWS = 20  # a task
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


def prepare(options: argparse.Namespace) -> None:
    """The pool, 20 validation rows of each task, and each task's other questions, as JSONL."""
    local = options.pool.endswith((".jsonl", ".json"))
    pool = read_rows(options.pool) if local else load_dataset(options.pool, "en", split="train")
    rows = [chat(row["Question"], f"{row['Complex_CoT']}\n\n{row['Response']}") for row in pool]
    write_rows(options.work / "pool.jsonl", rows)
    validation = []
    for name in options.tasks:
        task, test, others = read_task(name)
        source = test if others is None else others
        drawn = np.random.default_rng(options.seed).permutation(len(source))[:VALIDATION_ROWS].tolist()
        for i in drawn:
            answer = f"{source[i]['options'][source[i]['answer']]}. The answer is {source[i]['answer']}"
            validation.append(chat(as_prompt(source[i]), answer) | {"task": task})
        if others is None:
            test = [row for i, row in enumerate(test) if i not in set(drawn)]
        write_rows(options.work / "tasks" / f"{task}.jsonl", test)
        print(f"{task}: {len(drawn)} validation rows, {len(test)} test questions")
    write_rows(options.work / "validation.jsonl", validation)
    print(f"{len(rows)} rows in the pool, {len(validation)} validation rows")


def score(options: argparse.Namespace) -> None:
    """Difficulty and influence of the pool; goes on where a killed run stopped."""
    scorer = DIQScorer(
        options.model,
        read_rows(options.work / "validation.jsonl"),
        difficulty=options.difficulty,
        max_length=options.max_length,
        group_column="task",
        extra_columns=["loss", "num_tokens"],
    )
    scored = scorer.score(read_rows(options.work / "pool.jsonl"), cache_dir=options.work / "chunks")
    if is_main():
        scored.save_to_disk(options.work / "scored")


def select(options: argparse.Namespace) -> None:
    """A subset for every strategy and ratio; `full` is the whole pool."""
    scored = load_from_disk(options.work / "scored")
    scored.save_to_disk(options.work / "subsets" / "full")
    for strategy in STRATEGIES:
        for ratio in RATIOS:
            # The paper passes nothing over.
            nothing = {"max_mismatch": None, "max_similarity": None}
            subset = select_subset(scored, ratio=ratio, strategy=strategy, seed=options.seed, **nothing)
            subset.save_to_disk(options.work / "subsets" / f"{strategy}-{ratio}")
            print(f"{strategy}-{ratio}: {len(subset)} rows, {sum(subset['num_tokens'][:])} tokens")


def train(options: argparse.Namespace) -> None:
    """LoRA as in the paper: r = 8 on q, k and v, 1e-4 with cosine decay, 3 epochs. The batch size is ours."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    trainer = SFTTrainer(
        options.model,
        train_dataset=load_from_disk(options.work / "subsets" / options.name),
        args=SFTConfig(
            output_dir=options.work / "models" / options.name,
            num_train_epochs=3,
            learning_rate=1e-4,
            lr_scheduler_type="cosine",
            max_length=options.max_length,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=max(1, options.batch_size // processes),
            save_strategy="no",
            use_cpu=not torch.accelerator.is_available(),
            seed=options.seed,
            report_to="none",
        ),
        peft_config=LoraConfig(r=8, target_modules=QKV, task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model()


def evaluate(options: argparse.Namespace) -> None:
    """Accuracy on each task; `base` is the model before any training."""
    if options.name == "base":
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype="auto")
    else:
        model = AutoPeftModelForCausalLM.from_pretrained(
            options.work / "models" / options.name, is_trainable=True, dtype="auto"
        )
    if torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    accuracy = {}
    for path in sorted((options.work / "tasks").glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][: options.limit]
        if options.max_new_tokens:
            answers = [read_answer(generate(model, tokenizer, row, options.max_new_tokens)) for row in rows]
        else:
            answers = likeliest(model, RowEncoder(tokenizer, max_length=None), rows)
        right = [answer == row["answer"] for answer, row in zip(answers, rows, strict=True)]
        accuracy[path.stem] = {"accuracy": 100 * float(np.mean(right)), "questions": len(rows)}
    method = "generated" if options.max_new_tokens else "likelihood"
    result = {"trained_on": options.name, "method": method, "tasks": accuracy}
    path = options.work / "results" / f"{options.name}-{method}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1))
    print(json.dumps(result))


def likeliest(model: torch.nn.Module, encoder: RowEncoder, rows: list[dict]) -> list[str]:
    """The letter whose answer has the largest likelihood, without any reasoning before it."""
    letters = [sorted(letter for letter, text in row["options"].items() if text) for row in rows]
    answers = [
        encoder(chat(as_prompt(row), f"The answer is {letter}"))
        for row, of_row in zip(rows, letters, strict=True)
        for letter in of_row
    ]
    surprise = InfluenceEngine(model).losses(answers) * [answer.num_trained for answer in answers]
    parts = np.split(surprise, np.cumsum([len(of_row) for of_row in letters])[:-1])
    return [of_row[int(np.argmin(part))] for of_row, part in zip(letters, parts, strict=True)]


def generate(model: torch.nn.Module, tokenizer: AutoTokenizer, row: dict, max_new_tokens: int) -> str:
    """A greedy answer with its reasoning, one question at a time: simple, and slow beside a serving engine."""
    inputs = tokenizer.apply_chat_template(
        chat(as_prompt(row), "")["prompt"], add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(model.device)
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def read_answer(text: str) -> str | None:
    """The letter after the last "answer is"; a text without one counts as wrong."""
    letters = re.findall(r"answer is:?\s*[*(\[]*([A-Z])\b", text, flags=re.IGNORECASE)
    return letters[-1].upper() if letters else None


def table(options: argparse.Namespace) -> None:
    """All results as Markdown."""
    results = [json.loads(path.read_text()) for path in sorted((options.work / "results").glob("*.json"))]
    if not results:
        raise SystemExit(f"There are no results in {options.work / 'results'}. Run `evaluate` first.")
    tasks = sorted({task for result in results for task in result["tasks"]})
    print(f"| trained on | {' | '.join(tasks)} | mean | answers |")
    print(f"| --- |{' ---: |' * (len(tasks) + 1)} --- |")
    for result in results:
        accuracy = [result["tasks"].get(task, {}).get("accuracy", float("nan")) for task in tasks]
        cells = " | ".join(f"{value:.2f}" for value in [*accuracy, np.mean(accuracy)])
        print(f"| {result['trained_on']} | {cells} | {result['method']} |")


def is_main() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--work", type=Path, default=Path("paper_output"), help="folder for everything made")
    common.add_argument("--model", default=MODEL)
    common.add_argument("--max_length", type=int, default=8192)
    common.add_argument("--seed", type=int, default=0)
    steps = parser.add_subparsers(required=True)
    commands = {}
    for step in (prepare, score, select, train, evaluate, table):
        commands[step] = steps.add_parser(step.__name__, parents=[common], help=step.__doc__)
        commands[step].set_defaults(step=step)
    commands[prepare].add_argument("--pool", default=POOL, help="Hub id, or JSONL with the same three columns")
    commands[prepare].add_argument("--tasks", nargs="+", default=list(TASKS), help="names above, or JSONL files")
    commands[score].add_argument("--difficulty", default="ifd", help="as in DIQScorer: a classifier in the paper")
    commands[train].add_argument("--batch_size", type=int, default=16, help="rows in a step, all processes together")
    for step in (train, evaluate):
        commands[step].add_argument("name", help="a subset, such as diq-0.01 or full")
    commands[evaluate].add_argument("--max_new_tokens", type=int, default=0, help="generate answers of this length")
    commands[evaluate].add_argument("--limit", type=int, help="questions of each task")
    options = parser.parse_args()
    options.step(options)


if __name__ == "__main__":
    main()
