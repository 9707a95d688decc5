"""Scoring by chunks: resumed, shared out and interrupted runs against one that nothing disturbed."""

import contextlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import make_encoder, make_model
from datasets import Dataset, DatasetDict
from killing import run_killed

from diq_hf import ClassifierDifficulty, DifficultyClassifier, DIQScorer
from diq_hf.engine.influence import Direction
from diq_hf.engine.tensor_files import load_tensors, save_tensors
from diq_hf.files import replacing
from diq_hf.scoring.chunks import reusable_difficulty


@pytest.fixture
def dataset(pool):
    return Dataset.from_list(pool)


@pytest.fixture
def make_scorer(tokenizer, validation):
    def make(model=None, **settings):
        scorer = DIQScorer(model or make_model(), validation, tokenizer, **settings)
        real, scorer.scored = scorer.engine.score, []
        scorer.engine.score = lambda rows, *rest: (scorer.scored.append(len(rows)), real(rows, *rest))[1]
        return scorer

    return make


def test_same_as_map(make_scorer, dataset, tmp_path):
    mapped = dataset.map(make_scorer(extra_columns=["loss", "num_tokens"]), batched=True)
    scored = make_scorer(extra_columns=["loss", "num_tokens"]).score(dataset, chunk_size=3, cache_dir=tmp_path)
    assert scored.features == mapped.features
    for name in scored.column_names:
        if name in dataset.column_names:
            assert scored[name][:] == mapped[name][:]
        else:
            assert np.allclose(scored[name][:], mapped[name][:], rtol=1e-5)


def test_finished_chunks_are_kept(make_scorer, dataset, tmp_path):
    whole = make_scorer().score(dataset, chunk_size=2, cache_dir=tmp_path / "whole")
    scorer = make_scorer()
    real = scorer.engine.score

    def fails_at_the_third(*args):
        if len(scorer.scored) == 2:
            raise RuntimeError("the machine went away")
        return real(*args)

    scorer.engine.score = fails_at_the_third
    with pytest.raises(RuntimeError, match="went away"):
        scorer.score(dataset, chunk_size=2, cache_dir=tmp_path)
    again = make_scorer()
    again.engine.validation_gradient = None  # found on disk
    resumed = again.score(dataset, chunk_size=2, cache_dir=tmp_path)
    assert again.scored == [2, 1]
    assert resumed["influence"][:] == whole["influence"][:]
    third = make_scorer()
    third.score(dataset, chunk_size=2, cache_dir=tmp_path)
    assert third.scored == []


@pytest.mark.parametrize("damage", ["torn", "empty", "changed", "another recipe"])
def test_damaged_files_are_made_again(damage, make_scorer, dataset, tmp_path):
    whole = make_scorer().score(dataset, chunk_size=2, cache_dir=tmp_path)
    _, *others = sorted(tmp_path.glob("*/*.safetensors"))
    for path in [*others, *tmp_path.glob("direction-*.safetensors")]:
        content = path.read_bytes()
        if damage == "torn":
            path.write_bytes(content[:-3])
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "changed":
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        elif path.parent != tmp_path:
            save_tensors(path, load_tensors(path)[0], {"recipe": "another"})
    scorer = make_scorer()
    again = scorer.score(dataset, chunk_size=2, cache_dir=tmp_path)
    assert scorer.scored == [2, 2, 1]
    assert again["influence"][:] == whole["influence"][:]


def test_a_chunk_in_another_place_is_made_again(make_scorer, make_source, dataset, tmp_path):
    """Copied or moved by hand or by a sync tool: whole, of this very run, and other rows' scores."""
    cache = tmp_path / "cache"
    whole = make_scorer(difficulty=make_source()).score(dataset, chunk_size=2, cache_dir=cache)
    for folder in {path.parent for path in cache.glob("*/0*.safetensors")}:
        first, second, *_ = sorted(folder.iterdir())
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
    source = make_source()
    scorer = make_scorer(difficulty=source)
    again = scorer.score(dataset, chunk_size=2, cache_dir=cache)
    assert scorer.scored == [2, 2] and len(source.read) == 4
    assert again["influence"][:] == whole["influence"][:] and again["difficulty"][:] == whole["difficulty"][:]


def test_two_runs_on_one_cache_folder(make_scorer, make_source, dataset, tmp_path):
    """One that ends while the other writes takes nothing from it, and clears up after those that were killed."""
    cache = tmp_path / "cache"
    slow, quick = (make_scorer(difficulty=make_source()) for _ in range(2))
    real, places = slow.engine.score, set()

    def while_the_other_ends(*args):
        if len(slow.scored) == 1:
            places.update({cache, *(path.parent for path in cache.glob("*/0*.safetensors"))})
            with contextlib.ExitStack() as stack:
                for place in places:
                    (place / ".unfinished-killed").mkdir()
                    os.utime(place / ".unfinished-killed", (0, 0))
                    unfinished = stack.enter_context(replacing(place / "written-now"))
                    unfinished.write_bytes(b"half a chunk")
                quick.score(dataset, chunk_size=2, cache_dir=cache)
        return real(*args)

    slow.engine.score = while_the_other_ends
    scored = slow.score(dataset, chunk_size=2, cache_dir=cache)
    assert len(places) == 3  # the directions', the chunks' and the difficulties'
    assert all((place / "written-now").read_bytes() == b"half a chunk" for place in places)
    assert not list(cache.rglob(".unfinished-*")) and len(scored) == len(dataset)


