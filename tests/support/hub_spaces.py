"""Cases: a page as a Space, and its link on the card of the subset that it is about."""

import os
import tempfile
from pathlib import Path

from comparisons import made_up
from hub_kit import HUB, ME, POOL, TOKEN, commit, push, readme, refusal, rows, write
from huggingface_hub import CommitOperationAdd, DatasetCard, SpaceCard
from typer.testing import CliRunner

from diq_hf import push_report, select_subset, verify_subset, write_report
from diq_hf.cli.__main__ import app
from diq_hf.comparison.compare import save
from diq_hf.publishing import commits
from diq_hf.publishing.space import ReportSpace


LINK = "- Look: [its report](https://huggingface.co/spaces/me/"


def make_page(title: str = "Pool & scores") -> Path:
    return write_report(POOL, Path(tempfile.mkdtemp()) / "report.html", ratio=0.1, title=title)


def diq(*arguments: object, code: int = 0) -> str:
    os.environ["TOKEN_OF_THE_TEST"] = TOKEN
    result = CliRunner().invoke(app, [*map(str, arguments), "--token-env", "TOKEN_OF_THE_TEST"])
    assert result.exit_code == code, result.output
    return result.output


def case_a_page_as_a_space():
    page = make_page()
    assert push_report(page, "page", token=TOKEN) == f"{HUB.url}/spaces/me/page"
    files = HUB.files("spaces/me/page")
    assert files["index.html"] == page.read_bytes() and HUB.repos["spaces/me/page"].sdk == "static"
    card = SpaceCard(files["README.md"].decode())
    assert (card.data.sdk, card.data.title, card.data.get("datasets")) == ("static", "Pool & scores", None)
    # What a person writes there stays, and the page is replaced in one commit.
    edited = str(card).replace("title: Pool & scores", "title: Mine\npinned: true") + "\nThanks.\n"
    operations = [CommitOperationAdd("README.md", edited.encode())]
    ME.create_commit("me/page", operations, commit_message="Mine", repo_type="space")
    other = make_page("Other")
    push_report(other, "me/page", token=TOKEN)
    assert HUB.files("spaces/me/page")["index.html"] == other.read_bytes()
    assert HUB.files("spaces/me/page")["README.md"].decode() == edited
    assert len(HUB.repos["spaces/me/page"].messages) == 4


def case_a_page_linked_from_the_card():
    """By the command, from the scored pool; the link stays when the subset is pushed again, and all still verifies."""
    push("me/looked")
    before = readme("me/looked")
    folder = Path(tempfile.mkdtemp(prefix="a_private_place_"))
    POOL.save_to_disk(folder / "scored")
    output = folder / "report.html"
    told = diq(
        "report", folder / "scored", "--output", output, "--push-to-space", "me/looked-page", "--dataset", "me/looked"
    )
    assert f"{HUB.url}/spaces/me/looked-page" in told
    assert HUB.files("spaces/me/looked-page")["index.html"] == output.read_bytes()
    assert SpaceCard(HUB.files("spaces/me/looked-page")["README.md"].decode()).data.datasets == ["me/looked"]
    line = f"{LINK}looked-page)\n"
    assert readme("me/looked").replace(line, "") == before and readme("me/looked").count(line) == 1
    text = readme("me/looked")
    assert text.index("- For:") < text.index(line) < text.index("- Load:")  # people look before they load
    push("me/looked", select_subset(POOL, num_rows=5))
    assert readme("me/looked").count(line) == 1 and "5 of 60 rows" in readme("me/looked")
    assert verify_subset("me/looked")["diq_10pct"] == ([], True, True, None) and len(rows("me/looked")) == 5
    # After the fact, elsewhere, in one of several configurations, with the line ends of another system.
    push("me/looked", POOL, "scored")
    write("me/looked", "README.md", readme("me/looked").replace("\n", "\r\n"))
    sent = ("report", output, "--push-to-space", "me/second", "--dataset", "me/looked")
    assert "has the subsets ['diq_10pct', 'scored']: pass one as `--config-name`" in diq(*sent, code=1).replace(
        "\n", " "
    )
    diq(*sent, "--config-name", "scored")
    text = readme("me/looked")
    assert text.count(LINK) == 2 and f"{LINK}second)\r\n" in text and text.count("\r\n") == text.count("\n")
    diq(*sent, "--config-name", "diq_10pct")
    assert readme("me/looked").count(f"{LINK}second)\r\n") == 2 and "looked-page" not in readme("me/looked")
    number = len(HUB.repos["me/looked"].messages)
    diq(*sent, "--config-name", "diq_10pct")
    assert len(HUB.repos["me/looked"].messages) == number  # a link that is there needs no commit
    assert not any(found.problems for found in verify_subset("me/looked").values())


