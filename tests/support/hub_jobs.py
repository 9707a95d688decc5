"""Cases: chunks of a long job in a Storage Bucket, by which another machine goes on."""

import json
import os
import shutil
import tempfile
from pathlib import Path

from conftest import chat, make_model, make_tokenizer
from datasets import Dataset, config
from hub_kit import HUB, ME, TOKEN, refusal
from huggingface_hub.utils import disable_progress_bars
from safetensors.torch import load
from typer.testing import CliRunner

from diq_hf import DIQScorer, annotate
from diq_hf.cli.__main__ import app
from diq_hf.digest import tensors_digest
from diq_hf.files import is_address
from diq_hf.scoring import buckets
from diq_hf.scoring.chunks import share_directions


VALIDATION = [chat("What is 9 and 9?", "It is 18."), chat("And 7?", "It is 14.")]
ROWS = [chat(f"What is {i} and {i}?", f"It is {2 * i}, for {i} twice is {2 * i}." * (1 + i % 3)) for i in range(40)]
COPIES = Path(config.HF_DATASETS_CACHE) / "diq_hf" / "buckets"


class Lost(BaseException):
    """The machine goes away."""


def score(cache_dir: object, lost_after: int | None = None, calls: list | None = None, **arguments) -> list[dict]:
    scorer = DIQScorer(make_model(), VALIDATION, make_tokenizer(), difficulty="loss")
    real, calls = scorer.engine.score, [] if calls is None else calls

    def score_or_lose(*given):
        if lost_after is not None and len(calls) == lost_after:
            raise Lost
        calls.append(given)
        return real(*given)

    scorer.engine.score = score_or_lose
    rows = Dataset.from_list(ROWS)
    rows = rows.to_iterable_dataset() if "output_dir" in arguments else rows
    try:
        return list(scorer.score(rows, chunk_size=8, cache_dir=cache_dir, **arguments))
    except Lost:
        return []


def logged_in(case):
    def run():
        os.environ["HF_TOKEN"] = TOKEN  # as `hf auth login` would leave it
        try:
            case()
        finally:
            del os.environ["HF_TOKEN"]
            disable_progress_bars()  # the client turns them on again
            shutil.rmtree(COPIES, ignore_errors=True)

    return run


def case_of_a_machine_that_is_lost():
    """What it had finished is in the bucket; a new one, with nothing on its disk, computes the rest, to the bit."""
    expected = score(tempfile.mkdtemp())
    assert score("hf://buckets/me/long/first", lost_after=3) == []
    held = HUB.buckets.files["me/long"]
    assert HUB.buckets.private["me/long"] and all(path.startswith("first/") for path in held)
    assert sum(path.endswith("0.safetensors") or "/0000" in path for path in held) == 3
    shutil.rmtree(COPIES)
    calls: list = []
    assert score("hf://buckets/me/long/first", calls=calls) == expected and len(calls) == 2
    shutil.rmtree(COPIES)
    assert score(Path("hf://buckets/me/long/first/"), calls=(again := [])) == expected and not again
    assert not any(".unfinished" in path for path in held)


def case_of_a_stream_in_a_bucket():
    """Chunks of rows are sent while it runs, and are gone where they are joined; those of other jobs stay."""
    buckets.EVERY = 0.01
    try:
        folder = Path(tempfile.mkdtemp())
        expected = score(folder / "cache", output_dir=folder / "expected")
        score("hf://buckets/me/stream", lost_after=2, output_dir=folder / "scored")
        held = HUB.buckets.files["me/stream"]
        assert sum(path.endswith(".parquet") for path in held) == 2
        shutil.rmtree(COPIES)
        held["other.parquet"] = next(iter(held.values()))
        calls: list = []
        assert score("hf://buckets/me/stream", calls=calls, output_dir=folder / "scored") == expected
        assert len(calls) == 3 and [path for path in held if path.endswith(".parquet")] == ["other.parquet"]
    finally:
        buckets.EVERY = 30.0


def case_of_a_chunk_that_is_damaged_in_the_bucket():
    """It is computed again once: what takes its place here does so there, though it is of equal size."""
    expected = score("hf://buckets/me/damaged/job")
    name = next(path for path in sorted(HUB.buckets.files["me/damaged"]) if path.endswith("16.safetensors"))
    whole = (COPIES / "me/damaged" / name).read_bytes()
    damaged = whole[:-1] + bytes([whole[-1] ^ 1])
    ME.batch_bucket_files("me/damaged", add=[(damaged, name)])
    before = HUB.buckets.files["me/damaged"][name]["xetHash"]
    for computed in (1, 0):
        shutil.rmtree(COPIES)
        assert score("hf://buckets/me/damaged/job", calls=(calls := [])) == expected and len(calls) == computed
    assert HUB.buckets.files["me/damaged"][name]["xetHash"] != before
    again = (COPIES / "me/damaged" / name).read_bytes()  # whose metadata may stand in another order
    assert tensors_digest(load(again)) == tensors_digest(load(whole)) != tensors_digest(load(damaged))