def test_validation_gradient_is_paid_for_once(make_scorer, dataset, tmp_path):
    make_scorer().score(dataset, cache_dir=tmp_path)
    other = make_scorer(difficulty=None)
    other.engine.validation_gradient = None
    assert len(other.score(dataset.select([3, 1]), cache_dir=tmp_path)) == 2


@pytest.fixture
def make_source(tokenizer, tmp_path):
    """A classifier with a head for each perspective, whose texts are counted."""
    make_encoder().save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    torch.manual_seed(0)
    DifficultyClassifier.from_encoder(tmp_path / "encoder").save_pretrained(tmp_path / "classifier")

    def make(perspective=None):
        source = ClassifierDifficulty(str(tmp_path / "classifier"), perspective)
        real, source.read = source.classifier.encode, []
        source.classifier.encode = lambda texts: (source.read.extend(texts), real(texts))[1]
        return source

    return make


def test_classifier_runs_once_for_all_models(make_scorer, make_source, dataset, tmp_path):
    first, second, other = make_source(), make_source(), make_source("reasoning")
    scorer = make_scorer(difficulty=first)
    scored = scorer.score(dataset, chunk_size=2, cache_dir=tmp_path)
    assert len(first.read) == len(dataset)
    assert scored["difficulty"][:] == dataset.map(make_scorer(difficulty=make_source()), batched=True)["difficulty"][:]
    # Another model and another perspective as a column: the influence is new, the classifier is not asked again.
    again = make_scorer(make_model(seed=1), difficulty=second, extra_columns=["difficulty_knowledge"])
    rescored = again.score(dataset, chunk_size=2, cache_dir=tmp_path)
    assert again.scored == [2, 2, 2, 1] and second.read == []
    assert rescored["difficulty"][:] == scored["difficulty"][:]
    assert rescored["influence"][:] != scored["influence"][:]
    assert rescored["difficulty_knowledge"][:] != scored["difficulty"][:]
    # Another main perspective is another source, and other rows are other scores.
    make_scorer(difficulty=other).score(dataset, chunk_size=2, cache_dir=tmp_path)
    make_scorer(difficulty=second).score(dataset.select([0]), chunk_size=2, cache_dir=tmp_path)
    assert len(other.read) == len(dataset) and len(second.read) == 1


def test_difficulties_alone_are_kept_as_well(make_scorer, make_source, dataset, tmp_path):
    """As `select` asks for them; a row that the source cannot read has none."""
    first, second = make_source(), make_source()
    seen = dataset.with_format(None)  # as `select` and `score` look at it
    found = reusable_difficulty(make_scorer(difficulty=first), seen, 2, tmp_path)
    scorer = make_scorer(difficulty=second)
    scored = scorer.score(dataset, chunk_size=2, cache_dir=tmp_path)
    assert found.astype(np.float32).tolist() == scored["difficulty"][:]
    assert reusable_difficulty(scorer, seen, 2, tmp_path).tolist() == found.tolist()
    assert len(first.read) == len(dataset) and second.read == []  # before rows that are not known
    bad = Dataset.from_list([*dataset, dataset[0] | {"prompt": []}])
    assert np.isnan(reusable_difficulty(scorer, bad, 3, tmp_path)).tolist() == [False] * 7 + [True]


def test_token_ids_are_read_by_their_own_tokenizer(make_scorer, make_source, dataset, tokenizer):
    scorer = make_scorer(difficulty=make_source())
    other = make_scorer(difficulty=make_source(), max_length=200)
    assert scorer.difficulty_recipe(["messages"]) == other.difficulty_recipe(["messages"])
    assert scorer.difficulty_recipe(["input_ids"]) != other.difficulty_recipe(["input_ids"])
    assert make_scorer().difficulty_recipe(["messages"]) is None


def test_difficulty_of_rows_the_model_cannot_take(make_scorer, make_source, dataset, tmp_path):
    """What one model refuses another may take, so its difficulty is kept all the same."""
    long = dataset[0] | {"prompt": [{"role": "user", "content": "Why? " * 60}]}
    rows = Dataset.from_list([dataset[1], long])
    settings = {"on_bad_row": "skip", "difficulty": make_source()}
    short = make_scorer(max_length=40, **settings).score(rows, cache_dir=tmp_path)
    assert np.isnan(short["difficulty"][1]) and not np.isnan(short["difficulty"][0])
    whole = make_scorer(max_length=400, **settings).score(rows, cache_dir=tmp_path)
    assert not np.isnan(whole["difficulty"][1])
    assert len(settings["difficulty"].read) == 2


