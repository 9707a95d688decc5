"""Cases: what is to be private and would be read by everyone, refused before anything is made; and bare names."""

import os
import tempfile
from pathlib import Path

from comparisons import made_up
from datasets import load_from_disk
from hub_kit import HUB, ME, POOL, RECIPE, TOKEN, commit, push, readme, refusal
from hub_server import Repo
from hub_spaces import LINK, diq, make_page
from huggingface_hub import SpaceCard

from diq_hf import DifficultyClassifier, push_report
from diq_hf.cli.outputs import save_dataset
from diq_hf.comparison.compare import save
from diq_hf.comparison.hub import push_comparison
from diq_hf.publishing import hub
from diq_hf.publishing.space import ReportSpace
from diq_hf.recipe import Recipe
from diq_hf.scoring import buckets


PUBLIC = "is there and public. Make it private in its settings"


def case_a_push_that_was_to_be_private():
    """Onto what is public: refused before rows are drawn, written or sent."""
    push("me/seen")
    before, number = HUB.files("me/seen"), len(HUB.requests)
    publication, hub.Publication = hub.Publication, None  # nothing may be rendered
    try:
        assert PUBLIC in refusal(push, "me/seen", private=True)
        assert PUBLIC in refusal(push, "seen", private=True)
    finally:
        hub.Publication = publication
    assert HUB.files("me/seen") == before
    assert all(request.startswith("GET") for request in HUB.requests[number:]), HUB.requests[number:]


def case_a_comparison_that_was_to_be_private():
    """Refused before anything is read or trained."""
    push("me/seen-beside")
    given = ["compare", "pool", *("--model", "m", "--validation", "v", "--heldout", "h", "--output", "o")]
    for name in ("me/seen-beside", "seen-beside"):
        assert PUBLIC in " ".join(diq(*given, "--private", "--push-to-hub", name, code=1).split())
    assert "can be no repository" in diq(*given, "--push-to-hub", "no such name", code=1)


def case_a_classifier_that_was_to_be_private():
    """It is public already: nothing is sent there as if it were not."""
    HUB.repos["models/me/seen-classifier"] = Repo(private=False)
    HUB.repos["models/me/seen-classifier"].commit("main", {}, "initial commit")
    number = len(HUB.requests)
    for name in ("me/seen-classifier", "seen-classifier"):  # of no classifier: none is looked at
        assert PUBLIC in refusal(DifficultyClassifier.push_to_hub, None, name, private=True, token=TOKEN)
    assert all(request.startswith("GET") for request in HUB.requests[number:]), HUB.requests[number:]


def case_a_bucket_that_everyone_can_read():
    HUB.buckets.files["me/seen-bucket"], HUB.buckets.private["me/seen-bucket"] = {}, False
    os.environ["HF_TOKEN"] = TOKEN
    try:
        with buckets.chunk_folder("hf://buckets/me/seen-bucket/job"):
            raise AssertionError("it was taken")
    except ValueError as error:
        assert "me/seen-bucket is there and public" in str(error)
    finally:
        del os.environ["HF_TOKEN"]
    assert not HUB.buckets.files["me/seen-bucket"]


def case_bare_names():
    """They are in one's own namespace, and what is linked bears the whole name."""
    push("bare")
    push_report(make_page(), "bare-page", "bare", token=TOKEN)
    assert f"{LINK}bare-page)" in readme("me/bare")
    assert SpaceCard(HUB.files("spaces/me/bare-page")["README.md"].decode()).data.datasets == ["me/bare"]
    with tempfile.TemporaryDirectory() as folder:
        save(made_up(), Path(folder))
        place = push_comparison(folder, "bare-results", TOKEN)
    assert place.startswith(f"{HUB.url}/datasets/me/bare-results/tree/main/comparison/")
    assert "index.html" in " ".join(HUB.files("me/bare-results"))


def case_a_readme_without_a_head():
    """Of a Space that holds our page: what the Hub needs is put before it, and what a person wrote stays."""
    page = make_page("First")
    push("me/headed")
    push_report(page, "me/headless-page", token=TOKEN)
    commit("spaces/me/headless-page", {"README.md": b"# Mine\n\nThanks.\n"})
    push_report(page, "me/headless-page", "me/headed", token=TOKEN)
    text = HUB.files("spaces/me/headless-page")["README.md"].decode()
    card = SpaceCard(text)
    assert text.endswith("---\n# Mine\n\nThanks.\n")
    assert (card.data.sdk, card.data.title, card.data.datasets) == ("static", "First", ["me/headed"])
    commit("spaces/me/headless-page", {"README.md": text.replace("sdk: static\n", "").encode()})
    push_report(page, "me/headless-page", token=TOKEN)
    assert SpaceCard(HUB.files("spaces/me/headless-page")["README.md"].decode()).data == card.data
    for head in ("- a", "title: [", "1: 2"):
        commit("spaces/me/headless-page", {"README.md": f"---\n{head}\n---\n".encode()})
        new = page.parent / "new.html"
        POOL.save_to_disk(page.parent / "scored")
        told = diq("report", page.parent / "scored", "--output", new, "--push-to-space", "me/headless-page", code=1)
        assert "me/headless-page: README.md's head cannot be read" in " ".join(told.split()) and not new.exists()


def case_a_page_of_rows_from_a_bucket():
    held = tempfile.mkdtemp()
    POOL.to_parquet(Path(held, "scored.parquet"))
    os.environ["HF_TOKEN"] = TOKEN
    try:
        ME.create_bucket("me/of-rows", private=True)
        ME.batch_bucket_files("me/of-rows", add=[(str(Path(held, "scored.parquet")), "scored.parquet")])
        new = Path(held, "new.html")
        given = [
            "report",
            "hf://buckets/me/of-rows/scored.parquet",
            "--output",
            new,
            "--push-to-space",
            "me/of-bucket",
        ]
        told = " ".join(diq(*given, code=1).split())
        assert "buckets/me/of-rows is private, and the page shows its rows" in told and not new.exists()
        assert "spaces/me/of-bucket" not in HUB.repos
        HUB.buckets.private["me/of-rows"] = False
        ReportSpace("me/of-bucket", shown=["buckets/me/of-rows"])
        assert "is private or gone" in refusal(ReportSpace, "me/of-bucket", shown=["buckets/me/of-nothing"])
    finally:
        del os.environ["HF_TOKEN"]


def case_a_page_of_a_local_copy():
    """The recipe beside the rows says where they are from, and whoever may read them there may see the page."""
    push("me/origin", private=True)
    folder = Path(tempfile.mkdtemp())

    def saved(name: str, on_hub: bool = True) -> Path:
        source = {"name": name, "on_hub": on_hub, "split": "train"}
        place = folder / name.replace("/", "-")
        save_dataset(POOL, place, True, Recipe.from_json(RECIPE | {"pool": source}))
        assert len(load_from_disk(place)) == len(POOL)
        return place

    new = folder / "new.html"
    for name, said in (("me/origin", "me/origin is private"), ("you/gone", "you/gone is private or gone")):
        told = diq("report", saved(name), "--output", new, "--push-to-space", "me/of-copy", code=1)
        assert f"{said}, and the page shows its rows" in " ".join(told.split()) and not new.exists()
    diq("report", saved("me/origin"), "--output", new, "--push-to-space", "me/of-copy", "--private")
    assert HUB.repos["spaces/me/of-copy"].private
    diq("report", saved("pool.jsonl", False), "--output", new, "--overwrite", "--push-to-space", "me/of-file")
    assert not HUB.repos["spaces/me/of-file"].private
