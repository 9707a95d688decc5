"""A stream is scored to the bits of its rows as a `Dataset`; it is resumed, and refused where it is another."""

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import run, write_rows
from conftest import SENTENCES, SUPPORT, chat, make_model
from datasets import ClassLabel, Dataset, IterableDataset, load_dataset, load_from_disk

from diq_hf import DIQScorer
from diq_hf.scoring import shards, streams


ROWS = [
    chat(f"{i % 37} {SENTENCES[i % 4][: 5 + i % 50]}", SENTENCES[(i + 1) % 4] * (1 + i % 3)) | {"source": "ab"[i % 2]}
    for i in range(72)
]


@pytest.fixture
def make_scorer(tokenizer, validation):
    """Scorers that write down how many rows each pass has."""

    def make(**settings):
        model = settings.pop("model", None) or make_model()
        scorer = DIQScorer(model, settings.pop("validation", validation), tokenizer, **settings)
        real, scorer.scored = scorer.engine.score, []
        scorer.engine.score = lambda rows, *rest: (scorer.scored.append(len(rows)), real(rows, *rest))[1]
        return scorer

    return make


def make_stream(change=lambda i, row: row, read=None):
    """Six shards of the rows, each row as `change` has it; the shards that are read go to `read`."""

    def rows(shards):
        for start in shards:
            if read is not None:
                read.append(start)
            for i in range(start, start + 12):
                yield change(i, ROWS[i])

    return IterableDataset.from_generator(rows, gen_kwargs={"shards": list(range(0, 72, 12))})


def score(scorer, stream, folder, name="scored"):
    return list(scorer.score(stream, chunk_size=8, cache_dir=folder / "cache", output_dir=folder / name))


def fails_after(scorer, chunks):
    """A scorer whose machine goes away behind so many chunks."""
    real = scorer.engine.score

    def failing(*arguments):
        if len(scorer.scored) == chunks:
            raise KeyboardInterrupt
        return real(*arguments)

    scorer.engine.score = failing
    return scorer


@pytest.mark.parametrize("kind", ["generator", "shards", "json", "torch"])
def test_same_bits_as_the_dataset(kind, make_scorer, validation, tmp_path):
    settings = {"extra_columns": ["loss", "num_tokens", "mismatch"], "projection_dim": 8}
    settings["validation"] = {"a": validation, "b": validation[:2]}
    dataset, scorer = Dataset.from_list(ROWS), make_scorer(**settings)
    expected = scorer.score(dataset, chunk_size=8, cache_dir=tmp_path / "cache")
    write_rows(tmp_path, pool=ROWS)
    stream = {
        "generator": make_stream,
        "shards": lambda: dataset.to_iterable_dataset(num_shards=5),
        "json": lambda: load_dataset("json", data_files=f"{tmp_path}/pool.jsonl", split="train", streaming=True),
        "torch": lambda: dataset.to_iterable_dataset().with_format("torch"),
    }[kind]()
    of_stream = make_scorer(**settings)
    scored = of_stream.score(stream, chunk_size=8, cache_dir=tmp_path / "cache", output_dir=tmp_path / "scored")
    assert isinstance(scored, IterableDataset)
    assert list(scored) == expected.to_list()
    assert scored.features == expected.features or kind == "json"  # its reader puts a message's keys in its own order
    assert of_stream.reliability == scorer.reliability and of_stream.used_null.digest == scorer.used_null.digest
    assert load_dataset("parquet", data_dir=str(tmp_path / "scored"), split="train").to_list() == expected.to_list()
    assert [path.name for path in (tmp_path / "scored").iterdir() if path.is_file()] == ["diq_recipe.json"]
    assert not list((tmp_path / "cache").rglob("*.parquet"))


def test_goes_on_at_its_position(make_scorer, monkeypatch, tmp_path):
    """Shards before the last finished chunk are not read again, but for the first rows."""
    monkeypatch.setattr(streams, "FIRST_ROWS", 4)
    whole, read = score(make_scorer(), make_stream(), tmp_path, "whole"), []
    with pytest.raises(KeyboardInterrupt):
        score(fails_after(make_scorer(), 5), make_stream(), tmp_path)
    scorer = make_scorer()
    assert score(scorer, make_stream(read=read), tmp_path) == whole
    assert scorer.scored == [8] * 4
    # The first rows; rows 32 to 39 once to see that they are the same, and from there on.
    assert read == [0, 24, 36, 24, 36, 48, 60]


def test_a_shuffled_stream_goes_on_from_its_start(make_scorer, tmp_path):
    stream = make_stream().shuffle(seed=3, buffer_size=20)
    whole = score(make_scorer(), stream, tmp_path, "whole")
    assert [row["prompt"] for row in whole] != [row["prompt"] for row in ROWS]
    with pytest.raises(KeyboardInterrupt):
        score(fails_after(make_scorer(), 5), stream, tmp_path)
    scorer = make_scorer()
    assert score(scorer, make_stream().shuffle(seed=3, buffer_size=20), tmp_path) == whole
    assert scorer.scored == [8] * 4
    stream.set_epoch(1)
    assert score(make_scorer(), stream, tmp_path, "next") != whole


