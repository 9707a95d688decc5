"""Cases: what the Hub makes of published Parquet files for its readers, Data Studio and Croissant."""

import hashlib
import json
import tempfile
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from unittest import SkipTest

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, LargeList, List, Value
from hub_kit import HUB, POOL, push, readme, rows
from huggingface_hub import DatasetCard

from diq_hf import select_subset, verify_subset


# Types that Croissant has a name for; columns of others are left out of what the Hub derives.
CROISSANT = {
    "bool": "sc:Boolean",
    "date32": "sc:Date",
    "float32": "cr:Float32",
    "float64": "cr:Float64",
    "int32": "cr:Int32",
    "int64": "cr:Int64",
    "large_string": "sc:Text",
    "string": "sc:Text",
}


def pool_with_odd_columns():
    """Columns, and parts of columns, in which no row has anything."""
    turns = [[{"role": "user", "content": row[0]["content"], "tool_calls": None}] for row in POOL["prompt"]]
    pool = POOL.remove_columns("prompt").add_column("prompt", turns)
    pool = pool.add_column("nothing", pa.nulls(len(pool))).add_column("day", [date(2026, 1, 1)] * len(pool))
    assert pool.features["nothing"] == Value("null")
    return pool.add_column("tags", [[None]] * len(pool))


def case_columns_that_hold_nothing_have_a_type():
    pool = pool_with_odd_columns()
    subset = select_subset(pool, ratio=0.1)
    push("me/typed", subset, scored=pool)
    push("me/typed", pool, "scored")
    for path, data in HUB.files("me/typed").items():
        if path.endswith(".parquet"):
            schema = pq.read_schema(pa.BufferReader(data))
            assert "null" not in {str(kind) for kind in leaves(schema)}, (path, schema)
    assert rows("me/typed") == subset.to_list() and rows("me/typed", "scored")[0]["nothing"] is None
    assert not any(found.problems for found in verify_subset("me/typed").values())


def case_croissant():
    """The description that the Hub derives is valid by the validator of Croissant's makers, and reads the scores."""
    if find_spec("mlcroissant") is None:
        raise SkipTest("`pip install mlcroissant` to have it validated")
    import mlcroissant

    pool = pool_with_odd_columns()
    subset = select_subset(pool, ratio=0.1)
    push("me/described", subset, scored=pool)
    with tempfile.TemporaryDirectory() as folder:
        for path, data in HUB.files("me/described").items():
            Path(folder, path).parent.mkdir(parents=True, exist_ok=True)
            Path(folder, path).write_bytes(data)
        description = Path(folder, "croissant.json")
        description.write_text(json.dumps(croissant("me/described", Path(folder))))
        dataset = mlcroissant.Dataset(jsonld=str(description))
        assert not dataset.metadata.ctx.issues.errors, dataset.metadata.ctx.issues.report()
        # Columns without parts are also read; of structs the validator reads what a JSON path names.
        found = list(dataset.records(record_set="diq_10pct_scores"))
        expected = rows("me/described", "diq_10pct_scores")
        assert len(found) == len(expected) == len(pool)
        for name in ("row", "quadrant", "diq_rank", "diq_reason"):
            read = [row[f"diq_10pct_scores/{name}"] for row in found]
            assert [None if value != value else value for value in read] == [row[name] for row in expected], name


def leaves(kind) -> list:
    if isinstance(kind, pa.Schema) or pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in leaves(field.type)]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return leaves(kind.value_type)
    return [kind]


def croissant(repo: str, folder: Path) -> dict:
    """The description of a repository by its files and the head of its card, as the Hub makes it."""
    head = DatasetCard(readme(repo)).data
    infos = head["dataset_info"]
    files, sets = [], []
    for config in head["configs"]:
        name = config["config_name"]
        info = next(info for info in infos if info["config_name"] == name)
        (path,) = folder.glob(config["data_files"][0]["path"])
        files.append(
            {
                "@type": "cr:FileObject",
                "@id": f"file-{name}",
                "name": f"file-{name}",
                "contentUrl": str(path.relative_to(folder)),
                "encodingFormat": "application/x-parquet",
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
        )
        features = Features._from_yaml_list(info["features"])
        fields = [field_of(f"{name}/{column}", column, kind, name) for column, kind in features.items()]
        assert all(fields), features
        sets.append({"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields})
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": repo.split("/")[1],
        "description": head.pretty_name,
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "license": head.license,
        "url": f"https://huggingface.co/datasets/{repo}",
        "distribution": files,
        "recordSet": sets,
    }


def field_of(place: str, column: str, kind, config: str) -> dict | None:
    """A column's description, or `None` of a type that Croissant has no name for."""
    field = {"@type": "cr:Field", "@id": place, "name": place}
    source = {"source": {"fileObject": {"@id": f"file-{config}"}, "extract": {"column": column}}}
    if isinstance(kind, ClassLabel):
        return field | source | {"dataType": "sc:Integer"}
    if isinstance(kind, Value):
        return field | source | {"dataType": CROISSANT[kind.dtype]} if kind.dtype in CROISSANT else None
    if isinstance(kind, List | LargeList):
        inner = field_of(place, column, kind.feature, config)
        return inner and inner | {"repeated": True}
    if isinstance(kind, dict):
        parts = [field_of(f"{place}/{name}", column, part, config) for name, part in kind.items()]
        return field | source | {"subField": parts} if all(parts) else None
    return None


CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "recordSet": "cr:recordSet",
    "repeated": "cr:repeated",
    "sc": "https://schema.org/",
    "source": "cr:source",
    "subField": "cr:subField",
}
