"""Rows by name: whatever `datasets` can read, and errors that find the file and the line."""

import bz2
import gzip
import json
import lzma
import os

import pytest
from commands import run, save_scored
from datasets import Dataset, DatasetDict, concatenate_datasets
from small_disk import run_on_small_disk

from diq_hf.cli.inputs import load_rows, repository_of, source_of


ROWS = [{"prompt": f"Is {i} even?", "completion": "yes, it is" if i % 2 == 0 else "no: it's odd"} for i in range(5)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
TABLE = "prompt,completion\n" + "".join(f'"{row["prompt"]}","{row["completion"]}"\n' for row in ROWS)
FILES = {
    "a.jsonl": LINES,
    "a.JSONL": LINES,
    "a.ndjson": LINES,
    "a.json": json.dumps(ROWS, indent=2),
    "lines.json": LINES,
    "with blanks.jsonl": LINES.replace("\n", "\n\n"),
    "bom.jsonl": "\ufeff" + LINES,
    "pool.v2.final.jsonl": LINES,
    "pool[1] *.jsonl": LINES,
    "a.jsonl.gz": gzip.compress(LINES.encode()),
    "a.JSONL.GZ": gzip.compress(LINES.encode()),
    "a.jsonl.bz2": bz2.compress(LINES.encode()),
    "a.json.xz": lzma.compress(LINES.encode()),
    "a.csv": TABLE,
    "a.csv.gz": gzip.compress(TABLE.encode()),
    "a.tsv": TABLE.replace('","', '"\t"').replace("prompt,", "prompt\t"),
}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize("name", FILES)
def test_files(name, tmp_path):
    write(tmp_path / "decoy.jsonl", '{"other": 1}')
    rows = load_rows(write(tmp_path / name, FILES[name]))
    assert rows.to_list() == ROWS and source_of("x", rows).split == "train"


def test_files_of_arrow_and_text(tmp_path, monkeypatch):
    Dataset.from_list(ROWS).to_parquet(tmp_path / "a.parquet")
    assert load_rows(str(tmp_path / "a.parquet")).to_list() == ROWS
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert load_rows(str(tmp_path / "saved" / "data-00000-of-00001.arrow")).to_list() == ROWS
    assert load_rows(write(tmp_path / "a.txt", "one\ntwo\n"))["text"][:] == ["one", "two"]
    monkeypatch.chdir(tmp_path)
    assert load_rows("a.parquet").to_list() == load_rows("./saved").to_list() == ROWS


def test_patterns_and_folders(tmp_path):
    for i, part in enumerate((ROWS[:2], ROWS[2:])):
        write(tmp_path / "parts" / f"part-{i}.jsonl", "\n".join(map(json.dumps, part)))
    for name in (tmp_path / "parts", tmp_path / "parts" / "part-*.jsonl", tmp_path / "**" / "part-[01].jsonl"):
        assert load_rows(str(name)).to_list() == ROWS
    assert load_rows(str(tmp_path / "parts" / "*1.jsonl")).to_list() == ROWS[2:]
    write(tmp_path / "splits" / "train.jsonl", LINES)
    write(tmp_path / "splits" / "test.jsonl", json.dumps(ROWS[3]))
    splits = str(tmp_path / "splits")
    assert load_rows(splits).to_list() == ROWS and load_rows(splits, "test").to_list() == [ROWS[3]]
    with pytest.raises(ValueError, match=r"has the splits \['train', 'test'\], not 'dev'"):
        load_rows(splits, "dev")
    write(tmp_path / "parts" / "more.csv", TABLE)
    with pytest.raises(ValueError, match=r"several formats \(.*more.csv, .*part-\d.jsonl\)"):
        load_rows(str(tmp_path / "parts" / "*"))


def test_splits(tmp_path):
    path = write(tmp_path / "a.jsonl", LINES)
    first = load_rows(path, "train[:2]")
    assert first.to_list() == ROWS[:2] and source_of("x", first).split == "train[:2]"
    rows = Dataset.from_list(ROWS)
    rows.save_to_disk(tmp_path / "one")
    DatasetDict(test=rows.select([0])).save_to_disk(tmp_path / "only")
    DatasetDict(train=rows, dev=rows.select([1])).save_to_disk(tmp_path / "two")
    assert load_rows(str(tmp_path / "one"), "train").to_list() == ROWS
    assert load_rows(str(tmp_path / "only")).to_list() == ROWS[:1]
    assert load_rows(str(tmp_path / "two")).to_list() == ROWS
    assert load_rows(str(tmp_path / "two"), "dev").to_list() == ROWS[1:2]
    for name, message in (("a.jsonl", "'train'"), ("one", "without splits"), ("two", r"\['dev', 'train'\]")):
        with pytest.raises(ValueError, match=message):
            load_rows(str(tmp_path / name), "test")
    for name in ("a.jsonl", "one", "a*.jsonl"):
        with pytest.raises(ValueError, match="no configuration 'main'"):
            load_rows(str(tmp_path / name), config="main")
        with pytest.raises(ValueError, match="no revision 'v2'"):
            load_rows(str(tmp_path / name), revision="v2")


def test_configurations_of_a_folder(tmp_path):
    card = "---\nconfigs:\n- config_name: a\n  data_files: a.jsonl\n- config_name: b\n  data_files: b.jsonl\n---\n"
    write(tmp_path / "several" / "README.md", card)
    write(tmp_path / "several" / "a.jsonl", LINES)
    write(tmp_path / "several" / "b.jsonl", json.dumps(ROWS[3]))
    several = str(tmp_path / "several")
    assert load_rows(several, config="a").to_list() == ROWS
    assert load_rows(several, config="b").to_list() == [ROWS[3]]
    for config in (None, "c"):
        with pytest.raises(ValueError, match=r"has the configurations \['a', 'b'\]. Name one of them with --name"):
            load_rows(several, config=config)
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"has the splits \['train'\], not 'dev'. Name one of them with --split"):
            load_rows(several, split="dev", config="a", streaming=streaming)