def test_other_rows_than_before_are_refused(make_scorer, monkeypatch, tmp_path):
    monkeypatch.setattr(streams, "FIRST_ROWS", 4)
    with pytest.raises(KeyboardInterrupt):
        score(fails_after(make_scorer(), 5), make_stream(), tmp_path)
    changed = make_stream(lambda i, row: row | {"source": "c"} if i in (9, 33) else row)
    with pytest.raises(ValueError, match=r"Rows 8 to 15 of the stream are not those of the run before.*Remove"):
        score(make_scorer(), changed, tmp_path)
    # What begins otherwise is another stream.
    other = make_scorer()
    score(other, make_stream().skip(1), tmp_path)
    assert sum(other.scored) == 71


def test_a_stream_that_breaks_keeps_what_is_scored(make_scorer, monkeypatch, tmp_path):
    monkeypatch.setattr(streams, "FIRST_ROWS", 4)

    def broken(i, row):
        if i == 30:
            raise ConnectionError("reset by peer")
        return row

    with pytest.raises(RuntimeError, match=r"broke after 30 rows: ConnectionError: reset by peer.*run again"):
        score(make_scorer(), make_stream(broken), tmp_path)
    scorer = make_scorer()
    score(scorer, make_stream(), tmp_path)
    assert sum(scorer.scored) == 72 - 24


def test_damaged_and_moved_chunks_are_made_again(make_scorer, tmp_path):
    whole = score(make_scorer(), make_stream(), tmp_path, "whole")
    with pytest.raises(KeyboardInterrupt):
        score(fails_after(make_scorer(), 7), make_stream(), tmp_path)
    first, second, third, *_ = sorted((tmp_path / "cache").rglob("*.parquet"))
    second.write_bytes(second.read_bytes()[:-9])
    third.write_bytes(first.read_bytes())
    scorer = make_scorer()
    assert score(scorer, make_stream(), tmp_path) == whole
    assert scorer.scored == [8] * 4
    # A bit that turned over inside a page is seen when the chunks are joined.
    with pytest.raises(KeyboardInterrupt):
        score(fails_after(make_scorer(), 8), make_stream(), tmp_path, "third")
    content = bytearray(first.read_bytes())
    columns = pq.ParquetFile(first).metadata.row_group(0).to_dict()["columns"]
    content[max(columns, key=lambda column: column["total_compressed_size"])["dictionary_page_offset"] + 60] ^= 1
    first.write_bytes(content)
    with pytest.raises(OSError, match=r"damaged and is removed.*Run again"):
        score(make_scorer(), make_stream(), tmp_path, "third")
    assert score(make_scorer(), make_stream(), tmp_path, "third") == whole


def test_columns_and_types_of_the_first_rows(make_scorer, monkeypatch, tmp_path):
    monkeypatch.setattr(streams, "FIRST_ROWS", 8)
    late = make_stream(lambda i, row: row | {"note": "late"} if i == 20 else row)
    with pytest.raises(ValueError, match=r"Rows 16 to 23 of the stream have columns.*\['note'\].*`stream.cast"):
        score(make_scorer(), late, tmp_path)
    odd = make_stream(lambda i, row: row | {"number": "many" if i == 20 else i})
    with pytest.raises(ValueError, match="Rows 16 to 23 of the stream are not of its first rows' types"):
        score(make_scorer(), odd, tmp_path)
    scored_before = make_stream(lambda i, row: row | {"influence": 1.0})
    with pytest.raises(ValueError, match="already has"):
        score(make_scorer(), scored_before, tmp_path)
    again = score(make_scorer(overwrite=True), scored_before, tmp_path)
    assert [row["influence"] for row in again] == [
        row["influence"] for row in score(make_scorer(), make_stream(), tmp_path, "plain")
    ]


def test_labels_count_by_their_names(make_scorer, tmp_path):
    levels = [{"level": 2 * (i % 2)} for i in range(72)]
    dataset = Dataset.from_list([row | level for row, level in zip(ROWS, levels, strict=True)])
    dataset = dataset.cast_column("level", ClassLabel(names=["10", "2", "3"]))
    scorer = make_scorer(difficulty="column:level")
    rows = score(scorer, dataset.to_iterable_dataset(), tmp_path)
    assert [row["difficulty"] for row in rows[:2]] == [10.0, 3.0] and rows[1]["level"] == 2


def test_bad_rows(make_scorer, tmp_path):
    bad = make_stream(lambda i, row: row | {"completion": []} if i == 20 else row)
    with pytest.raises(ValueError, match="Row 20"):
        score(make_scorer(), bad, tmp_path)
    rows = score(make_scorer(on_bad_row="skip"), bad, tmp_path)
    assert [i for i, row in enumerate(rows) if np.isnan(row["influence"])] == [20]