def case_a_page_that_is_refused():
    """Before a Space is made, and before a page is."""
    commits.WAIT = 0.001
    page, made = make_page(), set(HUB.repos)
    push("me/hidden", private=True)
    push("me/shown")
    ME.create_repo("me/app", repo_type="space", space_sdk="gradio")
    ME.create_repo("me/theirs", repo_type="space", space_sdk="static")
    operations = [CommitOperationAdd("index.html", b"<p>My own page")]
    ME.create_commit("me/theirs", operations, commit_message="Mine", repo_type="space")
    made = set(HUB.repos)
    for arguments, said in (
        (("me/no page",), "can be no repository"),
        (("me/app",), "is a Space with something else"),
        (("me/theirs",), "is a Space with something else"),
        (("me/no", "me/hidden"), "is private, and the page shows its rows"),
        (("me/no", "me/nothing"), "404"),
        (("me/no", "me/shown", "scored"), "has no subset 'scored'"),
        (("me/no", None, "scored"), "`dataset`, which is not given"),
    ):
        assert said in refusal(push_report, page, *arguments, token=TOKEN), said
    assert "could not open it" in refusal(push_report, page, "me/no", "me/shown", private=True, token=TOKEN)
    assert "hf auth login" in refusal(push_report, page, "me/no", token="hf_of_nobody")
    (page.parent / "bad.html").write_text(page.read_text() + f"<!-- {TOKEN} -->")
    assert "holds a token" in refusal(push_report, page.parent / "bad.html", "me/no", token=TOKEN)
    (page.parent / "other.html").write_text("<title>x</title>")
    assert "no page that diq wrote" in refusal(push_report, page.parent / "other.html", "me/no", token=TOKEN)
    POOL.save_to_disk(page.parent / "scored")
    new = page.parent / "new.html"
    told = diq("report", page.parent / "scored", "--output", new, "--push-to-space", "me/app", code=1)
    assert "something else" in told and not new.exists()
    assert "goes with --push-to-space" in diq("report", page.parent / "scored", "--output", new, code=1)
    assert "leave out --ratio" in diq("report", page, "--ratio", 0.2, "--push-to-space", "me/no", code=1)
    assert set(HUB.repos) == made
    private = push_report(page, "me/kept", "me/hidden", private=True, token=TOKEN)
    assert private.endswith("/spaces/me/kept") and HUB.repos["spaces/me/kept"].private
    push_report(page, "me/open", token=TOKEN)
    assert "public" in refusal(push_report, page, "me/open", private=True, token=TOKEN)


def case_a_page_of_rows_that_not_everyone_may_read():
    """Of a gated dataset, and of one that is not linked, but from which the command reads the rows."""
    page = make_page()
    push("me/gated")
    HUB.repos["me/gated"].gated = "auto"
    push("me/unseen", POOL, "scored", private=True)
    os.environ["HF_TOKEN"] = TOKEN
    try:
        made = set(HUB.repos)
        assert "is gated, and the page shows its rows" in refusal(push_report, page, "me/no", "me/gated", token=TOKEN)
        new = page.parent / "new.html"
        for scored in ("me/unseen", "hf://datasets/me/unseen/scored/train.parquet", "me/gated"):
            told = diq("report", scored, "--output", new, "--push-to-space", "me/no", code=1)
            assert "and the page shows its rows" in " ".join(told.split()) and not new.exists(), told
        assert set(HUB.repos) == made
        diq("report", "me/unseen", "--output", new, "--push-to-space", "me/unseen-page", "--private")
        assert HUB.repos["spaces/me/unseen-page"].private
        push_report(page, "me/gated-page", "me/gated", private=True, token=TOKEN)
    finally:
        del os.environ["HF_TOKEN"]


