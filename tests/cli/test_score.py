"""`diq score` gives what `DIQScorer` gives with the same settings."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from commands import run, write_rows
from conftest import TEMPLATE
from datasets import Dataset, load_from_disk
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from diq_hf import DIQScorer
from diq_hf.digest import tokenizer_digest


@pytest.fixture
def files(tmp_path, pool, validation):
    return write_rows(tmp_path, pool=pool, validation=validation)


@pytest.fixture
def score(files, model_folder):
    """`diq score` of the pool, with further arguments."""

    def score(*arguments):
        given = ["score", files / "pool.jsonl", "--model", model_folder, "--validation", files / "validation.jsonl"]
        return run(*given, "--cache-dir", files / "chunks", *arguments)

    return score


def test_score_then_select(score, files):
    result = score("--output", files / "scored")
    assert result.exit_code == 0 and "7 scored rows" in result.output
    assert {"difficulty", "influence", "loss", "num_tokens"} <= set(load_from_disk(files / "scored").column_names)
    result = run("select", files / "scored", "--ratio", "0.4", "--output", files / "subset")
    assert result.exit_code == 0 and "3 of 7 rows" in result.output
    assert load_from_disk(files / "subset")["diq_rank"][:] == [1, 2, 3]


def test_groups_and_projections(score, files, validation):
    rows = [row | {"task": f"t{i % 2}"} for i, row in enumerate(validation)]
    write_rows(files, validation=rows)
    result = score("--output", files / "scored", "--group-column", "task", "--projection-dim", "32")
    assert result.exit_code == 0, result.output
    scored = load_from_disk(files / "scored")
    assert {"influence", "influence_t0", "influence_t1"} <= set(scored.column_names)
    (gradients,) = (name for name in scored.column_names if name.startswith("projected_gradient_"))
    assert len(scored[0][gradients]) == 32


def test_validation_rows_that_choose_in_turn(score, files):
    assert score("--output", files / "scored", "--alignment").exit_code == 0
    assert np.array(load_from_disk(files / "scored")["alignment"][:]).shape == (7, 3)
    result = run("select", files / "scored", "--ratio", "0.4", "--output", files / "subset")
    assert result.exit_code == 0 and recipe_of(files / "subset")["selection"]["order"] == "alignment"


def recipe_of(folder):
    return json.loads((folder / "diq_recipe.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (["--max-length", "none"], {"max_length": None}),
        (["--max-length", "40", "--truncation-mode", "keep_end"], {"max_length": 40, "truncation_mode": "keep_end"}),
        (["--no-completion-only-loss"], {"completion_only_loss": False}),
        (
            ["--completion-only-loss", "--assistant-only-loss"],
            {"completion_only_loss": True, "assistant_only_loss": True},
        ),
        (["--dtype", "float64", "--attn-implementation", "eager"], {}),
    ],
)
def test_settings_of_the_training(score, files, model_folder, pool, validation, arguments, settings):
    result = score("--output", files / "scored", "--difficulty", "num_tokens", "--dtype", "float32", *arguments)
    assert result.exit_code == 0, result.output
    dtype = {"dtype": "float64", "attn_implementation": "eager"} if "--dtype" in arguments else {"dtype": "float32"}
    scorer = DIQScorer(model_folder, validation, difficulty="num_tokens", model_init_kwargs=dtype, **settings)
    expected = scorer(Dataset.from_list(pool)[:])
    scored, recipe = load_from_disk(files / "scored"), recipe_of(files / "scored")
    assert np.allclose(scored["influence"][:], expected["influence"], rtol=1e-5)
    assert recipe["settings"] == scorer.encoder.settings | {"on_bad_row": "raise"}
    assert recipe["model"]["dtype"] == dtype["dtype"]
    # What is published is a command that can be run: flags have no value.
    (command,) = recipe["commands"]
    assert " ".join(arguments) in command and "True" not in command and "False" not in command


def test_a_null_in_a_config_reaches_the_scorer(score, files, model_folder):
    values = {"dataset": f"{files}/pool.jsonl", "validation": f"{files}/validation.jsonl", "model": model_folder}
    (files / "c.yaml").write_text(yaml.safe_dump(values | {"output": f"{files}/scored", "max_length": None}))
    assert run("score", "--config", files / "c.yaml").exit_code == 0
    recipe = recipe_of(files / "scored")
    assert recipe["settings"]["max_length"] is None and "--max-length none" in recipe["commands"][0]
    for given in ("--max-length", "many"), ("--max-length", "1.5"):
        assert score("--output", files / "other", *given).exit_code == 2
    (files / "c.yaml").write_text("on_bad_row: null")
    result = score("--output", files / "other", "--config", files / "c.yaml")
    assert result.exit_code == 2 and "'on_bad_row'" in result.stderr


def test_a_chat_template_from_a_file(score, files, model_folder, validation, pool):
    template = TEMPLATE.replace("<|start|>", "<s>")
    (files / "template.jinja").write_text(template)
    result = score("--output", files / "scored", "--chat-template", files / "template.jinja", "--dtype", "float32")
    assert result.exit_code == 0, result.output
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.chat_template = template
    scorer = DIQScorer(model_folder, validation, tokenizer, model_init_kwargs={"dtype": "float32"})
    expected = scorer(Dataset.from_list(pool)[:])
    assert np.allclose(load_from_disk(files / "scored")["influence"][:], expected["influence"], rtol=1e-5)
    assert recipe_of(files / "scored")["tokenizer"] == tokenizer_digest(tokenizer)


def test_a_chat_template_for_an_adapter(score, files, model_folder):
    """An adapter's folder need not hold a tokenizer; the template is put on its base model's."""
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    get_peft_model(base, LoraConfig(target_modules=["q_proj"], init_lora_weights=False)).save_pretrained(
        files / "lora"
    )
    (files / "template.jinja").write_text(TEMPLATE.replace("<|start|>", "<s>"))
    result = score(
        "--output", files / "scored", "--chat-template", files / "template.jinja", "--model", files / "lora"
    )
    assert result.exit_code == 0, result.output
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.chat_template = (files / "template.jinja").read_text()
    assert recipe_of(files / "scored")["tokenizer"] == tokenizer_digest(tokenizer)


def test_skip_was_called_null(model_folder, validation):
    with pytest.warns(FutureWarning, match="is called 'skip' now"):
        assert DIQScorer(model_folder, validation, on_bad_row="null").on_bad_row == "skip"
    with pytest.raises(ValueError, match="use 'raise' or 'skip'"):
        DIQScorer(model_folder, validation, on_bad_row="none")


def test_a_text_column_and_bad_rows(files, model_folder):
    rows = [{"body": "The anion gap."}, {"body": ""}, {"body": "Which drug lowers potassium the fastest?"}]
    Dataset.from_list(rows).to_json(files / "texts.jsonl")
    given = ["score", files / "texts.jsonl", "--model", model_folder, "--validation", files / "validation.jsonl"]
    given += ["--difficulty", "num_tokens", "--output", files / "scored", "--dataset-text-field", "body"]
    result = run(*given)
    assert result.exit_code == 1 and "Row 1" in result.stderr and "`--on-bad-row skip`" in result.stderr
    result = run(*given, "--on-bad-row", "skip")
    assert result.exit_code == 0, result.output
    assert [np.isnan(value) for value in load_from_disk(files / "scored")["influence"][:]] == [False, True, False]


def test_columns_that_are_there_already(score, files, model_folder, pool):
    write_rows(files, pool=[row | {"influence": 1.0} for row in pool])
    result = score("--output", files / "scored")
    assert result.exit_code == 1 and "`--overwrite-columns`" in result.stderr and "overwrite=" not in result.stderr
    assert score("--output", files / "scored", "--overwrite-columns").exit_code == 0


def test_what_was_read_is_recorded(score, files):
    result = score("--output", files / "scored", "--split", "train[:3]", "--validation-split", "train[1:]")
    assert result.exit_code == 0, result.output
    recipe = recipe_of(files / "scored")
    assert (recipe["pool"]["rows"], recipe["pool"]["split"]) == (3, "train[:3]")
    assert recipe["validation"][0]["rows"] == 2 and recipe["validation_source"]["split"] == "train[1:]"
    result = score("--output", files / "other", "--split", "test")
    assert result.exit_code == 1 and "has no split 'test'" in result.stderr


def test_a_log_has_no_escape_codes(files, model_folder):
    words = ["score", files / "pool.jsonl", "--model", model_folder, "--validation", files / "validation.jsonl"]
    words += ["--output", files / "scored", "--cache-dir", files / "chunks", "--chunk-size", 2]
    result = subprocess.run([sys.executable, "-m", "diq_hf.cli", *map(str, words)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stderr and "\r" not in result.stderr
    assert "Without `mismatch`" in result.stderr  # what is said is there
