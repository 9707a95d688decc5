"""Cases: from the first command to the last, and over all that was published."""

import json
import os
import runpy
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from conftest import chat, make_model, make_tokenizer
from datasets import Dataset
from hub_kit import HUB, TOKEN, readme, refusal, write
from huggingface_hub import DatasetCard
from typer.testing import CliRunner

from diq_hf import DIQScorer, load_subset, push_subset, verify_subset
from diq_hf.cli.__main__ import app


def case_from_score_to_verify():
    """The four commands, in a folder whose path must not get out."""
    folder = Path(tempfile.mkdtemp(prefix="a_private_place_"))
    make_model().save_pretrained(folder / "tiny")
    make_tokenizer().save_pretrained(folder / "tiny")
    texts = [
        chat(f"What is {i} and {i}?", f"It is {2 * i}, for {i} twice is {2 * i}." * (1 + i % 3)) for i in range(12)
    ]
    for name, part in (("pool", texts[:9]), ("validation", texts[9:])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))

    def diq(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    given = ["--model", folder / "tiny", "--validation", folder / "validation.jsonl", "--max-length", 64]
    diq("score", folder / "pool.jsonl", *given, "--output", folder / "scored", "--cache-dir", folder / "chunks")
    diq("select", folder / "scored", "--ratio", 0.4, "--output", folder / "subset")
    diq("report", folder / "scored", "--ratio", 0.4, "--output", folder / "report.html")
    assert "<title>" in (folder / "report.html").read_text(encoding="utf-8")
    arguments = [
        "push",
        folder / "subset",
        "me/end",
        "--scored",
        folder / "scored",
        "--license",
        "mit",
        "--token-env",
        "TOKEN_OF_THE_TEST",
    ]
    os.environ["TOKEN_OF_THE_TEST"] = TOKEN
    assert "/datasets/me/end/commit/" in diq(*arguments)
    assert "diq_40pct: thresholds, quadrants, ranks and rows follow" in diq("verify", "me/end")
    subset, recipe = load_subset("me/end")
    assert len(subset) == 4 and recipe.model.name == "tiny" and not recipe.model.on_hub
    assert recipe.cost.rows == 9 and recipe.cost.seconds > 0 and recipe.validation[0].rows == 3
    assert list(recipe.commands) == [
        "diq score pool.jsonl --model tiny --validation validation.jsonl --output scored --max-length 64 "
        "--cache-dir chunks",
        "diq select scored --output subset --ratio 0.4",
    ]
    unwrapped = readme("me/end").replace(" \\\n    ", " ")
    assert all(command in unwrapped for command in recipe.commands)


def case_a_pool_that_was_not_scored_as_a_whole():
    """The choice among the scored rows is derived again, and card and `verify` say what is known of the others."""
    folder = Path(tempfile.mkdtemp(prefix="a_private_place_"))
    model, validation = make_model(), [chat("What is 9 and 9?", "It is 18."), chat("And 7?", "It is 14.")]
    rows = [
        chat(f"What is {i} and {i}?", f"It is {2 * i}, for {i} twice is {2 * i}." * (1 + i % 3)) for i in range(90)
    ]
    scorer = DIQScorer(model, validation, make_tokenizer(), difficulty="loss", extra_columns=["num_trained"])
    options = {"num_tokens": 300, "per": "token", "max_scored": 0.8, "max_similarity": 1}
    subset, audit, pool = scorer.select(Dataset.from_list(rows), return_pool=True, cache_dir=folder, **options)
    assert 0 < len(subset) < 20 and audit.num_scored == 72
    push = {"scored": pool, "license": "mit", "token": TOKEN}
    recipe = scorer.recipe()
    push_subset(subset, "me/audited", recipe=recipe, **push)
    (found,) = verify_subset("me/audited").values()
    assert (found.problems, found.proven, found.contents) == ([], True, True) and found.audit == recipe.audit
    said = "**Scored were only** 72 of 90 rows: the others could not be chosen"
    assert said in readme("me/audited")
    told = CliRunner().invoke(app, ["verify", "me/audited", "--token-env", "TOKEN_OF_THE_TEST"]).output
    assert "only 72 of 90 rows were scored, and the others could not be chosen" in told
    assert "18 with no score, since only some rows were scored" in readme("me/audited")
    # Somebody states another audit, or estimates other thresholds than the rows were selected by.
    push_subset(subset, "me/audited", "more", recipe=replace(recipe, audit=replace(recipe.audit, scored=80)), **push)
    assert "the audit is of 80 of 90 rows; the pool has scores of 72 of 90" in str(verify_subset("me/audited", "more"))
    lower = replace(recipe.selection, thresholds=(-9.0, recipe.selection.thresholds[1]))
    assert "does not follow" in refusal(
        push_subset, subset, "me/audited", "other", recipe=replace(recipe, selection=lower), **push
    )
    card = readme("me/audited").replace(said, said.replace("72", "82"))
    write("me/audited", "README.md", card)
    assert "the card says" in str(verify_subset("me/audited")["diq_300tok"].problems)


def case_columns_of_the_hub():
    """Ten rows in the columns of the paper's pool: what is published can be trained on, and says what made it."""
    folder = Path(tempfile.mkdtemp(prefix="a_private_place_"))
    make_model().save_pretrained(folder / "tiny")
    make_tokenizer().save_pretrained(folder / "tiny")
    rows = [
        {
            "Question": f"What is {i} and {i}?",
            "Complex_CoT": f"Twice {i}. " * (1 + i % 3),
            "Response": f"It is {2 * i}.",
        }
        for i in range(13)
    ]
    for name, part in (("pool", rows[:10]), ("validation", rows[10:])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))

    def diq(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    given = ["--model", folder / "tiny", "--validation", folder / "validation.jsonl", "--cache-dir", folder / "chunks"]
    digests = []
    for columns in (["--columns", "medical-o1"], ["--prompt", "{Question}", "--completion", "{Response}"]):
        diq("score", folder / "pool.jsonl", *columns, *given, "--overwrite", "--output", folder / "scored")
        diq("select", folder / "scored", "--ratio", 0.3, "--overwrite", "--output", folder / "subset")
        pushed = ["--scored", folder / "scored", "--license", "mit", "--token-env", "TOKEN_OF_THE_TEST"]
        os.environ["TOKEN_OF_THE_TEST"] = TOKEN
        diq("push", folder / "subset", "me/columns", "--config-name", f"diq{len(digests)}", *pushed)
        subset, recipe = load_subset("me/columns", f"diq{len(digests)}")
        digests.append(recipe.digest)
        assert len(subset) == 3 and subset[0]["prompt"][0]["role"] == "user"
        assert subset[0]["completion"][0]["content"].startswith("<think>") == (len(digests) == 1)
        assert recipe.settings["columns"]["prompt"] == "{Question}" and "Question" not in subset.column_names
    assert len(set(digests)) == 2
    assert diq("verify", "me/columns").count("ranks and rows follow from the published scores") == 2
    head = DatasetCard(readme("me/columns")).data
    assert head.pretty_name.startswith("columns") and head.task_categories == ["text-generation"]
    assert head.annotations_creators == ["machine-generated"]
    assert {info["config_name"] for info in head.dataset_info} == {"diq0", "diq0_scores", "diq1", "diq1_scores"}


def case_the_example():
    folder = Path(tempfile.mkdtemp(prefix="a_private_place_"))
    make_model().save_pretrained(folder / "tiny")
    make_tokenizer().save_pretrained(folder / "tiny")
    (folder / "pool.jsonl").write_text("\n".join(json.dumps(chat(f"What is {i}?", f"It is {i}.")) for i in range(30)))
    command = [str(folder / "pool.jsonl"), "me/example", "--validation", str(folder / "pool.jsonl")]
    os.environ["HF_TOKEN"] = TOKEN  # as `hf auth login` would leave it
    try:
        sys.argv = ["publish.py", *command, "--model", str(folder / "tiny"), "--license", "mit"]
        runpy.run_path(str(Path(__file__).parents[2] / "examples" / "howto" / "publish.py"), run_name="__main__")
    finally:
        del os.environ["HF_TOKEN"]
    assert {name: found.proven for name, found in verify_subset("me/example").items() if not found.problems} == {
        "diq_10pct": True,
        "diq_1pct": True,
    }


def case_nothing_private_got_out():
    """Over everything that all cases have published."""
    published = b"\n".join(HUB.blobs.values())
    secrets = [
        TOKEN,
        "hf_of_you",
        tempfile.gettempdir() + "/",
        str(Path.home()),
        "a_private_place",
        os.uname().nodename,
    ]
    assert not [secret for secret in secrets if len(secret) > 3 and secret.encode() in published]