def case_a_page_when_others_were_faster():
    """What has changed since the Space was first looked at is seen by the push."""
    page = make_page()
    push("me/turned")
    space = ReportSpace("me/turned-page", "me/turned", token=TOKEN)
    HUB.repos["me/turned"].private = True
    assert "is private, and the page shows its rows" in refusal(space.push, page)
    HUB.repos["me/turned"].private = False
    space.push(page)
    later = ReportSpace("me/turned-page", token=TOKEN)
    operations = [CommitOperationAdd("index.html", b"<p>My own page")]
    ME.create_commit("me/turned-page", operations, commit_message="Mine", repo_type="space")
    number = len(HUB.repos["spaces/me/turned-page"].messages)
    assert "is a Space with something else" in refusal(later.push, page)
    assert len(HUB.repos["spaces/me/turned-page"].messages) == number


def case_a_page_whose_readme_is_a_persons():
    page = make_page()
    push("me/annotated")
    push_report(page, "me/annotated-page", token=TOKEN)
    text = HUB.files("spaces/me/annotated-page")["README.md"].decode()
    for head, expected in (
        ("datasets: me/other\n", ["me/other", "me/annotated"]),
        ("datasets: me/annotated  # mine\n", "me/annotated"),
    ):
        edited = text.replace("---\n", f"---\n{head}", 1).encode()
        commit("spaces/me/annotated-page", {"README.md": edited})
        push_report(page, "me/annotated-page", "me/annotated", token=TOKEN)
        found = HUB.files("spaces/me/annotated-page")["README.md"]
        assert SpaceCard(found.decode()).data.datasets == expected and (found == edited) == (
            expected == "me/annotated"
        )
    commit("spaces/me/annotated-page", {"README.md": text.encode() + b"\xff"})
    assert "is not UTF-8" in refusal(push_report, page, "me/annotated-page", token=TOKEN)


def case_a_comparison_that_is_not_pushed():
    given = ["compare", "pool", *("--model", "m", "--validation", "v", "--heldout", "h", "--output", "o")]
    assert "--token-env goes with --push-to-hub" in " ".join(diq(*given, code=1).split())
    assert "--private goes with --push-to-hub" in " ".join(diq(*given, "--private", code=1).split())
    told = diq(*given, "--private", "--push-to-hub", "me/x", code=1)
    assert "goes with" not in told and "me/x" not in HUB.repos


def case_a_page_after_a_push_that_failed():
    """The Space that the Hub has filled is nobody's; what was done is told; a commit between is no matter."""
    commits.WAIT = 0.001
    page = make_page()
    push("me/late")
    HUB.fault(request="POST /api/spaces/.*/commit", status=403)
    assert "Nothing was published" in refusal(push_report, page, "me/late-page", "me/late", token=TOKEN)
    assert "style.css" in HUB.files("spaces/me/late-page") and LINK not in readme("me/late")
    HUB.fault(request="POST /api/datasets/me/late/commit", status=403)
    said = refusal(push_report, page, "me/late-page", "me/late", token=TOKEN)
    assert f"The page is at {HUB.url}/spaces/me/late-page, and me/late does not link it" in said
    HUB.fault(request="POST /api/datasets/me/late/commit", status=412)
    push_report(page, "me/late-page", "me/late", token=TOKEN)
    assert readme("me/late").count(f"{LINK}late-page)") == 1
    assert DatasetCard(readme("me/late")).data.license == "mit"


def case_the_page_of_a_comparison():
    with tempfile.TemporaryDirectory() as folder:
        save(made_up(), Path(folder))
        page = (Path(folder) / "index.html").read_bytes()
        push_report(Path(folder) / "index.html", "me/compared-page", token=TOKEN)
    assert HUB.files("spaces/me/compared-page")["index.html"] == page