def test_a_model_that_changes_meanwhile(make_scorer, tmp_path):
    scorer = make_scorer()
    real = scorer.engine.score

    def trained_in_between(*arguments):
        scorer.model.model.layers[0].self_attn.q_proj.weight.data.mul_(1.1)
        return real(*arguments)

    scorer.engine.score = trained_in_between
    with pytest.raises(RuntimeError, match="changed while the stream was scored"):
        score(scorer, make_stream(), tmp_path)
    assert not list(tmp_path.rglob("*.parquet"))


def test_where_it_goes_is_looked_at_first(make_scorer, tmp_path):
    scorer, stream = make_scorer(), make_stream()
    with pytest.raises(ValueError, match="`output_dir="):
        scorer.score(stream)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("")
    with pytest.raises(FileExistsError, match="is there already"):
        score(scorer, stream, tmp_path, "there")
    with pytest.raises(ValueError, match="is for streams"):
        scorer.score(Dataset.from_list(ROWS), output_dir=tmp_path / "new")
    with pytest.raises(ValueError, match="no rows"):
        score(scorer, stream.take(0), tmp_path)
    assert scorer.scored == []


def test_shards_and_the_rows_that_are_compared(make_scorer, monkeypatch, tmp_path):
    whole = score(make_scorer(), make_stream(), tmp_path, "whole")
    monkeypatch.setattr(shards, "SHARD_BYTES", 12_000)
    monkeypatch.setattr(shards, "COMPARED_ROWS", 30)
    scorer = make_scorer()
    assert score(scorer, make_stream(), tmp_path) == whole
    files = sorted((tmp_path / "scored" / "data").iterdir())
    assert len(files) > 1 and files[0].name == f"train-00000-of-{len(files):05d}.parquet"
    assert sum(pq.ParquetFile(file).metadata.num_rows for file in files) == 72
    assert scorer.reliability is None or scorer.reliability.num_rows == 24  # every third


def test_the_command(model_folder, validation, tmp_path):
    files = write_rows(tmp_path, pool=ROWS, validation=validation)
    given = ["score", files / "pool.jsonl", "--model", model_folder, "--validation", files / "validation.jsonl"]
    given += ["--cache-dir", files / "chunks", "--chunk-size", 8, "--dtype", "float32"]
    assert run(*given, "--output", files / "whole").exit_code == 0
    result = run(*given, "--streaming", "--output", files / "scored")
    assert result.exit_code == 0 and "72 scored rows" in result.output, result.output
    scored = load_dataset("parquet", data_dir=str(files / "scored"), split="train")
    expected = load_from_disk(str(files / "whole"))
    assert "mismatch" in scored.column_names
    for name in expected.column_names:
        assert scored[name][:] == expected[name][:]
    recipe = json.loads((files / "scored" / "diq_recipe.json").read_text())
    assert recipe["pool"]["rows"] == 72 and "--streaming" in recipe["commands"][0]
    result = run("select", files / "scored", "--num-rows", 9, "--output", files / "subset")
    assert result.exit_code == 0 and "9 of 72 rows" in result.output
    assert "earlier run" in run(*given, "--streaming", "--output", files / "scored").stderr
    assert run(*given, "--streaming", "--output", files / "scored", "--overwrite").exit_code == 0
    (files / "scored" / "data" / "notes.txt").write_text("mine")
    result = run(*given, "--streaming", "--output", files / "scored", "--overwrite")
    assert result.exit_code == 1 and "notes.txt" in result.stderr
    result = run(*given, "--streaming", "--output", files / "other", "--split", "train[:9]")
    assert result.exit_code == 1 and "no rows by position" in result.stderr


def run_killed(folder, kills):
    folder.mkdir()
    command = [sys.executable, SUPPORT / "killed_streams.py", folder, str(kills)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_two_processes_killed_again_and_again(tmp_path):
    """And the last run on one process: the rows, scores and projected gradients of a run that nothing disturbed."""
    undisturbed, killed = run_killed(tmp_path / "one", 0), run_killed(tmp_path / "killed", 3)
    assert killed["rows"] == undisturbed["rows"] and len(killed["rows"]) == 200
    assert killed["killed"] == 3 and undisturbed["begun"] == 25
    assert 25 <= killed["begun"] <= 25 + 2 * 3


def test_processes_with_streams_of_their_own(tmp_path):
    """As `split_dataset_by_node` makes them: refused on all, and none waits for ever."""
    script = f"""
import sys
from accelerate import PartialState
from conftest import make_model
from datasets import Dataset
from datasets.distributed import split_dataset_by_node
from killed_runs import POOL, TOKENIZER, VALIDATION
from diq_hf import DIQScorer
state = PartialState(cpu=True)
stream = split_dataset_by_node(Dataset.from_list(POOL).to_iterable_dataset(), state.process_index, 2)
try:
    DIQScorer(make_model(), VALIDATION, TOKENIZER).score(stream, output_dir=r"{tmp_path / "out"}")
except ValueError as error:
    sys.stdout.write(f"refused: {{error}}\\n")
state.destroy_process_group()
"""
    (tmp_path / "split.py").write_text(script)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", tmp_path / "split.py"]
    result = subprocess.run(torchrun, capture_output=True, text=True, timeout=300)
    assert result.stdout.count("refused: The stream begins with other rows on one process") == 2, result.stderr[-2000:]