def test_another_model_shares_nothing(make_scorer, dataset, tmp_path):
    first = make_scorer().score(dataset, cache_dir=tmp_path)
    other = make_scorer(make_model(seed=1))
    assert other.score(dataset, cache_dir=tmp_path)["influence"][:] != first["influence"][:]
    assert other.scored == [len(dataset)]


def test_model_that_changes_meanwhile(make_scorer, dataset, tmp_path):
    scorer = make_scorer()
    scorer.score(dataset.select([0]), cache_dir=tmp_path)
    real = scorer.engine.score

    def trained_in_between(*args):
        scorer.model.model.layers[0].self_attn.q_proj.weight.data.mul_(1.1)
        return real(*args)

    scorer.engine.score = trained_in_between
    with pytest.raises(RuntimeError, match="changed while the dataset was scored"):
        scorer.score(dataset, chunk_size=2, cache_dir=tmp_path)
    assert len(list(tmp_path.glob("*/0*.safetensors"))) == 1  # the first call's; of the second nothing is kept


def test_bad_row_loses_no_chunk(make_scorer, dataset, tmp_path):
    rows = [*dataset, dataset[0] | {"completion": []}]
    with pytest.raises(ValueError, match="Row 7"):
        make_scorer().score(Dataset.from_list(rows), chunk_size=2, cache_dir=tmp_path)
    assert len(list(tmp_path.glob("*/0*.safetensors"))) == 3


def test_full_disk(model_folder, dataset, tmp_path):
    """A file size limit stands for the disk: the chunks before stay, and the error says what to do."""
    dataset.to_json(tmp_path / "pool.jsonl")
    script = f"""
import resource
from datasets import load_dataset
from diq_hf import DIQScorer
ds = load_dataset("json", data_files=r"{tmp_path / "pool.jsonl"}", split="train", cache_dir=r"{tmp_path / "cache"}")
scorer = DIQScorer(r"{model_folder}", ds.select([0]), model_init_kwargs={{"dtype": "float32"}})
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
scorer.score(ds, cache_dir=r"{tmp_path / "chunks"}")
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "cannot be written" in result.stderr and "run again" in result.stderr
    assert not [path for path in (tmp_path / "chunks").rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """One process that scores 100 chunks."""
    return run_killed("killed_runs.py", tmp_path_factory.mktemp("one") / "run", 0, 1)


def test_two_processes_give_the_same_bits_as_one(undisturbed, tmp_path):
    two = run_killed("killed_runs.py", tmp_path / "two", 0, 2)
    assert two["columns"] == undisturbed["columns"]
    assert two["started"] == undisturbed["started"] == 100


def test_killed_again_and_again(undisturbed, tmp_path):
    killed = run_killed("killed_runs.py", tmp_path / "killed", 20, 2)
    assert killed["columns"] == undisturbed["columns"]
    assert killed["killed"] == 20
    # Each kill costs at most the one chunk that each of the two processes had in hand.
    assert 100 <= killed["started"] <= 100 + 2 * 20


def test_what_cannot_be_scored_by_chunks(make_scorer, dataset, tmp_path):
    with pytest.raises(TypeError, match="has no chunks"):
        make_scorer().score(list(dataset))
    with pytest.raises(ValueError, match="`chunk_size`"):
        make_scorer().score(dataset, chunk_size=0)
    with pytest.raises(ValueError, match="no rows"):
        make_scorer().score(dataset.select([]))
    scored = make_scorer().score(dataset, cache_dir=tmp_path)
    with pytest.raises(ValueError, match="already has"):
        make_scorer().score(scored, cache_dir=tmp_path)
    again = make_scorer(overwrite=True).score(scored, cache_dir=tmp_path)
    assert again.column_names == scored.column_names


def test_dataset_dict(make_scorer, dataset, tmp_path):
    scored = make_scorer().score(DatasetDict(a=dataset, b=dataset.select([2, 1])), cache_dir=tmp_path)
    assert scored["b"]["influence"][:] == pytest.approx([scored["a"]["influence"][i] for i in (2, 1)])


def test_direction_on_disk(tmp_path):
    direction = Direction({"w": torch.randn(3, 2)}, num_rows=4, loss=1.5)
    direction.save(tmp_path / "direction.safetensors", "recipe")
    loaded = Direction.load(tmp_path / "direction.safetensors", "recipe")
    assert torch.equal(loaded.tensors["w"], direction.tensors["w"]) and (loaded.num_rows, loaded.loss) == (4, 1.5)
    with pytest.raises(ValueError, match="belongs to another model"):
        Direction.load(tmp_path / "direction.safetensors", "another")
