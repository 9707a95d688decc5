"""Cases: what a push publishes, beside what others have there, and what it refuses."""

import re
import tempfile
from pathlib import Path

import numpy as np
from comparisons import made_up
from datasets import Dataset, load_dataset
from hub_kit import HUB, ME, POOL, RECIPE, TENTH, TOKEN, make_pool, push, readme, refusal, rows, write
from huggingface_hub import DatasetCard
from typer.testing import CliRunner

from diq_hf import load_subset, select_subset, verify_subset
from diq_hf.cli.__main__ import app
from diq_hf.comparison.compare import save
from diq_hf.comparison.hub import push_comparison
from diq_hf.publishing import hub
from diq_hf.recipe import Recipe


def case_round_trip():
    """Several configurations come back through plain `load_dataset` as they went in, and all of them verify."""
    random = {"strategy": "random", "ratio": 0.2, "seed": 5}
    drawn = select_subset(POOL, **random)
    push("me/several")
    push("me/several", drawn, config=None, recipe=RECIPE | {"selection": random})
    push("me/several", POOL, "scored")
    assert HUB.repos["me/several"].messages[1:] == [
        "diq_10pct: 6 rows, their card and recipe",
        "random_20pct: 12 rows, their card and recipe",
        "scored: 60 rows, their card and recipe",
    ]
    assert rows("me/several") == TENTH.to_list() and rows("me/several", "random_20pct") == drawn.to_list()
    loaded = load_dataset("me/several", "diq_10pct", split="train")
    assert loaded.features == TENTH.features
    streamed = load_dataset("me/several", "random_20pct", split="train", streaming=True)
    assert list(streamed) == drawn.to_list()
    whole = rows("me/several", "scored")
    assert [row["prompt"] for row in whole] == POOL["prompt"][:]
    proof = rows("me/several", "diq_10pct_scores")
    scores = {"difficulty", "influence", "num_tokens", "quadrant", "diq_rank"}
    reasons = {"diq_reason", "diq_duplicate_of"}
    assert set(proof[0]) == {"row", "content_digest"} | scores | reasons
    assert [row["row"] for row in proof] == list(range(60))
    found = verify_subset("me/several")
    assert set(found) == {"diq_10pct", "random_20pct", "scored"}
    assert all(result == ([], True, True, None) for result in found.values()), found
    subset, recipe = load_subset("me/several", "diq_10pct")
    assert (
        subset.to_list() == TENTH.to_list()
        and {name: recipe.to_json()[name] for name in RECIPE} == Recipe.from_json(RECIPE).to_json()
    )
    assert "has the subsets ['diq_10pct', 'random_20pct', 'scored']" in refusal(load_subset, "me/several")


def case_card():
    """The card's numbers are those of the scores, computed here by hand; its head holds the Hub's keys."""
    push("me/card", source_datasets="me/source", language="en")
    text = readme("me/card")
    data = DatasetCard(text).data
    assert (data.license, data.language, data.source_datasets) == ("mit", ["en"], ["me/source"])
    assert data.size_categories == ["n<1K"] and {"diq", "data-selection", "arxiv:2508.01450"} <= set(data.tags)
    assert data.get("base_model") == ["HuggingFaceTB/SmolLM2-135M-Instruct"]
    hard, strong = (np.array(POOL[name][:], dtype=float) for name in ("difficulty", "influence"))
    kept = np.isfinite(strong)
    levels = np.sort(hard[kept]), np.sort(strong[kept])
    assert kept.sum() == 59
    hard, strong = hard >= levels[0][29], strong >= levels[1][29]
    members = {"Q1": hard & strong, "Q2": ~hard & strong, "Q3": hard & ~strong, "Q4": ~hard & ~strong}
    for name, of_quadrant in members.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        assert int(line.split("|")[3]) == (of_quadrant & kept).sum(), line
    assert f"| difficulty threshold | 50 | {levels[0][29]:.6g} |" in text
    assert "| none | without both scores | 1 | 0 |" in text and "1 with no row to train on" in text
    assert "60 rows" in text and "huggingface.co/papers/2508.01450" in text
    assert HUB.files("me/card")["diq_10pct/quadrants.png"].startswith(b"\x89PNG")
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(pictures) == 2 and set(pictures) <= set(HUB.files("me/card"))