def test_a_saved_dataset_without_rows(tmp_path):
    Dataset.from_dict({"question": [], "answer": []}).save_to_disk(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no rows"):
        load_rows(str(tmp_path / "none"))


def test_datasets_of_the_hub(monkeypatch):
    asked = []
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **kwargs: asked.append((args, kwargs)) or [1])
    load_rows("me/medical", "test[:5]", "main", "v1")
    load_rows("squad")
    assert asked == [
        (("me/medical", "main"), {"split": "test[:5]", "revision": "v1"}),
        (("squad", None), {"split": "train", "revision": None}),
    ]
    with pytest.raises(ValueError, match="no revision 'v1'"):
        load_rows("hf://datasets/me/medical/a.jsonl", revision="v1")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", LINES + '{"prompt": "x", "completion"\n' + LINES, r"a.jsonl, line 6: .*delimiter \(column 29\)"),
        ("a.jsonl.gz", gzip.compress((LINES + "{\n").encode()), "a.jsonl.gz, line 6: "),
        ("a.jsonl", '\n\n{"prompt": "x"}\n3\n', "a.jsonl, line 4: it holds a int, and a row is an object"),
        ("a.jsonl", '{"a": 1}\n{"a": 1, "a": 2}\n', "a.jsonl, line 2: it has the key 'a' twice"),
        ("a.jsonl", '{"a": "x"}\n{"a": "é"}\n'.encode("latin-1"), "a.jsonl, line 2: byte 0xe9 is no UTF-8"),
        ("a.json", '[{"a": 1},\n{"a": 2},\n{"a": ]', r"a.json, line 3: Expecting value \(column 7\)"),
        ("a.json", '[{"a": 1}, 3]', "a.json, line 1: item 1 of the list is no object"),
        ("a.json", LINES + "{\n", "a.json, line 6: "),
        ("a.csv", "a,b\n1,2\n3,4,5\n", "a.csv cannot be read: .*line 3, saw 3"),
        ("a.csv", "a,b\n1,é\n".encode("latin-1"), "a.csv, line 2: byte 0xe9 is no UTF-8"),
        ("a.txt", "é\n".encode("latin-1"), "a.txt, line 1: byte 0xe9"),
        ("a.jsonl.gz", gzip.compress(LINES.encode())[:40], "a.jsonl.gz cannot be read: Compressed file ended"),
        ("a.jsonl.gz", LINES, "a.jsonl.gz cannot be read: Not a gzipped file"),
        ("a.parquet", b"PAR1torn", "a.parquet cannot be read: .*Parquet"),
        ("a.arrow", b"torn", "a.arrow cannot be read"),
        ("a.jsonl", "", "a.jsonl holds no rows"),
        ("a.jsonl", "\n \n", "a.jsonl holds no rows"),
        ("a.jsonl.gz", gzip.compress(b""), "a.jsonl.gz holds no rows"),
        ("a.json", "[]", "a.json holds no rows"),
        ("a.csv", "", "a.csv"),
        ("a.csv", "a,b\n", "a.csv holds no rows"),
        ("a.parquet", b"", "a.parquet cannot be read"),
        ("a.doc", "text", "a.doc"),
        ("data", "text", "data"),
    ],
)
def test_what_cannot_be_read(name, content, message, tmp_path, capfd):
    path = write(tmp_path / name, content)
    with pytest.raises((ValueError, OSError), match=message) as caught:
        load_rows(path)
    assert str(tmp_path) in str(caught.value)
    assert "Failed to" not in capfd.readouterr().err  # said once


