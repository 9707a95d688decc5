"""The examples run, on a tiny model, and say true things about what they show."""

import inspect
import json
import os
import re
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, load_from_disk
from trl import SFTConfig

from diq_hf import DIQScorer
from diq_hf.comparison.heldout import HeldOut
from diq_hf.rows.formats import RowEncoder


EXAMPLES = Path(__file__).parents[2] / "examples"
import paper  # noqa: E402
from clinical_pool import clinical_pool, clinical_validation  # noqa: E402


@pytest.fixture
def folder(tmp_path, pool, validation, monkeypatch):
    """Small inputs of every example, in the working folder."""
    monkeypatch.chdir(tmp_path)
    rejected = [{"role": "assistant", "content": "No."}]
    texts = [(row["prompt"][0]["content"], row["completion"][0]["content"]) for row in pool]
    options = {"A": "sodium", "B": "potassium", "C": None, "D": "calcium"}
    paper.write_rows(tmp_path / "pool.jsonl", pool)
    paper.write_rows(tmp_path / "validation.jsonl", validation)
    preferences = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": rejected} for row in pool]
    paper.write_rows(tmp_path / "preferences.jsonl", preferences)
    questions = [{"query": question, "reply": answer} for question, answer in [*texts, ("Why?", None), ("How?", " ")]]
    paper.write_rows(tmp_path / "questions.jsonl", questions)
    huatuo = [{"Question": question, "Complex_CoT": "Hm.", "Response": answer} for question, answer in texts]
    paper.write_rows(tmp_path / "huatuo.jsonl", huatuo)
    task = [{"question": f"Which ion {i}?", "options": options, "answer": "ABD"[i % 3]} for i in range(50)]
    paper.write_rows(tmp_path / "ions.jsonl", task)
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs an example as a script, in this process, and gives what it prints."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_score_then_train_on_the_subset(folder, run, model_folder):
    arguments = ["pool.jsonl", "--validation", "validation.jsonl", "--model", model_folder, "--ratio", 0.4]
    assert "3 of 7 rows" in run("howto/score_and_select.py", *arguments)
    assert load_from_disk("scored_pool/subset")["diq_rank"][:] == [1, 2, 3]
    assert "<title>" in (folder / "scored_pool" / "report.html").read_text()
    shown = run("howto/sft_on_subset.py", "scored_pool/subset", "--model", model_folder, "--epochs", 1)
    assert "final loss" in shown and (folder / "sft_output" / "adapter_model.safetensors").is_file()


def test_callback(folder, run, model_folder):
    arguments = ["pool.jsonl", "--validation", "validation.jsonl", "--model", model_folder, "--ratio", 0.3]
    assert "2 steps" in run("howto/callback.py", *arguments)  # three passes over two rows, four a step
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert (folder / "adapter" / "diq" / "step-00000000.parquet").is_file()


def test_benchmark_online(folder, run, model_folder):
    assert "times one without" in run("benchmarks/benchmark_online.py", "--model", model_folder, "--steps", 5)


def test_dpo(folder, run, model_folder):
    arguments = ["preferences.jsonl", "--validation", "validation.jsonl", "--model", model_folder, "--ratio", 0.5]
    shown = run("howto/dpo.py", *arguments)
    assert "4 of 7 preference rows selected" in shown and "final loss" in shown
    assert (folder / "dpo_output" / "adapter_model.safetensors").is_file()


def test_own_domain(folder, run, model_folder):
    names = ["--question", "query", "--answer", "reply", "--num_validation", 3, "--model", model_folder]
    assert "2 of 4 rows" in run("howto/own_domain.py", "questions.jsonl", *names, "--ratio", 0.5)
    subset = load_from_disk("own_subset")
    assert [row["reply"] for row in subset] == [row["completion"][0]["content"] for row in subset]


def test_several_gpus(folder, model_folder, pool, validation):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        EXAMPLES / "howto/several_gpus.py",
    ]
    command += ["pool.jsonl", "--validation", "validation.jsonl", "--model", model_folder, "--chunk_size", "2"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert "7 rows scored by 2 processes" in result.stdout
    alone = Dataset.from_list(pool).map(DIQScorer(model_folder, validation), batched=True)
    np.testing.assert_allclose(load_from_disk("scored")["influence"][:], alone["influence"][:], rtol=1e-4)


def test_paper(folder, run, model_folder):
    common = ["--work", "out", "--model", model_folder, "--max_length", 512]
    task = ["--tasks", "ions.jsonl"]
    shown = run("paper/paper.py", "prepare", *common, "--pool", "huatuo.jsonl", *task)
    assert "ions: 45 validation rows, 5 test questions" in shown
    validation, test = ((folder / "out" / name).read_text() for name in ("validation.jsonl", "heldout.jsonl"))
    assert {i for i in range(50) if f"ion {i}?" in test} == {i for i in range(50) if f"ion {i}?" not in validation}
    assert "45 validation rows, 3 test questions" in run(
        "paper/paper.py", "prepare", *common, "--pool", "huatuo.jsonl", *task, "--limit", 3
    )
    run("paper/paper.py", "score", *common)
    assert "influence_ions" in load_from_disk("out/scored").column_names
    small = ["--ratio", 0.4, "--seeds", 0, "--batch_size", 4]
    table = run("paper/paper.py", "compare", *common, "--strategies", "diq-paper", "length", *small)
    assert "diq-paper" in table and "random" in table
    compared = json.loads((folder / "out/compared/comparison.json").read_text())
    assert compared["heldout"]["question_groups"] == ["ions"] * 3
    assert all(len(done["correct"]) == 3 for done in compared["runs"])


def test_a_letter_is_the_likeliest_end_of_an_answer(model, tokenizer):
    rows = [{"question": f"Which {i}?", "options": {"B": "x", "A": "y", "C": None}, "answer": "A"} for i in range(4)]
    expected = []
    for row in rows:
        likelihoods = {}
        for letter in "AB":
            text = f"<|start|>user\n{paper.as_prompt(row)}<|end|>\n<|start|>assistant\n"
            prompt = tokenizer(text)["input_ids"]
            answer = tokenizer(f"The answer is {letter}<|end|>\n")["input_ids"]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].double().log_softmax(-1)
            places = range(len(prompt), len(prompt) + len(answer))
            likelihoods[letter] = sum(logits[i - 1, token].item() for i, token in zip(places, answer, strict=True))
        expected.append(float(likelihoods["A"] > likelihoods["B"]))
    heldout = HeldOut(list(map(paper.as_heldout, rows)), RowEncoder(tokenizer))
    assert heldout.measure(model)[1].tolist() == expected