def case_a_persons_text_stays():
    push("me/edited")
    text = readme("me/edited").replace("license: mit", "license: cc-by-4.0\nfunding: [a, b]")
    text = re.sub("pretty_name: .*", "pretty_name: Mine", text)
    text = text.replace("# edited", "# My title\n\nWritten by  a person: ünïcode.").replace(
        "tags:\n", "tags:\n- mine\n"
    )
    write("me/edited", "README.md", text + "\n## Thanks\n\nTo all.  \n")
    before = DatasetCard(readme("me/edited"))
    push("me/edited", select_subset(POOL, ratio=0.5), "diq_50pct", language="en")
    push("me/edited", select_subset(POOL, num_rows=5), "diq_10pct")
    after = DatasetCard(readme("me/edited"))
    of_ours = re.compile(r"<!-- diq:(\w+) -->.*?<!-- /diq:\1 -->\n?", flags=re.DOTALL)
    kept = [of_ours.sub("", card.text) for card in (before, after)]
    assert kept[1].startswith(kept[0]) and not kept[1].removeprefix(kept[0]).strip()
    assert of_ours.findall(after.text) == ["diq_10pct", "diq_50pct"]
    assert "`diq_10pct`: 5 of 60 rows" in after.text and "6 of 60 rows" not in after.text
    assert (after.data.license, after.data.pretty_name, after.data["funding"]) == ("cc-by-4.0", "Mine", ["a", "b"])
    assert after.data.tags == ["mine", "diq", "data-selection", "arxiv:2508.01450"] and after.data.language == ["en"]
    assert not any(result.problems for result in verify_subset("me/edited").values())
    unix = readme("me/edited")
    write("me/edited", "README.md", unix.replace("\n", "\r\n"))
    push("me/edited", select_subset(POOL, num_rows=4), "diq_10pct")
    assert readme("me/edited").count("\r\n") == readme("me/edited").count("\n") > 0
    write("me/edited", "README.md", unix.replace("<!-- /diq:diq_10pct -->", ""))
    assert "must hold the markers" in refusal(push, "me/edited")


def case_other_peoples_configurations_stay():
    """Ours beside those of `Dataset.push_to_hub`, and the other way round; one of the same name is not replaced."""
    theirs = Dataset.from_dict({"text": ["a", "b"]})
    theirs.push_to_hub("me/shared", "theirs", token=TOKEN)
    push("me/shared")
    Dataset.from_dict({"text": ["c"]}).push_to_hub("me/shared", "theirs", split="test", token=TOKEN)
    assert rows("me/shared", "theirs") == theirs.to_list() and rows("me/shared") == TENTH.to_list()
    assert not verify_subset("me/shared")["diq_10pct"].problems
    push("me/shared", select_subset(POOL, num_rows=5))
    assert load_dataset("me/shared", "theirs")["test"]["text"][:] == ["c"] and len(rows("me/shared")) == 5
    assert "not published by `push_subset`" in refusal(push, "me/shared", config="theirs")
    ME.create_repo("me/plain", repo_type="dataset")
    write("me/plain", "train.csv", "text\na\n")
    assert "would hide them" in refusal(push, "me/plain")


def case_private_pull_request_and_branch():
    push("me/private", private=True)
    assert HUB.repos["me/private"].private and rows("me/private", token=TOKEN) == TENTH.to_list()
    assert "404" in refusal(load_subset, "me/private", token=False)
    assert load_subset("me/private", token=TOKEN)[0].to_list() == TENTH.to_list()
    push("me/open")
    assert "public" in refusal(push, "me/open", private=True)
    new = select_subset(POOL, num_rows=7)
    commit = push("me/open", new, create_pr=True, token="hf_of_you")
    assert commit.pr_url and rows("me/open") == TENTH.to_list()
    assert rows("me/open", revision="refs/pr/1") == new.to_list()
    push("me/open", new, revision="v2")
    assert rows("me/open") == TENTH.to_list() and rows("me/open", revision="v2") == new.to_list()
    assert len(load_subset("me/open", revision="v2")[0]) == 7
    assert push("mine").commit_url.startswith(f"{HUB.url}/datasets/me/mine/")


def case_without_the_pool():
    """Nothing is claimed that cannot be shown, and the scores of an earlier push do not stay behind."""
    push("me/bare")
    push("me/bare", scored=None)
    assert "**The pool's scores are not published**" in readme("me/bare") and "not given" in readme("me/bare")
    assert [entry["config_name"] for entry in DatasetCard(readme("me/bare")).data["configs"]] == ["diq_10pct"]
    assert not any("scores-" in path for path in HUB.files("me/bare"))
    found = verify_subset("me/bare")["diq_10pct"]
    assert not found.problems and not found.proven and rows("me/bare") == TENTH.to_list()
    result = CliRunner().invoke(app, ["verify", "me/bare"])
    assert result.exit_code == 0 and "not proven" in result.output
    drawn = select_subset(POOL, num_rows=6, strategy="random")
    assert "not the first rows by DIQ" in refusal(push, "me/bare", drawn, scored=None)