def test_the_faulty_file_among_several(tmp_path):
    for i in range(3):
        write(tmp_path / "parts" / f"{i}.jsonl", LINES + ("{\n" if i == 1 else ""))
    for name in ("parts", "parts/*.jsonl"):
        with pytest.raises(ValueError, match=r"parts/1.jsonl, line 6: "):
            load_rows(str(tmp_path / name))
    write(tmp_path / "other" / "0.jsonl", LINES)
    write(tmp_path / "other" / "1.jsonl", '{"prompt": "x", "answer": "y"}')
    with pytest.raises(ValueError, match=r"other/1.jsonl has the columns \['answer', 'prompt'\]"):
        load_rows(str(tmp_path / "other"))


def test_bytes_that_are_no_text_in_a_folder(tmp_path):
    write(tmp_path / "parts" / "0.jsonl", LINES)
    write(tmp_path / "parts" / "1.jsonl", LINES.replace("Is 4", "é").encode("latin-1"))
    with pytest.raises(ValueError, match=r"parts/1.jsonl, line 5: byte 0xe9 is no UTF-8"):
        load_rows(str(tmp_path / "parts"))


def test_what_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "scord/",
        "./scord",
        "../scord",
        "a/b/scord",
        str(tmp_path / "scord"),
        "pool.jsonl",
        "me/pool.csv.gz",
    ):
        with pytest.raises(FileNotFoundError, match=f"There is no file or folder {name}"):
            load_rows(name)
    with pytest.raises(FileNotFoundError, match=r"No file is named like pool-\*.jsonl"):
        load_rows("pool-*.jsonl")
    for name in ("scord", "me/scord"):  # may be a dataset's name as well
        with pytest.raises(ConnectionError, match=f"no file or folder {name} here, and from the Hub: "):
            load_rows(name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty doesn't contain any data files"):
        load_rows("empty")


FULL_CACHE = """
import os
os.environ["HF_DATASETS_CACHE"] = {disk!r}
from diq_hf.cli.inputs import load_rows
try:
    load_rows({path!r})
except OSError as error:
    print(error)
"""


def test_a_full_disk_under_the_cache(tmp_path):
    """The file is as it should be, so another place is to blame."""
    path = write(tmp_path / "a.jsonl", "".join(json.dumps({"text": f"{i} " * 1000}) + "\n" for i in range(100)))
    result = run_on_small_disk(FULL_CACHE.format(disk=f"{tmp_path}/disk", path=path), tmp_path / "disk", 64)
    told = result.stdout.strip()
    assert told.startswith(f"{tmp_path}/disk, where `datasets` keeps what it has read, cannot be written: "), told
    assert "No space left on device" in told and "HF_DATASETS_CACHE" in told


def test_a_folder_of_datasets_is_not_mixed(tmp_path):
    """`datasets` would read the rows of all of them as one."""
    for name in ("scored", "subset"):
        save_scored(tmp_path / "run" / name)
    with pytest.raises(ValueError, match=r"holds .*run/scored, .*run/subset\. Name the one"):
        load_rows(str(tmp_path / "run"))


def test_rows_that_cannot_be_read_in_one_line(tmp_path):
    path = write(tmp_path / "broken.jsonl", LINES + "{\n")
    result = run("select", path, "--ratio", 0.5, "--output", tmp_path / "subset")
    assert result.exit_code == 1 and f"{path}, line 6: " in result.stderr
    assert not os.path.exists(tmp_path / "subset")


def test_a_saved_dataset_knows_its_split(tmp_path):
    path = write(tmp_path / "splits" / "test.jsonl", LINES)
    rows = load_rows(os.path.dirname(path), "test")
    rows.save_to_disk(tmp_path / "saved")
    assert source_of("x", load_rows(str(tmp_path / "saved"), "test")).split == "test"
    concatenate_datasets([rows, rows]).save_to_disk(tmp_path / "both")
    assert source_of("x", load_rows(str(tmp_path / "both"))).split in ("test", "train")


@pytest.mark.parametrize(
    ("name", "place", "recorded", "on_hub"),
    [
        ("me/rows", "me/rows", "me/rows", True),
        ("hf://datasets/me/rows/en/a.jsonl", "me/rows", "me/rows", True),
        ("hf://datasets/me/rows@main/a.jsonl", "me/rows", "me/rows", True),
        ("https://huggingface.co/datasets/me/rows/resolve/main/a.jsonl", "me/rows", "me/rows", True),
        ("hf://buckets/me/rows/a.jsonl", "buckets/me/rows", "a.jsonl", False),
        ("https://example.com/datasets/me/rows/a.jsonl", None, "a.jsonl", False),
        ("./rows/a.jsonl", None, "a.jsonl", False),
    ],
)
def test_where_rows_are_from(name, place, recorded, on_hub, monkeypatch):
    """Files of a dataset repository are rows of it, for whoever asks who may read them; a bucket's name stays here."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://huggingface.co")
    assert repository_of(name) == place
    source = source_of(name, Dataset.from_list(ROWS), "c", "r")
    assert (source.name, source.on_hub, source.split, source.rows) == (recorded, on_hub, "train", len(ROWS))
    assert (source.config, source.revision) == ("c", "r")
