"""A dataset repository at one commit: what was published there, and whether its files are still that."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from huggingface_hub import DatasetCard, HfApi

from ..names import RECIPE
from ..recipe import Recipe, read_json
from ..selection.proof import DERIVED, SCORES
from .publication import file_digest, recipe_digest


class Repository:
    """A dataset repository at one commit."""

    def __init__(self, api: HfApi, repo_id: str, revision: str | None):
        self.api, self.repo_id = api, repo_id
        info = api.repo_info(repo_id, repo_type="dataset", revision=revision)
        self.sha, self.files = info.sha, sorted(sibling.rfilename for sibling in info.siblings)
        self.readme = self.path("README.md").read_bytes().decode("utf-8-sig") if "README.md" in self.files else None
        self.subsets = [path.removesuffix(f"/{RECIPE}") for path in self.files if path.endswith(f"/{RECIPE}")]

    def path(self, file: str) -> Path:
        """The file here, downloaded if need be."""
        return Path(self.api.hf_hub_download(self.repo_id, file, repo_type="dataset", revision=self.sha))

    def recipe(self, config_name: str) -> Recipe:
        if config_name not in self.subsets:
            raise ValueError(
                f"{self.repo_id} has no subset {config_name!r} that was published by `push_subset`. It has "
                f"{self.subsets}."
            )
        return Recipe.load(self.path(f"{config_name}/{RECIPE}"))

    def changed_files(self, config_name: str, recipe: Recipe) -> list[str]:
        """Where files are not those of the recipe, one sentence each."""
        found = []
        if recipe_digest(read_json(self.path(f"{config_name}/{RECIPE}"))) != recipe.digest:
            found.append(f"{RECIPE} was changed: its digest differs")
        present = {file for file in self.files if file.startswith(f"{config_name}/") and file.endswith(".parquet")}
        if present != set(recipe.files):
            found.append(f"the data files are {sorted(present)}, the recipe names {sorted(recipe['files'])}")
        for file in sorted(present & set(recipe.files)):
            if file_digest(self.path(file)) != recipe.files[file]:
                found.append(f"{file} was changed: its digest differs")
        configs = {entry["config_name"]: entry for entry in DatasetCard(self.readme or "").data.get("configs") or []}
        expected = [{"split": "train", "path": f"{config_name}/train-*"}]
        if configs.get(config_name, {}).get("data_files") != expected:
            found.append(f"README.md does not name {config_name}/train-* as the data files of {config_name!r}")
        return found

    def scores(self, prefix: str) -> Dataset | None:
        """The columns without texts of some Parquet files."""
        names = (*SCORES, *DERIVED)
        tables = []
        for file in (file for file in self.files if file.startswith(prefix)):
            present = pq.read_schema(self.path(file)).names
            table = pq.read_table(self.path(file), columns=[name for name in names if name in present])
            tables.append(table.replace_schema_metadata(None))
        return Dataset(pa.concat_tables(tables)) if tables else None
