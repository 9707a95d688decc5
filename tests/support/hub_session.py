"""Run by test_hub.py in a process of its own, in which a Hub of our own stands in for the real one.

The clients read `HF_ENDPOINT` when they are imported, so it is set beforehand and names a free port; all cases share
this process. Prints, as JSON, each case's traceback, or null.
"""

import io
import json
import multiprocessing
import os
import re
import runpy
import sys
import tempfile
import traceback
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from conftest import chat, make_model, make_tokenizer
from datasets import Dataset, disable_progress_bars, load_dataset
from datasets.utils.metadata import MetadataConfigs
from hub_server import Hub
from huggingface_hub import CommitOperationAdd, DatasetCard, HfApi
from huggingface_hub.utils import disable_progress_bars as disable_upload_bars
from typer.testing import CliRunner

from diq_hf import load_subset, push_subset, select_subset, verify_subset
from diq_hf.cli.__main__ import app
from diq_hf.publishing import hub, publication
from diq_hf.recipe import Recipe


TOKEN = "hf_of_me"
RECIPE = json.loads((Path(__file__).parents[2] / "hub_cards" / "example_recipe.json").read_text())
RECIPE = {name: value for name, value in RECIPE.items() if name not in ("selection", "files", "digest")}
RECIPE["model"] |= {"name": "HuggingFaceTB/SmolLM2-135M-Instruct", "on_hub": True}
ME = HfApi(token=TOKEN)
HUB = Hub(port=int(os.environ["HF_ENDPOINT"].rsplit(":", 1)[1]))


