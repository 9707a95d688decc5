"""Rows by name: a Hub id, a folder, data files or a pattern of them. What cannot be read is named, with its line."""

import contextlib
import errno
import glob
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .faults import find_fault


# Formats of one file, by what its name ends with; `datasets` knows more, and is asked about any other.
BUILDERS = {
    ".arrow": ("arrow", {}),
    ".csv": ("csv", {}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".ndjson": ("json", {}),
    ".parquet": ("parquet", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".txt": ("text", {}),
}
TEXT = ("csv", "json", "text")
COMPRESSED = (".bz2", ".gz", ".lz4", ".xz", ".zip", ".zst")


def load_rows(
    name: str,
    split: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    data_files: Sequence[str] | None = None,
    streaming: bool = False,
) -> Any:
    """Rows by the name that a command line gives them.

    Args:
        name (`str`):
            A folder that `save_to_disk` wrote, a folder of data files, a data file (compressed or not), a pattern such
            as `pool/*.jsonl`, an address (`https://…`, `hf://…`), or a Hub id.
        split (`str`, *optional*):
            Split, or a slice such as `"train[:100]"`; by default `"train"`, or the only one that was saved.
        config (`str`, *optional*):
            Configuration of a dataset that has several.
        revision (`str`, *optional*):
            Of a dataset on the Hub.
        data_files (`Sequence[str]`, *optional*):
            Of a folder or a dataset on the Hub the files that count, or patterns of them.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to give a stream, of which nothing is read yet.

    Returns:
        [`~datasets.Dataset`] of at least one row, or [`~datasets.IterableDataset`].

    Raises:
        `ValueError`: There are no rows, they cannot be read, or there is no such split.
        `FileNotFoundError`: There is no such file or folder, and no dataset can have that name.
    """
    path, pattern = Path(name), any(sign in name for sign in "*?[")
    by_place = path.exists() or pattern or "://" in name
    if by_place and revision is not None:
        raise ValueError(f"{name} is named by its place, so it has no revision {revision!r}.")
    if by_place and config is not None and (not path.is_dir() or _is_saved(path)):
        raise ValueError(f"{name} is one dataset and has no configuration {config!r}.")
    if data_files and (path.is_file() or pattern or "://" in name or _is_saved(path)):
        raise ValueError(f"{name} is one dataset, of which no data files can be named. Name the files themselves.")
    if streaming and "[" in (split or ""):
        raise ValueError(f"A stream has no rows by position, so it has no split {split!r}. Name a whole split.")
    how: dict[str, Any] = {"streaming": True} if streaming else {}
    how |= {"data_files": {"train": list(data_files)}} if data_files else {}
    if path.is_dir() and _is_saved(path):
        rows = _saved(name, split)
        rows = rows.to_iterable_dataset() if streaming else rows
    elif path.is_dir():
        if saved := sorted(str(child) for child in path.iterdir() if child.is_dir() and _is_saved(child)):
            raise ValueError(f"{name} is no dataset, but holds {', '.join(saved)}. Name the one that you mean.")
        files = sorted(file for file in path.rglob("*") if file.is_file())
        for wanted in data_files or ():
            if "://" not in wanted and not glob.glob(wanted, root_dir=path, recursive=True):
                raise FileNotFoundError(f"{name} has no file that is named like {wanted}.")
        rows = _load(name, files, str(path.resolve()), config, split=split or "train", **how)
    elif path.is_file() or pattern or "://" in name:
        rows = _files(name, path, split, **how)
    else:
        rows = _from_hub(name, split, config, revision, **how)
    if not (streaming or len(rows)):
        raise ValueError(f"{name} holds no rows.")
    return rows


def repository_of(name: str) -> str | None:
    """Where on the Hub rows of such a name are read from: a dataset repository, or `"buckets/me/name"`; `None` of any
    other place."""
    from huggingface_hub.constants import ENDPOINT

    from ..names import is_repo_id

    if found := re.match(rf"(?:hf://|{re.escape(ENDPOINT)}/)(datasets|buckets)/([^/@]+/[^/@]+)", name):
        return found[2] if found[1] == "datasets" else f"buckets/{found[2]}"
    return name if is_repo_id(name) and not Path(name).exists() else None


def source_of(name: str, rows: Any, config: str | None = None, revision: str | None = None) -> Any:
    """Where rows are from, as a recipe records it: a [`~diq_hf.recipe.Source`].

    Args:
        name (`str`):
            What the command line calls them; of files in a dataset repository, the repository is recorded.
        rows ([`~datasets.Dataset`] or [`~diq_hf.scoring.shards.ScoredStream`]):
            The rows.
        config (`str`, *optional*):
            Their configuration.
        revision (`str`, *optional*):
            Their revision.
    """
    from ..names import public_name
    from ..recipe import Source

    place = repository_of(name)
    named = public_name(name if place is None or place.startswith("buckets/") else place)
    return Source(**named, split=str(rows.split or "train"), rows=len(rows), config=config, revision=revision)


def _is_saved(folder: Path) -> bool:
    return any((folder / file).is_file() for file in ("state.json", "dataset_dict.json"))


def _saved(name: str, split: str | None) -> Any:
    from datasets import DatasetDict, load_from_disk

    try:
        rows = load_from_disk(name)
    except IndexError:  # of no data files
        raise ValueError(f"{name} holds no rows.") from None
    if isinstance(rows, DatasetDict):
        split = split or ("train" if "train" in rows or len(rows) != 1 else next(iter(rows)))
        if split not in rows:
            raise ValueError(f"{name} has the splits {sorted(rows)}, not {split!r}.")
        return rows[split]
    if split not in (None, "train", str(rows.split)):
        raise ValueError(f"{name} is one dataset without splits, so it has no split {split!r}. Leave the split out.")
    return rows


def _files(name: str, path: Path, split: str | None, **how: Any) -> Any:
    if "://" in name:
        files: list = [name]
    else:
        files = [path] if path.exists() else sorted(Path(file) for file in glob.glob(name, recursive=True))
        files = [file for file in files if file.is_file()]
    if not files:
        raise FileNotFoundError(f"No file is named like {name}.")
    if (split or "train").partition("[")[0] != "train":
        raise ValueError(f"{name} has no split {split!r}: files by name are one split, 'train'. Leave the split out.")
    found = {str(_builder(str(file))): file for file in files}
    if len(found) > 1:
        first, second = list(found.values())[:2]
        raise ValueError(f"{name} means files of several formats ({first}, {second}). Name those of one.")
    builder = _builder(str(files[0]))
    if builder is None:
        if "://" in name or len(files) > 1:
            raise ValueError(f"The format of {files[0]} cannot be told by its name. Known are {', '.join(BUILDERS)}.")
        builder = str(path.resolve().parent), {}
    # `datasets` takes names for patterns.
    escaped = [file if "://" in name else glob.escape(str(Path(file).resolve())) for file in files]
    return _load(name, files, builder[0], data_files={"train": escaped}, split=split or "train", **builder[1], **how)


def _builder(file: str) -> tuple[str, dict] | None:
    """Builder and its arguments by a file's name: `pool.v2.JSONL.gz` is JSON."""
    suffixes = [suffix.lower() for suffix in Path(file).suffixes]
    while suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return BUILDERS.get(suffixes[-1]) if suffixes else None


def _from_hub(name: str, split: str | None, config: str | None, revision: str | None, **how: Any) -> Any:
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
        missing = _builder(name) is not None
    except HFValidationError:
        missing = True
    if missing:
        raise FileNotFoundError(f"There is no file or folder {name}.")
    try:
        return _load(name, [], name, config, split=split or "train", revision=revision, **how)
    except (ConnectionError, DatasetNotFoundError) as error:
        # The same for a mistyped folder as for a dataset that is out of reach.
        raise type(error)(f"There is no file or folder {name} here, and from the Hub: {error}") from error


def _load(name: str, files: list, *args: Any, **kwargs: Any) -> Any:
    """`load_dataset`, whose errors name the file and the line."""
    from datasets import config, load_dataset
    from datasets.exceptions import DatasetGenerationCastError, DatasetGenerationError
    from datasets.table import CastError
    from pyarrow import ArrowException

    with _collected("datasets.packaged_modules") as told:
        try:
            rows = load_dataset(*args, **kwargs)
            if files and rows.info.builder_name in TEXT and not kwargs.get("streaming"):
                rows.data.table.validate(full=True)  # bytes that are no text would be an error in the midst of scoring
            return rows
        except StopIteration:
            raise ValueError(f"{name} holds no rows.") from None
        except DatasetGenerationCastError as error:
            raise ValueError(f"{name} cannot be read: {error}") from error
        except (ArrowException, DatasetGenerationError, EOFError, OSError, UnicodeError, ValueError) as error:
            if "corresponds to no data" in str(error):
                raise ValueError(f"{name} holds no rows.") from error
            if told_of := _which(name, str(error)):
                raise ValueError(told_of) from error
            cause = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(
                    f"{config.HF_DATASETS_CACHE}, where `datasets` keeps what it has read, cannot be written: "
                    f"{cause.strerror}. Free some space there, or name a folder on another disk as HF_DATASETS_CACHE."
                ) from error
            if not files:
                raise
            named = [file for file in files if any(str(Path(file).resolve()) in message for message in told)]
            for file in named or files:
                if fault := find_fault(str(file)):
                    raise ValueError(f"{file}, line {fault.line}: {fault.what}") from error
            if isinstance(cause, CastError) and (odd := _odd_columns(files)):
                raise ValueError(odd) from error
            raise ValueError(f"{named[0] if named else name} cannot be read: {cause}") from error


def _which(name: str, error: str) -> str | None:
    """What to choose of a dataset's configurations or splits, where an error lists them."""
    if found := re.search(r"(?:available configs|Available): (\[.*?\])", error):
        return (
            f"{name} has the configurations {found[1]}. Name one of them with --name, of validation or "
            "held-out rows with --validation-name or --heldout-name; of a task with --name TASK=CONFIGURATION."
        )
    if found := re.search(r"(?:Unknown split \"(.*?)\"|Bad split: (\S*)\.).*?(\[.*?\])", error):
        return f"{name} has the splits {found[3]}, not {(found[1] or found[2])!r}. Name one of them with --split."
    return None


def _odd_columns(files: list) -> str | None:
    """Which file's columns are not those of the first."""
    from datasets import load_dataset

    first: list[str] = []
    for file in files:
        if builder := _builder(str(file)):
            path = glob.escape(str(Path(file).resolve()))
            stream = load_dataset(builder[0], data_files=[path], split="train", streaming=True, **builder[1])
            columns = sorted(next(iter(stream), {}))
            if (first := first or columns) != columns:
                return f"{file} has the columns {columns}, and files before it {first}. Give all files the same."
    return None


@contextlib.contextmanager
def _collected(logger: str) -> Iterator[list[str]]:
    """What a library logs as errors while it raises them: kept for the error's own line instead of printed."""
    messages: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: messages.append(record.getMessage())
    of_library = logging.getLogger(logger)
    propagated, of_library.propagate = of_library.propagate, False
    of_library.addHandler(handler)
    try:
        yield messages
    finally:
        of_library.removeHandler(handler)
        of_library.propagate = propagated