def case_refused_before_anything_is_sent():
    HUB.requests.clear()
    others = make_pool(seed=1)
    assert "does not follow from its scores" in refusal(push, "me/no", scored=others)
    for name in ("a/b", ".", "..", ".git", "-x", "a\n", "", "data", "README.md", "x_scores", "a b", "a\\b", "a>b"):
        assert f"`config_name` is {name!r}" in refusal(push, "me/no", config=name)
    mixed = TENTH.select([1, 0, 2])
    assert "not the first rows by DIQ" in refusal(push, "me/no", mixed)
    as_recorded = RECIPE | {"selection": {"num_rows": 3}}
    assert "`diq_rank` differs in 2 of 3 rows" in refusal(push, "me/no", mixed, recipe=as_recorded)
    assert "no column ['quadrant', 'diq_rank']" in refusal(push, "me/no", POOL)
    for value, said in (("/home/me/model", "local path"), (TOKEN, "a token"), ("hf_" + "a" * 34, "a token")):
        recipe = RECIPE | {"model": RECIPE["model"] | {"name": value}}
        assert said in refusal(push, "me/no", recipe=recipe), value
    for recipe, said in (
        (RECIPE | {"cost": {"rows": 1}}, "recipe['cost'] has no 'seconds'"),
        (
            RECIPE | {"selection": {"budget": 3}},
            "recipe['selection'] has ['budget'], which this version does not know",
        ),
        ([], "recipe must be an object"),
    ):
        assert said in refusal(push, "me/no", recipe=recipe), said
    assert not HUB.requests


def case_license_and_language_are_inherited():
    ME.create_repo("me/source", repo_type="dataset", exist_ok=True)
    write("me/source", "README.md", "---\nlicense: apache-2.0\nlanguage:\n- en\n---\n# Source\n")
    push("me/heir", license=None, source_datasets=["me/source"])
    data = DatasetCard(readme("me/heir")).data
    assert (data.license, data.language, data.source_datasets) == ("apache-2.0", ["en"], ["me/source"])
    warned = []
    hub.logger.warning = warned.append
    push("me/orphan", license=None, source_datasets=["me/nothing"])
    assert "license of the rows is unknown" in warned[0] and DatasetCard(readme("me/orphan")).data.license is None
    del hub.logger.warning


def case_texts_of_others_in_the_card():
    """A group may be called what it likes: the card shows it, stays whole, and can be pushed over."""
    name = "~5 | `x`\n<!-- diq:diq_10pct -->\n| Q1 | 9 |"
    recipe = RECIPE | {"validation": [{"group": name, "rows": 2, "digest": "0"}], "commands": [f"diq score '{name}'"]}
    for size in (6, 5):
        push("me/named", select_subset(POOL, num_rows=size), recipe=recipe)
        assert verify_subset("me/named")["diq_10pct"] == ([], True, True, None)
    assert readme("me/named").count("<!-- diq:diq_10pct -->") == 1
    assert load_subset("me/named")[1].validation[0].group == name


def case_a_comparison_beside_the_card():
    url = push("me/compared")
    assert url
    before = HUB.files("me/compared")
    comparison = made_up()
    with tempfile.TemporaryDirectory() as folder:
        save(comparison, Path(folder))
        place = push_comparison(folder, "me/compared", TOKEN)
        pages = {name: (Path(folder) / name).read_bytes() for name in ("index.html", "comparison.json", "table.md")}
    assert place.endswith(f"/datasets/me/compared/tree/main/comparison/{comparison.digest[:8]}")
    added = {path: data for path, data in HUB.files("me/compared").items() if path not in before}
    assert {Path(path).name: data for path, data in added.items()} == pages
    assert rows("me/compared")  # the subset is what it was
    assert not verify_subset("me/compared")["diq_10pct"].problems
    with tempfile.TemporaryDirectory() as folder:
        save(comparison, Path(folder))
        assert "is there and public" in refusal(push_comparison, folder, "me/compared", TOKEN, private=True)
        push_comparison(folder, "me/compared-alone", TOKEN, private=True)
        assert HUB.repos["me/compared-alone"].private
    with tempfile.TemporaryDirectory() as folder:
        assert "let `compare` finish" in refusal(push_comparison, folder, "me/compared", TOKEN)
