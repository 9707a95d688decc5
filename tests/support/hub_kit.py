"""What the cases on our own Hub share: the server, a scored pool, and somebody who looks at what was published."""

import json
import os
import re
from pathlib import Path

import numpy as np
from conftest import chat
from datasets import Dataset, load_dataset
from datasets.utils.metadata import MetadataConfigs
from hub_server import Hub
from huggingface_hub import CommitOperationAdd, DatasetCard, HfApi, SpaceCard
from huggingface_hub.constants import SPACES_SDK_TYPES

from diq_hf import push_subset, select_subset


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


def check_card(text: str, kind: str) -> list[str]:
    """What the Hub checks of a card's head, with the clients' own classes."""
    if kind == "space":
        data = SpaceCard(text).data
        errors = [] if data.sdk in SPACES_SDK_TYPES else [f"sdk {data.sdk!r}"]
        errors += [] if data.get("datasets") is None or isinstance(data.datasets, list) else ["datasets"]
        return errors + ([] if isinstance(data.title, str) and re.fullmatch(r"\W", data.get("emoji")) else ["title"])
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


def commit(repo: str, files: dict[str, bytes | None]) -> None:
    """Somebody pushes by git, which checks no card; `None` removes a file."""
    there = HUB.repos[repo]
    kept = dict(there.commits[there.branches["main"]])
    for path, content in files.items():
        kept.pop(path, None)
        if content is not None:
            kept[path] = HUB.store(content, lfs=path.endswith(".parquet"))
    there.commit("main", kept, "Changes")
