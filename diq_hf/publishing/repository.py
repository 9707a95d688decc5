"""A dataset repository at one commit: what was published there, and whether files and README are still that."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features
from datasets.config import REPOYAML_FILENAME
from huggingface_hub import HfApi

from ..files import read_json
from ..names import RECIPE
from ..recipe import Recipe, SelectionSettings
from ..selection.proof import DERIVED, SCORES, proof_columns
from .contents import CONTENT
from .publication import DATA_FILES, file_digest, recipe_digest
from .readme import changed_entry, changed_info, config_entry, infos_of, read_head


# Scores are numbers that differ from row to row, so Parquet cannot make a thousandth of them; what unfolds to more is
# made to fill the memory. Files below so many bytes, unfolded, do no harm.
LARGEST_RATIO, HARMLESS = 1000, 100_000_000


class Repository:
    """A dataset repository at one commit."""

    def __init__(self, api: HfApi, repo_id: str, revision: str | None):
        self.api, self.repo_id = api, repo_id
        info = api.repo_info(repo_id, repo_type="dataset", revision=revision)
        self.sha, self.files = info.sha, sorted(sibling.rfilename for sibling in info.siblings)
        self._readme = self.path("README.md").read_bytes() if "README.md" in self.files else None
        self.subsets = [path.removesuffix(f"/{RECIPE}") for path in self.files if path.count("/") == 1]
        self.subsets = [name for name in self.subsets if f"{name}/{RECIPE}" in self.files]

    @property
    def readme(self) -> str | None:
        """The README's text.

        Raises:
            `ValueError`: It is not UTF-8.
        """
        try:
            return None if self._readme is None else self._readme.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"README.md is not UTF-8: {error}") from error

    def path(self, file: str) -> Path:
        """The file here, downloaded if need be."""
        return Path(self.api.hf_hub_download(self.repo_id, file, repo_type="dataset", revision=self.sha))

    def recipe(self, config_name: str) -> Recipe:
        """The recipe of a published subset.

        Raises:
            `ValueError`: There is no such subset, or its recipe is none.
        """
        if config_name not in self.subsets:
            raise ValueError(
                f"{self.repo_id} has no subset {config_name!r} that was published by `push_subset`. It has "
                f"{self.subsets}."
            )
        recipe = Recipe.load(self.path(f"{config_name}/{RECIPE}"), RECIPE)
        for name in ("selection", "files", "digest"):
            if getattr(recipe, name) is None:
                raise ValueError(f"{RECIPE}: recipe has no {name!r}.")
        return recipe

    def stems(self, config_name: str, recipe: Recipe) -> tuple[str, ...]:
        """What was published: the subset (`"train"`), and the pool's scores (`"scores"`) if they were."""
        with_scores = any(file.startswith(f"{config_name}/scores-") for file in recipe.files)
        return ("train", "scores") if with_scores else ("train",)

    def data_files(self, config_name: str, recipe: Recipe, stem: str) -> list[Path]:
        """The Parquet files of a recipe that are there."""
        return [self.path(file) for file in sorted(recipe.files) if file in self._taken(config_name, stem)]

    def _taken(self, config_name: str, *stems: str) -> set[str]:
        """Files that the configuration's pattern takes."""
        return {file for file in self.files if file.startswith(tuple(f"{config_name}/{stem}-" for stem in stems))}

    def changed_files(self, config_name: str, recipe: Recipe) -> list[str]:
        """Where files are not those of the recipe, one sentence each."""
        found = []
        if recipe_digest(read_json(self.path(f"{config_name}/{RECIPE}"), RECIPE)) != recipe.digest:
            found.append(f"{RECIPE} was changed: its digest differs")
        taken = self._taken(config_name, "train", "scores")
        present = taken | {
            file
            for file in self.files
            if file.startswith(f"{config_name}/") and Path(file).suffix in DATA_FILES - {".json"}
        }
        if present != set(recipe.files):
            found.append(f"the data files are {sorted(present)}, the recipe names {sorted(recipe.files)}")
        for file in sorted(taken & set(recipe.files)):
            if file_digest(self.path(file)) != recipe.files[file]:
                found.append(f"{file} was changed: its digest differs")
        return found

    def changed_head(self, config_name: str, recipe: Recipe) -> list[str]:
        """Where the README, which tells `load_dataset` what to read, tells it something else."""
        head = read_head(self.readme)
        found = []
        if REPOYAML_FILENAME in self.files:
            found.append(f"{REPOYAML_FILENAME} is read instead of the README's head; remove it")
        expected = {"train": config_name, "scores": f"{config_name}_scores"}
        for stem, name in expected.items():
            entries = [entry for entry in head.get("configs") or [] if entry["config_name"] == name]
            infos = [entry for entry in infos_of(head) if entry.get("config_name", "default") == name]
            if stem not in self.stems(config_name, recipe):
                found += [f"README.md names {name!r}, which was not published"] if entries or infos else []
                continue
            found += changed_entry(name, entries, config_entry(name, config_name, stem))
            files = self.data_files(config_name, recipe, stem)
            if files:
                features = Features.from_arrow_schema(pq.read_schema(files[0]))
                rows = sum(pq.read_metadata(file).num_rows for file in files)
                found += changed_info(name, infos, features, rows)
        return found

    def columns(self, files: Iterable[Path]) -> list[str]:
        """Names of the columns of Parquet files."""
        return sorted({name for file in files for name in pq.read_schema(file).names})

    def scores(self, files: Iterable[Path], rows: int, settings: SelectionSettings | None = None) -> Dataset:
        """The columns without texts of Parquet files.

        Args:
            files (`Iterable[Path]`):
                The files.
            rows (`int`):
                How many rows the recipe says they have.
            settings ([`~diq_hf.recipe.SelectionSettings`], *optional*):
                How rows were selected, which may take further columns.

        Raises:
            `ValueError`: They have other rows, far too many of them, or a column that does not hold numbers.
        """
        files = list(files)
        check_size(files, rows)
        tables = []
        for file in files:
            schema = pq.read_schema(file)
            names = [name for name in (*proof_columns(settings), "row", CONTENT) if name in schema.names]
            for name in names:
                kind = schema.field(name).type
                named = name == CONTENT or name in ((settings and settings.balance) or ())
                wanted = (named and pa.types.is_string(kind)) or (name != CONTENT and _is_number(kind))
                if not wanted:
                    raise ValueError(f"column {name!r} is {kind}")
            if missing := [name for name in (*SCORES[:2], *DERIVED[:2]) if name not in names]:
                raise ValueError(f"there is no column {missing}")
            tables.append(pq.read_table(file, columns=names).replace_schema_metadata(None))
        return Dataset(pa.concat_tables(tables))


def check_size(files: Iterable[Path], rows: int) -> None:
    """Raises, before anything is unfolded, if Parquet files have other rows than the recipe says, or far too many."""
    files = list(files)
    held = sum(pq.read_metadata(file).num_rows for file in files)
    if held != rows:
        raise ValueError(f"the files have {held:,} rows, the recipe says {rows:,}")
    for file in files:
        metadata = pq.read_metadata(file)
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        columns = [group.column(i) for group in groups for i in range(metadata.num_columns)]
        values = sum(column.num_values for column in columns)
        size, unfolded = file.stat().st_size, sum(column.total_uncompressed_size for column in columns)
        if max(8 * values, unfolded) > max(HARMLESS, LARGEST_RATIO * size):
            raise ValueError(
                f"a file of {size:,} bytes holds {values:,} values in {unfolded:,} bytes: too many to be so"
            )


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)