def make_pool(size: int = 60, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    influence = rng.normal(size=size).round(1)  # with ties
    influence[3] = np.nan
    columns = {
        "difficulty": rng.normal(2, 1, size).astype(np.float32),
        "influence": influence.astype(np.float32),
        "num_tokens": np.where(np.isnan(influence), 0, rng.integers(5, 99, size)).astype(np.int32),
    }
    rows = Dataset.from_list([chat(f"Question {i}?", f"Answer {i} of {seed}.") for i in range(size)])
    for name, values in columns.items():
        rows = rows.add_column(name, values)
    return rows


POOL = make_pool()
TENTH = select_subset(POOL, ratio=0.1)


def push(repo: str, subset: Dataset = TENTH, config: str | None = "diq_10pct", **arguments):
    arguments = {"scored": None if config == "scored" else POOL, "recipe": RECIPE, "license": "mit"} | arguments
    return push_subset(subset, repo, config, **{"token": TOKEN} | arguments)


def rows(repo: str, config: str = "diq_10pct", **arguments) -> list[dict]:
    """What anyone gets, with nothing out of a cache."""
    loaded = load_dataset(repo, config, split="train", download_mode="force_redownload", **arguments)
    return loaded.to_list()


def refusal(call, *arguments, **options) -> str:
    try:
        call(*arguments, **options)
    except (ValueError, OSError) as error:
        return str(error)
    raise AssertionError("it was not refused")


def write(repo: str, path: str, content: str | bytes) -> None:
    """Somebody commits a file by the Hub's own means."""
    content = content.encode() if isinstance(content, str) else content
    ME.create_commit(repo, [CommitOperationAdd(path, content)], commit_message=path, repo_type="dataset")


def readme(repo: str, revision: str = "main") -> str:
    return HUB.files(repo, revision)["README.md"].decode()


def check_card(text: str) -> list[str]:
    """What the Hub checks of a dataset card's head, with the clients' own classes."""
    data = DatasetCard(text).data
    MetadataConfigs.from_dataset_card_data(data)
    lists = {name: data.get(name) or [] for name in ("language", "tags", "size_categories", "source_datasets")}
    lists = {name: value if isinstance(value, list) else [value] for name, value in lists.items()}
    errors = [f"{name}: {value!r}" for name, values in lists.items() for value in values if not isinstance(value, str)]
    errors += [f"language {code!r}" for code in lists["language"] if not re.fullmatch(r"[a-z]{2,3}|code", code)]
    sizes = r"n<1K|1K<n<10K|10K<n<100K|100K<n<1M|1M<n<10M|10M<n<100M|100M<n<1B|n>1T"
    errors += [f"size {size!r}" for size in lists["size_categories"] if not re.fullmatch(sizes, size)]
    if data.license is not None and data.license not in ("mit", "apache-2.0", "cc-by-4.0", "other"):
        errors.append(f"license {data.license!r}")
    return errors


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
    assert set(proof[0]) == {"row", "content_digest"} | scores
    assert [row["row"] for row in proof] == list(range(60))
    found = verify_subset("me/several")
    assert set(found) == {"diq_10pct", "random_20pct", "scored"}
    assert all(result == ([], True, True) for result in found.values()), found
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
    text = readme("me/edited").replace("license: mit", "license: cc-by-4.0\npretty_name: Mine\nfunding: [a, b]")
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


FAULTS = {
    "401": ({"request": "POST .*/preupload", "status": 401}, "hf auth login"),
    "403": ({"request": "POST .*/preupload", "status": 403}, "may write to"),
    "500 at the commit": ({"request": "POST .*/commit", "status": 500}, "500"),
    "500 at the card's check": ({"request": "POST .*/validate-yaml", "status": 500}, "500"),
    "409 for good": ({"request": "POST .*/commit", "status": 409, "times": 99}, "409"),
    "412 for good": ({"request": "POST .*/commit", "status": 412, "times": 99}, "412"),
    "dropped at the commit": ({"request": "POST .*/commit", "drop": True}, ""),
    "dropped at the first look": ({"request": "GET /api/datasets", "drop": True}, ""),
}
PASSED_OVER = {
    "409": {"request": "POST .*/commit", "status": 409, "times": 2},
    "412": {"request": "POST .*/commit", "status": 412, "times": 4},
    "upload refused": {"request": "PUT /lfs", "status": 500},
    "dropped in mid-upload": {"request": "PUT /lfs", "drop": True},
}


def case_faults_change_nothing_and_a_rerun_completes():
    hub.WAIT = 0.001
    push("me/faulty")
    old = TENTH.to_list()
    for number, (name, (fault, said)) in enumerate(FAULTS.items()):
        head, new = HUB.repos["me/faulty"].branches["main"], select_subset(POOL, num_rows=10 + number)
        HUB.fault(**fault)
        try:
            push("me/faulty", new)
        except Exception as error:
            message = str(error)
        else:
            raise AssertionError(f"{name}: no error")
        assert said in message, (name, message)
        HUB.faults.clear()
        assert HUB.repos["me/faulty"].branches["main"] == head, name
        assert rows("me/faulty") == old and not verify_subset("me/faulty")["diq_10pct"].problems, name
        push("me/faulty", new)
        old = new.to_list()
        assert rows("me/faulty") == old, name
    for number, (name, fault) in enumerate(PASSED_OVER.items()):
        new = select_subset(POOL, num_rows=30 + number)
        HUB.fault(**fault)
        push("me/faulty", new)
        assert not any(fault["times"] for fault in HUB.faults) and rows("me/faulty") == new.to_list(), name
        HUB.faults.clear()
    commits = [request for request in HUB.requests if "POST /api/datasets/me/faulty/commit" in request]
    assert len(commits) < 60  # "for good" ends


def case_wrong_or_no_token():
    push("me/guarded")
    for token, said in (("hf_of_you", "403"), ("hf_wrong", "401"), (False, "401")):
        head = HUB.repos["me/guarded"].branches["main"]
        message = refusal(push, "me/guarded", select_subset(POOL, num_rows=5), token=token)
        assert said in message and "Nothing was published" in message, message
        assert HUB.repos["me/guarded"].branches["main"] == head and rows("me/guarded") == TENTH.to_list()
    assert "401" in refusal(push, "me/new", token=False) and "me/new" not in HUB.repos


def case_answer_lost():
    """The commit is made but its answer is lost: the next push finds nothing left to do."""
    push("me/lost")
    new = select_subset(POOL, num_rows=9)
    HUB.fault("POST .*/commit", lose=True)
    try:
        push("me/lost", new)
    except Exception as error:
        assert type(error).__name__ == "RemoteProtocolError", error
    messages = list(HUB.repos["me/lost"].messages)
    assert len(messages) == 3 and rows("me/lost") == new.to_list()
    push("me/lost", new)
    assert HUB.repos["me/lost"].messages == messages


def case_somebody_commits_meanwhile():
    hub.WAIT = 0.001
    push("me/raced")
    card = DatasetCard(readme("me/raced"))
    card.text += "\nA sentence that came in between.\n"
    HUB.fault("POST .*/commit", call=lambda: write("me/raced", "README.md", str(card)))
    push("me/raced", select_subset(POOL, num_rows=9))
    assert HUB.repos["me/raced"].messages[-2:] == ["README.md", "diq_10pct: 9 rows, their card and recipe"]
    assert "A sentence that came in between." in readme("me/raced") and "9 of 60 rows" in readme("me/raced")
    assert not verify_subset("me/raced")["diq_10pct"].problems


def case_killed_at_every_request():
    push("me/killed")
    head, blobs = HUB.repos["me/killed"].branches["main"], dict(HUB.blobs)
    pool = make_pool(seed=2)
    new = select_subset(pool, num_rows=11)
    fork = multiprocessing.get_context("fork")
    killed = 0
    while True:
        HUB.blobs = dict(blobs)
        HUB.requests.clear()
        process = fork.Process(target=push, args=("me/killed", new), kwargs={"scored": pool})
        HUB.fault(skip=killed, kill=lambda: process.pid)  # noqa: B023 (armed for this process alone)
        process.start()
        process.join()
        HUB.faults.clear()
        if process.exitcode == 0:
            break
        assert process.exitcode == -9, process.exitcode
        killed += 1
        assert HUB.repos["me/killed"].branches["main"] == head
        if "PUT /lfs" in HUB.requests[-1] or "commit" in HUB.requests[-1]:
            assert rows("me/killed") == TENTH.to_list()
    assert killed >= 8 and any("commit" in request for request in HUB.requests), (killed, HUB.requests)
    assert rows("me/killed") == new.to_list() and not verify_subset("me/killed")["diq_10pct"].problems


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


def case_what_is_not_so_is_found():
    """One change at a time, by somebody with write access; every one is named."""
    push("me/honest")
    honest = HUB.files("me/honest")
    recipe = json.loads(honest["diq_10pct/diq_recipe.json"])

    def parquet(path: str, column: str, change) -> bytes:
        table = pq.read_table(io.BytesIO(honest[path]))
        values = change(table[column].to_pylist())
        at, field = table.schema.get_field_index(column), table.schema.field(column)
        sink = io.BytesIO()
        pq.write_table(table.set_column(at, field, pa.array(values, field.type)), sink)
        return sink.getvalue()

    def restated(**changes) -> dict[str, bytes]:
        """A recipe whose digest fits, by someone who knows how."""
        changed = json.loads(json.dumps(recipe))
        for path, content in changes.get("files", {}).items():
            changed["files"][path] = sha256(content).hexdigest()
        changed["selection"] |= changes.get("selection", {})
        del changed["digest"]
        text = json.dumps(changed, sort_keys=True)
        changed["digest"] = sha256(text.encode()).hexdigest()
        card = honest["README.md"].decode().replace(recipe["digest"], changed["digest"]).encode()
        return {"diq_10pct/diq_recipe.json": json.dumps(changed).encode(), "README.md": card} | changes.get(
            "files", {}
        )

    train, scores = "diq_10pct/train-00000-of-00001.parquet", "diq_10pct/scores-00000-of-00001.parquet"
    swapped = parquet(train, "diq_rank", lambda values: [values[1], values[0], *values[2:]])
    flattered = parquet(scores, "influence", lambda values: [*values[:-1], 99.0])
    moved = parquet(scores, "quadrant", lambda values: [None if v is None else (v + 1) % 4 for v in values])
    line = next(line for line in honest["README.md"].splitlines() if line.startswith(b"| Q1 |"))
    changes = {
        "its digest differs": {train: swapped},
        "diq_recipe.json was changed": {"diq_10pct/diq_recipe.json": json.dumps(recipe | {"model": None}).encode()},
        "the card says": {"README.md": honest["README.md"].replace(line, line.replace(b"| 6 |", b"| 5 |"))},
        "the subset: `diq_rank` differs in 2 of 6 rows": restated(files={train: swapped}),
        "the pool's scores: `quadrant` differs in 59 of 60": restated(files={scores: moved}),
        "the pool's scores: `diq_rank` differs": restated(files={scores: flattered}),
        "difficulty_threshold is stated as 1.5": restated(selection={"difficulty_threshold": 1.5}),
        "the selection gives 30": restated(selection={"num_rows": 30}),
        "cannot be derived: `strategy` is 'best'": restated(selection={"strategy": "best"}),
        "does not name diq_10pct/train-*": {
            "README.md": honest["README.md"].replace(b"path: diq_10pct/train-*", b"path: diq_10pct/other-*")
        },
    }
    assert line.endswith(b"| 6 |") and not verify_subset("me/honest")["diq_10pct"].problems
    for said, files in changes.items():
        for path, content in (honest | files).items():
            if HUB.files("me/honest")[path] != content:
                write("me/honest", path, content)
        problems = verify_subset("me/honest")["diq_10pct"].problems
        assert any(said in problem for problem in problems), (said, problems)
        if said in ("its digest differs", "diq_recipe.json was changed", "does not name diq_10pct/train-*"):
            assert said in refusal(load_subset, "me/honest", "diq_10pct")
    result = CliRunner().invoke(app, ["verify", "me/honest"])
    assert result.exit_code == 1 and result.output.startswith("diq_10pct: ")


def case_refused_before_anything_is_sent():
    HUB.requests.clear()
    others = make_pool(seed=1)
    assert "does not follow from its scores" in refusal(push, "me/no", scored=others)
    assert "`config_name` is 'a/b'" in refusal(push, "me/no", config="a/b")
    mixed = TENTH.select([1, 0, 2])
    assert "not the first rows by DIQ" in refusal(push, "me/no", mixed)
    as_recorded = RECIPE | {"selection": {"num_rows": 3}}
    assert "`diq_rank` differs in 2 of 3 rows" in refusal(push, "me/no", mixed, recipe=as_recorded)
    assert "no column ['quadrant', 'diq_rank']" in refusal(push, "me/no", POOL)
    for value, said in (
        ("/home/me/model", "a local path"),
        ("diq score ./pool.jsonl", "a local path"),
        ("C:\\models\\mine", "a local path"),
        (TOKEN, "a token"),
        ("hf_" + "a" * 30, "a token"),
    ):
        recipe = RECIPE | {"model": RECIPE["model"] | {"name": value}}
        assert said in refusal(push, "me/no", recipe=recipe), value
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
        "--token",
        TOKEN,
    ]
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


def no_figures(*_) -> list[Path]:
    return []


if __name__ == "__main__":
    drawn = publication.draw_selection
    disable_progress_bars()
    disable_upload_bars()
    HUB.start(check_card)
    outcomes = {}
    chosen = sys.argv[1:]
    for name, case in list(globals().items()):
        if name.startswith("case_") and (not chosen or name in chosen):
            # Figures are half of what a push costs.
            publication.draw_selection = drawn if name in ("case_card", "case_from_score_to_verify") else no_figures
            try:
                case()
            except Exception:
                outcomes[name] = traceback.format_exc()
            else:
                outcomes[name] = None
            HUB.faults.clear()
    print(json.dumps(outcomes))
