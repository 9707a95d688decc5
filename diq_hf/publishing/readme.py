"""The YAML head of a README, which tells `load_dataset` what to read: ours in it, and whether it is still ours."""

from collections.abc import Mapping
from typing import Any

import yaml
from datasets import Features
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK


# Entries of a README's head; a thousand configurations of a hundred columns are fewer.
LARGEST = 1_000_000


def config_entry(name: str, folder: str, stem: str) -> dict[str, Any]:
    """What the README's `configs` say of a configuration."""
    return {"config_name": name, "data_files": [{"split": "train", "path": f"{folder}/{stem}-*"}]}


def read_head(readme: str | None) -> DatasetCardData:
    """The YAML head of a README.

    Raises:
        `ValueError`: It is no YAML, or `datasets` cannot read its configurations.
    """
    if readme is None:
        return DatasetCardData()
    try:
        if (block := REGEX_YAML_BLOCK.search(readme)) and _unfolded(yaml.compose(block[2], yaml.SafeLoader)) > LARGEST:
            raise ValueError(f"its aliases unfold to more than {LARGEST:,} entries")
        head = DatasetCard(readme).data
        MetadataConfigs.from_dataset_card_data(head)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"README.md's head cannot be read: {reason[:200]}") from error
    if not all(isinstance(info, Mapping) for info in infos_of(head)):
        raise ValueError("README.md's head cannot be read: `dataset_info` must be objects")
    return head


def _unfolded(node: yaml.Node | None) -> int:
    """How many entries YAML has once its aliases are followed; a few lines of them may make billions."""
    known: dict[int, int] = {}

    def size(node: Any) -> int:
        if isinstance(node, tuple):
            return sum(map(size, node))
        if id(node) not in known:
            known[id(node)] = LARGEST  # of one that holds itself
            known[id(node)] = 1 + sum(map(size, node.value)) if isinstance(node, yaml.CollectionNode) else 1
        return known[id(node)]

    return 0 if node is None else size(node)


def infos_of(head: DatasetCardData) -> list[Any]:
    """The entries of `dataset_info`, which may be one."""
    infos = head.get("dataset_info") or []
    return infos if isinstance(infos, list) else [infos]


def changed_entry(name: str, entries: list[Mapping], expected: Mapping) -> list[str]:
    """An entry of `configs` that is not ours; `default` is for a person to choose."""
    if len(entries) != 1:
        return [f"README.md has {len(entries)} entries of {name!r} in `configs`; there must be one"]
    entry = entries[0]
    found = []
    if entry.get("data_files") != expected["data_files"]:
        found.append(f"README.md does not name {expected['data_files'][0]['path']} as the data files of {name!r}")
    if more := sorted(map(str, set(entry) - {*expected, "default"})):
        found.append(f"README.md has {more} in the entry of {name!r}, so that `load_dataset` gives other rows")
    return found


def changed_info(name: str, infos: list[Mapping], features: Features, rows: int) -> list[str]:
    """An entry of `dataset_info` that is not that of the files."""
    if len(infos) != 1:
        return [f"README.md has {len(infos)} entries of {name!r} in `dataset_info`; there must be one"]
    known = {"config_name", "features", "splits", "download_size", "dataset_size"}
    if more := sorted(map(str, set(infos[0]) - known)):
        return [f"README.md has {more} in the `dataset_info` of {name!r}"]
    try:
        stated = DatasetInfosDict.from_dataset_card_data(DatasetCardData(dataset_info=[dict(infos[0])]))[name]
        splits = {split: info.num_examples for split, info in (stated.splits or {}).items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return [f"README.md's `dataset_info` of {name!r} cannot be read: {error!r:.200}"]
    found = []
    if stated.features != features:
        theirs = stated.features or {}
        odd = sorted(column for column in {*theirs, *features} if theirs.get(column) != features.get(column))
        found.append(f"README.md states other `features` of {name!r} than its files have: {odd}")
    if splits != {"train": rows}:
        found.append(f"README.md states the splits {splits} of {name!r}; the files have {rows} rows of 'train'")
    return found
