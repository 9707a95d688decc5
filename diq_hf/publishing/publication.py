"""What a published subset consists of: Parquet files, scores, recipe, pictures and a README, all in one folder."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetInfo, Features, LargeList, List, SplitDict, SplitInfo, Value
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData

from ..names import RECIPE
from ..recipe import Recipe
from .readme import config_entry, infos_of, read_head
from .sections import linked_page, merge_card
from .subset_card import draw_selection, render_card


SHARD_BYTES = 500_000_000  # as `Dataset.push_to_hub` has it
DATA_FILES = {".arrow", ".csv", ".gz", ".json", ".jsonl", ".parquet", ".tar", ".tsv", ".txt", ".zip", ".zst"}


class Publication:
    """One configuration, written to a local folder, ready to be committed.

    Args:
        folder (`Path`):
            An empty folder.
        config_name (`str`):
            The configuration.
        subset ([`~datasets.Dataset`]):
            Its rows.
        pool ([`~datasets.Dataset`], *optional*):
            The pool they were selected from, which is drawn.
        scores ([`~datasets.Dataset`], *optional*):
            Its scores, which become configuration `<config_name>_scores`.
        recipe ([`~diq_hf.recipe.Recipe`]):
            The scorer's facts and `selection`.
    """

    def __init__(
        self,
        folder: Path,
        config_name: str,
        subset: Dataset,
        pool: Dataset | None,
        scores: Dataset | None,
        recipe: Recipe,
    ):
        self.config_name = config_name
        self.paths: dict[str, Path] = {}  # in the repository: here
        self.infos: dict[str, DatasetInfo] = {}
        self._folder = folder
        self._add_rows(config_name, "train", subset)
        if scores is not None:
            self._add_rows(f"{config_name}_scores", "scores", scores)
        digests = {path: file_digest(file) for path, file in self.paths.items()}
        recipe = replace(recipe, files=digests)
        self.recipe = replace(recipe, digest=recipe_digest(recipe.to_json()))
        self.figures = draw_selection(pool, subset, recipe.selection, folder)
        recorded = folder / RECIPE
        recorded.write_text(json.dumps(self.recipe.to_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        self.paths |= {f"{config_name}/{file.name}": file for file in (recorded, *self.figures)}

    def _add_rows(self, config_name: str, stem: str, rows: Dataset) -> None:
        rows = with_types(rows.with_format(None))
        size = rows.data.nbytes * len(rows) / max(1, len(rows.data))
        shards = max(1, math.ceil(size / SHARD_BYTES))
        written, stored = 0, 0
        for i in range(shards):
            file = self._folder / f"{stem}-{i:05d}-of-{shards:05d}.parquet"
            written += rows.shard(shards, i, contiguous=True).to_parquet(file)
            stored += file.stat().st_size
            self.paths[f"{self.config_name}/{file.name}"] = file
        splits = SplitDict()
        splits.add(SplitInfo("train", num_bytes=written, num_examples=len(rows)))
        self.infos[config_name] = DatasetInfo(
            features=rows.features, splits=splits, download_size=stored, dataset_size=written
        )

    def outdated(self, files: Iterable[str]) -> list[str]:
        """Files of an earlier push of this configuration that this one does not replace."""
        ours = re.compile(rf"{re.escape(self.config_name)}/((train|scores)-.*\.parquet|(quadrants|histograms)\.png)")
        return [path for path in files if ours.fullmatch(path) and path not in self.paths]

    def readme(self, repo_id: str, present: str | None, files: Iterable[str], metadata: Mapping) -> str:
        """The repository's README with this configuration in it.

        Args:
            repo_id (`str`):
                The dataset repository.
            present (`str`, *optional*):
                Its README as it stands.
            files (`Iterable[str]`):
                What it holds.
            metadata (`dict`):
                Further keys of the YAML head.

        Raises:
            `ValueError`: The repository has data that this push would hide or replace.
        """
        head = read_head(present)
        configs, infos = head.get("configs") or [], infos_of(head)
        files = set(files)
        ours = {self.config_name, f"{self.config_name}_scores"}
        mine = [config for config in configs if config["config_name"] in ours]
        if mine and f"{self.config_name}/{RECIPE}" not in files:
            raise ValueError(
                f"{repo_id} has a configuration {self.config_name!r} that was not published by `push_subset`. Choose "
                "another `config_name`."
            )
        self._refuse_neighbours(repo_id, files)
        if not configs and (data := sorted(path for path in files if Path(path).suffix in DATA_FILES)):
            raise ValueError(
                f"{repo_id} has data files ({data[0]}, …) but no `configs:` in its README, so naming one would hide "
                "them. Name theirs there first, or push to another repository."
            )
        data = DatasetCardData(**metadata)
        if kept := [config for config in configs if config["config_name"] not in ours]:
            data["configs"] = kept
        infos = [{"config_name": "default", **info} for info in infos]
        if kept := [info for info in infos if info["config_name"] not in ours]:
            data["dataset_info"] = kept if len(kept) > 1 else kept[0]
        DatasetInfosDict(self.infos).to_dataset_card_data(data)
        folder = self.config_name
        stems = dict(zip(self.infos, ("train", "scores"), strict=False))
        entries = {name: config_entry(name, folder, stem) for name, stem in stems.items()}
        for entry in mine:  # which configuration is the default is for a person to choose
            if "default" in entry and entry["config_name"] in entries:
                entries[entry["config_name"]]["default"] = entry["default"]
        MetadataConfigs(entries).to_dataset_card_data(data)
        figures = [file.name for file in self.figures]
        card = render_card(repo_id, folder, self.recipe, data, figures, linked_page(present, folder))
        return merge_card(present, card, folder)

    def _refuse_neighbours(self, repo_id: str, files: Iterable[str]) -> None:
        """Files that the new configuration's patterns would take for its rows, or that stand where its folder goes."""
        if self.config_name in files:
            raise ValueError(f"{repo_id} has a file {self.config_name!r}. Choose another `config_name`.")
        outdated = set(self.outdated(files))
        taken = tuple(f"{self.config_name}/{stem}-" for stem in ("train", "scores"))
        if odd := sorted(f for f in files if f.startswith(taken) and f not in outdated and f not in self.paths):
            raise ValueError(
                f"{repo_id} has {odd}, which would be loaded as rows of {self.config_name!r}. Remove or rename them, "
                "or choose another `config_name`."
            )


def with_types(rows: Dataset) -> Dataset:
    """Rows in which no column, and no part of one, is of the type `null`, as columns are that hold nothing at all.

    The Hub can show none of these, nor describe them as Croissant, and rows of another shard or a later push may hold
    something there. They become columns of text without a value.
    """
    features = Features({name: _typed(feature) for name, feature in rows.features.items()})
    return rows if features == rows.features else rows.cast(features)


def _typed(feature: Any) -> Any:
    if isinstance(feature, Mapping):
        return {name: _typed(part) for name, part in feature.items()}
    if isinstance(feature, List | LargeList):
        return replace(feature, feature=_typed(feature.feature))
    return Value("string") if feature == Value("null") else feature


def recipe_digest(recipe: Mapping) -> str:
    """Digest of a published recipe as it lies in its file, in which the digests of the data files stand."""
    stated = {name: value for name, value in recipe.items() if name != "digest"}
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as `sha256sum` and the Hub's LFS have it."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()