def test_hub_rows_of_the_paper():
    """The columns that public code uses for them; the Hub itself is not asked."""
    read = {name: task.read for name, task in paper.TASKS.items()}
    options = {"A": "x", "B": "y", "C": "z", "D": "w"}
    columns = {"question": "Q", "opa": "x", "opb": "y", "opc": "z", "opd": "w", "cop": 2}
    assert read["medmcqa"](columns) == ("Q", options, "C")
    assert read["medqa"]({"question": "Q", "options": options, "answer_idx": "D"}) == ("Q", options, "D")
    assert read["medxpertqa"]({"question": "Q", "options": options, "label": "A"}) == ("Q", options, "A")
    abstract = {"context": {"contexts": ["One.", "Two."]}, "question": "Q", "final_decision": "maybe"}
    assert read["pubmedqa"](abstract) == ("One.\nTwo.\nQ", {"A": "yes", "B": "no", "C": "maybe"}, "C")


def test_demo(model_folder, tmp_path):
    command = [
        sys.executable,
        EXAMPLES / "demo/demo.py",
        "--model",
        model_folder,
        "--output",
        tmp_path,
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    assert "%|" not in result.stderr + result.stdout  # no bars in a log
    for shown in (
        "40 rows in the pool",
        "whole pool",
        "Q1",
        "Taken first",
        "Taken last",
        "Selected against the whole pool",
        "Passed over: ",
    ):
        assert shown in result.stdout
    assert (tmp_path / "quadrants.png").read_bytes().startswith(b"\x89PNG")
    subset = load_from_disk(tmp_path / "subset")
    assert subset["diq_rank"][:] == list(range(1, 6))
    page = re.search(r"Report: (file://\S+/report\.html) ", result.stdout)[1]
    assert "Clinical pool" in Path(page.removeprefix("file://")).read_text(encoding="utf-8")


def test_documented_code_runs(model_folder, pool, validation, tmp_path):
    """The scorer's docstring, the README and the how-tos, with a tiny model in the place of the real one."""
    readmes = (EXAMPLES.parent / "README.md", EXAMPLES / "README.md")
    text = "\n".join([inspect.getdoc(DIQScorer), *(path.read_text() for path in readmes)])
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    results = []
    for block in blocks:
        names = {"ds": Dataset.from_list(pool), "validation_rows": Dataset.from_list(validation)}
        names["other_validation_rows"] = Dataset.from_list(validation)
        # A trainer wants to be told that there is no accelerator.
        names["arguments"] = SFTConfig(output_dir=str(tmp_path), use_cpu=True, report_to=[])
        if "callbacks=[DIQCallback]" in block:
            block = block.replace("callbacks=[DIQCallback]", "callbacks=[DIQCallback], args=arguments")
            block += "trainer.train()"
        exec(block.replace("HuggingFaceTB/SmolLM2-135M-Instruct", model_folder), names)
        results.append(names)
    docstring, first_use, projected, trained = results
    assert trained["trainer"].state.max_steps == 1  # three passes over one row
    assert docstring["subset"]["diq_rank"][:] == first_use["subset"]["diq_rank"][:] == [1]
    assert "influence_other" in projected["pool"].column_names


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("seed", [0, 7])
def test_pool_is_what_it_says(seed, small):
    pool, validation = clinical_pool(seed, small), clinical_validation(seed + 1, small)
    assert pool == clinical_pool(seed, small)
    assert (len(pool), len(validation)) == ((40, 7) if small else (120, 24))
    kinds = Counter(row["kind"] for row in pool)
    assert kinds["duplicate"] == kinds["corrupted"] == kinds["trivial"] == (5 if small else 12)
    by_id = {row["id"]: row for row in pool}
    assert len(by_id) == len(pool) and max(row["steps"] for row in pool) == (3 if small else 6)
    for row in pool:
        source = by_id[row["source_id"]]
        assert (row["prompt"] == source["prompt"]) == (row["kind"] in ("duplicate", "corrupted") or row is source)
        assert (row["completion"] == source["completion"]) == (row["kind"] != "corrupted")
        assert 1 <= row["steps"] <= 6
    questions = {row["prompt"][0]["content"] for row in pool}
    assert not questions & {row["prompt"][0]["content"] for row in validation}