def case_of_a_bucket_that_is_away():
    """For a while it ends nothing; at the end it is an error, and what was computed is here."""
    buckets.EVERY = 0.01
    try:
        HUB.fault(request="POST /api/buckets/me/away/batch", status=400, times=2)
        assert len(score("hf://buckets/me/away")) == 40 and len(HUB.buckets.files["me/away"]) > 5
        shutil.rmtree(COPIES)
        HUB.buckets.files["me/away"].clear()
        HUB.fault(request="POST /api/buckets/me/away/batch", status=400, times=1000)
        assert "injected by the test" in refusal(score, "hf://buckets/me/away")
        HUB.faults.clear()
        assert len(score("hf://buckets/me/away", calls=(calls := []))) == 40 and not calls
    finally:
        buckets.EVERY = 30.0


def case_of_addresses_that_are_no_bucket():
    for address in ("hf://datasets/me/x", "s3://bucket/x", "hf://buckets/me", "https://example.com/x"):
        assert "Name a folder, or a Storage Bucket" in refusal(score, address), address
    for address in ("HF://buckets/me/x", "hf:buckets/me/x", "Hf:/buckets/me/x"):
        assert "Name a folder, or a Storage Bucket" in refusal(score, address), address
    outside = Path(tempfile.mkdtemp(), "outside")
    for end in (f"x/{outside}", "x/a//b", "x/../../../y", "../x", "x/./a", "x/.."):
        assert "Leave it out" in refusal(score, f"hf://buckets/me/{end}"), end
    assert "403" in refusal(score, "hf://buckets/you/x")
    assert not any(Path(name).exists() for name in ("hf:", "HF:", "s3:", "hf:buckets", "Hf:", outside))
    assert not any(map(is_address, (None, "c:/jobs", "C:/jobs", Path("jobs"), "./hf:x")))
    scorer = DIQScorer(make_model(), VALIDATION, make_tokenizer(), difficulty="loss")
    for refused in (
        lambda place: scorer.share_null(Dataset.from_list(ROWS), place),
        lambda place: share_directions(scorer, place, None),
        lambda place: annotate(Dataset.from_list(ROWS), "judge", "http://localhost:1/v1", cache_dir=place),
    ):
        assert "no folder of this machine" in refusal(refused, Path("hf://buckets/me/x"))


def case_of_chunks_that_are_dropped_by_a_job_that_fails():
    """Those that were brought here, and are dropped here before anything is sent, are not brought back."""
    held = HUB.buckets.files.setdefault("me/dropped", {})
    with buckets.chunk_folder("hf://buckets/me/dropped/a") as folder:
        for name in ("old", "kept"):
            (folder / name).write_text(name)
    held["other"] = held["a/old"]
    shutil.rmtree(COPIES)
    for fault in ({}, {"status": 400}):
        (COPIES / "me/dropped/a").mkdir(parents=True, exist_ok=True)
        (COPIES / "me/dropped/a/of here").write_text("never sent")
        try:
            with buckets.chunk_folder("hf://buckets/me/dropped/a") as folder:
                (folder / "old").unlink(missing_ok=True)
                (folder / "of here").unlink()
                (folder / "new").write_text("new")
                if fault:
                    (folder / "kept").unlink()
                    HUB.fault(request="POST /api/buckets/me/dropped/batch", times=1000, **fault)
                raise Lost
        except Lost:
            pass
        assert sorted(held) == ["a/kept", "a/new", "other"]


def case_of_the_command():
    """In memory and as a stream, with `--cache-dir` and no folder of its own for chunks."""
    folder = Path(tempfile.mkdtemp(prefix="a_private_place_"))
    make_model().save_pretrained(folder / "tiny")
    make_tokenizer().save_pretrained(folder / "tiny")
    for name, part in (("pool", ROWS), ("validation", VALIDATION)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    given = ["score", folder / "pool.jsonl", "--model", folder / "tiny", "--validation", folder / "validation.jsonl"]
    given += ["--cache-dir", "hf://buckets/me/private-name/chunks", "--chunk-size", 8]
    for more in ([], ["--streaming"]):
        command = [*given, *more, "--output", folder / f"scored{len(more)}"]
        result = CliRunner().invoke(app, list(map(str, command)))
        assert result.exit_code == 0 and "40 scored rows" in result.output, result.output
        assert any(path.endswith(".safetensors") for path in HUB.buckets.files["me/private-name"])
        recipe = (folder / f"scored{len(more)}" / "diq_recipe.json").read_text()
        assert "--cache-dir chunks" in recipe and "private-name" not in recipe
    assert not any(path.endswith(".parquet") for path in HUB.buckets.files["me/private-name"])


for name, case in list(vars().items()):
    if name.startswith("case_"):
        vars()[name] = logged_in(case)
