"""Cases: what somebody with write access may change, one thing at a time, and the line that names it."""

import io
import itertools
import json
import re
from collections.abc import Callable
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, load_dataset
from hub_kit import HUB, POOL, TENTH, commit, push, readme, refusal, rows
from typer.testing import CliRunner

from diq_hf import load_subset, select_subset, verify_subset
from diq_hf.cli.__main__ import app
from diq_hf.publishing import hub, publication, repository


TRAIN, SCORES = "diq_10pct/train-00000-of-00001.parquet", "diq_10pct/scores-00000-of-00001.parquet"
RECIPE_FILE = "diq_10pct/diq_recipe.json"


class Honest:
    """A published subset that is put back to what it was before each change."""

    def __init__(self, repo: str):
        push(repo)
        self.repo, self.files = repo, HUB.files(repo)
        self.recipe, self.readme = json.loads(self.files[RECIPE_FILE]), readme(repo)
        assert not verify_subset(repo)["diq_10pct"].problems

    def problems(self, changes: dict[str, bytes | None]) -> list[str]:
        wanted = {path: content for path, content in (self.files | changes).items() if content is not None}
        present = HUB.files(self.repo)
        changed = {path: content for path, content in wanted.items() if present.get(path) != content}
        commit(self.repo, changed | dict.fromkeys(set(present) - set(wanted)))
        return verify_subset(self.repo)["diq_10pct"].problems

    def head(self, was: str, instead: str) -> dict[str, bytes]:
        assert self.readme.count(was) >= 1, was
        return {"README.md": self.readme.replace(was, instead, 1).encode()}

    def parquet(self, path: str, change: Callable[[pa.Table], pa.Table], **options) -> bytes:
        sink = io.BytesIO()
        pq.write_table(change(pq.read_table(io.BytesIO(self.files[path]))), sink, **options)
        return sink.getvalue()

    def column(self, path: str, name: str, change: Callable[[list], list]) -> bytes:
        def changed(table: pa.Table) -> pa.Table:
            at, field = table.schema.get_field_index(name), table.schema.field(name)
            return table.set_column(at, field, pa.array(change(table[name].to_pylist()), field.type))

        return self.parquet(path, changed)

    def restated(self, files: dict[str, bytes] | None = None, selection: dict | None = None, **facts) -> dict:
        """Changes with a recipe whose digests fit, by someone who knows how."""
        changed = json.loads(json.dumps(self.recipe | facts))
        for path, content in (files or {}).items():
            changed["files"][path] = sha256(content).hexdigest()
        changed["selection"] |= selection or {}
        changed = {name: value for name, value in changed.items() if name != "digest" and value is not None}
        changed["digest"] = sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()
        card = self.readme.replace(self.recipe["digest"], changed["digest"])
        return {RECIPE_FILE: json.dumps(changed).encode(), "README.md": card.encode()} | (files or {})


def case_numbers_that_are_not_so():
    honest = Honest("me/honest")
    swapped = honest.column(TRAIN, "diq_rank", lambda values: [values[1], values[0], *values[2:]])
    flattered = honest.column(SCORES, "influence", lambda values: [*values[:-1], 99.0])
    moved = honest.column(SCORES, "quadrant", lambda values: [None if v is None else (v + 1) % 4 for v in values])
    line = next(line for line in honest.readme.splitlines() if line.startswith("| Q1 |"))
    changes = {
        f"{TRAIN} was changed: its digest differs": {TRAIN: swapped},
        "diq_recipe.json was changed": {RECIPE_FILE: json.dumps(honest.recipe | {"model": None}).encode()},
        "the card says": honest.head(line, line.replace("| 6 |", "| 5 |")),
        "the subset: `diq_rank` differs in 2 of 6 rows": honest.restated({TRAIN: swapped}),
        "the pool's scores: `quadrant` differs in 59 of 60": honest.restated({SCORES: moved}),
        "the pool's scores: `diq_rank` differs": honest.restated({SCORES: flattered}),
        "difficulty_threshold is stated as 1.5": honest.restated(selection={"difficulty_threshold": 1.5}),
        "the selection gives 30": honest.restated(selection={"num_rows": 30, "ratio": None}),
        "cannot be derived: `strategy` is 'best'": honest.restated(selection={"strategy": "best"}),
        "which this version does not know": honest.restated(selection={"luck": 7}),
        "the pool's scores: `row` is not 0, 1, 2": honest.restated(
            {SCORES: honest.column(SCORES, "row", lambda values: [values[1], values[0], *values[2:]])}
        ),
    }
    assert line.endswith("| 6 |")
    for said, files in changes.items():
        problems = honest.problems(files)
        assert any(said in problem for problem in problems), (said, problems)
    honest.problems(changes["the card says"])
    result = CliRunner().invoke(app, ["verify", "me/honest"])
    assert result.exit_code == 1 and result.output.startswith("diq_10pct: the card says") and result.output[-1] == "\n"
    assert result.output.count("\n") == 1


def case_readme_that_loads_something_else():
    """`load_dataset` reads what the README's head tells it, and shows what it is told of the columns."""
    honest = Honest("me/told")
    ours = "- config_name: diq_10pct\n  data_files:\n"
    start = honest.readme.index("dataset_info:")
    infos = honest.readme[start : honest.readme.index("configs:", start)]
    labels = "          '0': Q1\n          '1': Q2\n"
    flipped = "          '0': Q2\n          '1': Q1\n"
    assert labels in infos, infos
    changes = {
        "README.md has ['data_dir'] in the entry of 'diq_10pct'": honest.head(
            ours, ours.replace("  data_files", "  data_dir: x\n  data_files")
        ),
        "README.md has ['filters'] in the entry of 'diq_10pct'": honest.head(
            ours, ours.replace("  data_files", "  filters:\n  - - diq_rank\n    - <\n    - 3\n  data_files")
        ),
        "README.md has ['columns', 'drop_labels'] in the entry of 'diq_10pct_scores'": honest.head(
            ours.replace("10pct", "10pct_scores"),
            ours.replace("10pct", "10pct_scores").replace("  data", "  columns: [row]\n  drop_labels: true\n  data"),
        ),
        "does not name diq_10pct/train-* as the data files": honest.head(
            "path: diq_10pct/train-*", "path: diq_10pct/other-*"
        ),
        "does not name diq_10pct/scores-* as the data files": honest.head(
            "path: diq_10pct/scores-*", "path: diq_10pct/train-*"
        ),
        "README.md has 2 entries of 'diq_10pct' in `configs`": honest.head(
            "configs:\n", "configs:\n- config_name: diq_10pct\n  data_files: x/*\n"
        ),
        "README.md has 0 entries of 'diq_10pct' in `configs`": honest.head(ours, ours.replace("pct", "percent")),
        "other `features` of 'diq_10pct' than its files have: ['quadrant']": honest.head(labels, flipped),
        "than its files have: ['difficulty']": honest.head(
            "- name: difficulty\n    dtype: float32", "- name: difficulty\n    dtype: string"
        ),
        "states the splits {'train': 7} of 'diq_10pct'": honest.head("num_examples: 6", "num_examples: 7"),
        "README.md has 0 entries of 'diq_10pct' in `dataset_info`": honest.head(infos, ""),
        "README.md has ['description'] in the `dataset_info` of 'diq_10pct'": honest.head(
            "- config_name: diq_10pct\n  features", "- config_name: diq_10pct\n  description: x\n  features"
        ),
        "cannot be read: ": honest.head(
            "- name: difficulty\n    dtype: float32", "- name: difficulty\n    dtype: huge"
        ),
        ".huggingface.yaml is read instead": {".huggingface.yaml": b"configs: []\n"},
    }
    for said, files in changes.items():
        problems = honest.problems(files)
        assert any(said in problem for problem in problems), (said, problems)
        assert said.startswith("README.md has 0 entries of 'diq_10pct' in `dataset_info`") or len(problems) == 1, (
            problems
        )
        assert said in refusal(load_subset, "me/told", "diq_10pct"), said
    honest.problems(honest.head(labels, flipped))
    assert load_dataset("me/told", "diq_10pct", split="train").features["quadrant"].names[:2] == ["Q2", "Q1"]
    assert honest.problems(honest.head(ours, ours.replace("  data", "  default: true\n  data"))) == []
    assert load_dataset("me/told", split="train").to_list() == TENTH.to_list()
    push("me/told")
    assert "default: true" in readme("me/told")
    assert honest.problems({"README.md": honest.readme.replace("\n", "\r\n").encode()}) == []
    assert load_subset("me/told", "diq_10pct")[0].features["quadrant"] == ClassLabel(names=["Q1", "Q2", "Q3", "Q4"])


def case_files_beside_ours():
    honest = Honest("me/beside")
    for name in ("train-more.jsonl", "train-00001-of-00002.parquet", "scores-2.csv", "train-x/y.txt", "rows.arrow"):
        problems = honest.problems({f"diq_10pct/{name}": b'{"prompt": "Mine."}\n'})
        assert len(problems) == 1 and f"'diq_10pct/{name}'" in problems[0], (name, problems)
        assert name in refusal(load_subset, "me/beside", "diq_10pct")
    assert honest.problems({"diq_10pct/notes.md": b"Hello."}) == []
    assert honest.problems({TRAIN: None}) != [] and "its files are missing" in " ".join(honest.problems({TRAIN: None}))
    honest.problems({"diq_10pct/train-more.jsonl": b"{}\n"})
    assert "would be loaded as rows of 'diq_10pct'" in refusal(push, "me/beside")
    honest.problems({"diq_1pct": b"A file."})
    assert "has a file 'diq_1pct'" in refusal(push, "me/beside", config="diq_1pct")


def case_other_texts_beside_right_scores():
    honest = Honest("me/texts")
    assert verify_subset("me/texts")["diq_10pct"].contents
    other = [[{"role": "user", "content": "Buy now!"}]]
    said = "the subset: the content of {} of 6 rows, first of row {}, is not that of the rows that were scored"
    changes = [
        (said.format(1, 2), TRAIN, "prompt", lambda values: values[:2] + other + values[3:]),
        (said.format(2, 0), TRAIN, "completion", lambda values: [values[1], values[0], *values[2:]]),
        (said.format(6, 0), SCORES, "content_digest", lambda values: values[::-1]),
    ]
    for line, path, column, change in changes:
        assert honest.problems(honest.restated({path: honest.column(path, column, change)})) == [line]

    def with_column(table: pa.Table) -> pa.Table:
        return table.append_column("system", pa.array(["Lie."] * len(table)))

    problems = honest.problems(honest.restated({TRAIN: honest.parquet(TRAIN, with_column)}))
    assert said.format(6, 0) in problems


def case_contents_survive_columns_types_and_shards():
    """Pool and subset may differ in the order and width of columns; a digest is of what they say."""
    days = POOL.add_column("when", np.arange("2020-01-01", "2020-03-01", dtype="datetime64[D]"))
    days = days.add_column("raw", [bytes([i]) for i in range(60)]).add_column("weight", [None, 0.1, float("nan")] * 20)
    subset = select_subset(days, ratio=0.5)
    subset = subset.select_columns(subset.column_names[::-1])
    publication.SHARD_BYTES, was = 500, publication.SHARD_BYTES
    try:
        push("me/shards", subset, scored=days)
    finally:
        publication.SHARD_BYTES = was
    assert sum("train-" in path for path in HUB.files("me/shards")) > 2
    assert verify_subset("me/shards")["diq_10pct"] == ([], True, True, None)
    loaded, _ = load_subset("me/shards", "diq_10pct")
    assert loaded.features == subset.features and loaded["when"][:] == subset["when"][:]
    assert loaded["prompt"][:] == [row["prompt"] for row in rows("me/shards")] == subset["prompt"][:]
    mapped = TENTH.map(lambda row: {"completion": [{"role": "assistant", "content": "Other."}]})
    assert "the content of 6 of 6 rows" in refusal(push, "me/no", mapped)
    assert "has the columns ['note'], which the scored pool lacks" in refusal(
        push, "me/no", TENTH.add_column("note", ["x"] * 6)
    )
    push("me/fewer", TENTH.remove_columns("completion"))
    assert verify_subset("me/fewer")["diq_10pct"] == ([], True, True, None)


def case_published_before_contents_were():
    """Nothing is claimed of the texts, which nobody compared."""
    add = hub.add_contents
    hub.add_contents = lambda scores, *_: scores
    try:
        push("me/older")
    finally:
        hub.add_contents = add
    assert verify_subset("me/older")["diq_10pct"] == ([], True, False, None)
    result = CliRunner().invoke(app, ["verify", "me/older"])
    assert result.exit_code == 0
    assert (
        result.output
        == "diq_10pct: thresholds, quadrants, ranks and scores of the rows follow from the published scores\n"
    )
    push("me/older")
    result = CliRunner().invoke(app, ["verify", "me/older"])
    assert result.output == "diq_10pct: thresholds, quadrants, ranks and rows follow from the published scores\n"


def case_what_cannot_be_read_is_a_line():
    """Whatever stands there, `verify` ends with lines, and another configuration is checked all the same."""
    push("me/broken", select_subset(POOL, ratio=0.2), "other")
    honest = Honest("me/broken")
    train, scores = honest.files[TRAIN], honest.files[SCORES]
    text = honest.readme
    head = text[: text.index("---", 4)]
    names = "abcdefghi"
    bomb = "a: &a [1]\n"
    for x, y in itertools.pairwise(names):
        bomb += f"{y}: &{y} [{', '.join([f'*{x}'] * 9)}]\n"
    bomb += "configs: *i"
    without = {
        name: {k: v for k, v in honest.recipe.items() if k != name} for name in ("selection", "files", "digest")
    }
    changes = [
        ("the subset cannot be checked: ", honest.restated({TRAIN: train[: len(train) // 2]})),
        ("the subset cannot be checked: ", honest.restated({TRAIN: b""})),
        ("the pool's scores cannot be checked: ", honest.restated({SCORES: scores[:-9] + b"x" * 9})),
        (
            "the pool's scores cannot be checked: ",
            honest.restated({SCORES: scores[:300] + b"\0" * 300 + scores[600:]}),
        ),
        (
            "there is no column ['influence']",
            honest.restated({SCORES: honest.parquet(SCORES, lambda t: t.drop(["influence"]))}),
        ),
        (
            "column 'influence' is string",
            honest.restated(
                {SCORES: honest.parquet(SCORES, lambda t: t.set_column(1, "influence", pa.array(["x"] * 60)))}
            ),
        ),
        ("the recipe cannot be checked: diq_recipe.json cannot be read as JSON", {RECIPE_FILE: b'{"files": '}),
        ("the recipe cannot be checked: diq_recipe.json cannot be read as JSON", {RECIPE_FILE: b"[" * 99999}),
        ("diq_recipe.json: recipe must be an object", {RECIPE_FILE: b"[]"}),
        (
            "recipe['files'] must be an object",
            honest.restated(files=None, facts=None) | {RECIPE_FILE: b'{"files": 3}'},
        ),
        ("recipe['cost'] has no 'seconds'", honest.restated(cost={"rows": 3})),
        ("recipe['selection']['pool'] has no 'Q1'", honest.restated(selection={"pool": {"rows": 60}})),
        ("does not say how many rows were selected", honest.restated(selection={"subset": None})),
        ("does not say how many rows the pool has", honest.restated(selection={"pool": None})),
        (
            "`difficulty_percentile` must be between 0 and 100",
            honest.restated(selection={"difficulty_percentile": 101}),
        ),
        *[(f"recipe has no '{name}'", {RECIPE_FILE: json.dumps(left).encode()}) for name, left in without.items()],
        ("README.md has 0 entries", {"README.md": None}),
        ("README.md is not UTF-8", {"README.md": b"\xff\xfe" + text.encode()}),
        ("README.md's head cannot be read: ", {"README.md": text.replace(head, "---\nconfigs: [\n").encode()}),
        ("README.md's head cannot be read: ", {"README.md": text.replace(head, "---\n- a\n").encode()}),
        ("README.md's head cannot be read: ", {"README.md": text.replace(head, "---\n1: 2\n").encode()}),
        ("README.md's head cannot be read: ", {"README.md": text.replace(head, "---\nconfigs: 5\n").encode()}),
        ("README.md's head cannot be read: ", {"README.md": text.replace(head, "---\nconfigs: [1]\n").encode()}),
        ("README.md's head cannot be read: ", {"README.md": text.replace(head, "---\nconfigs: [{a: 1}]\n").encode()}),
        (
            "README.md's head cannot be read: ",
            {"README.md": text.replace(head, f"{head}dataset_info: [1]\n").encode()},
        ),
        ("aliases unfold to more than", {"README.md": text.replace(head, f"---\n{bomb}\n").encode()}),
        ("must hold the markers", {"README.md": text.replace("<!-- diq:diq_10pct -->", "").encode()}),
        ("README.md has no section", {"README.md": re.sub("<!-- /?diq:diq_10pct -->", "", text).encode()}),
    ]
    for said, files in changes:
        problems = honest.problems(files)
        assert any(said in problem for problem in problems), (said, problems)
        assert all("\n" not in problem and len(problem) < 900 for problem in problems), problems
        found = verify_subset("me/broken")["other"].problems
        assert not found or "README.md" in files, (said, found)
    for said, odd in (("cannot be read", text.replace(head, "---\nconfigs: 5\n").encode()), ("UTF-8", b"\xff\xfe")):
        honest.problems({"README.md": odd})
        assert said in refusal(push, "me/broken", select_subset(POOL, num_rows=5))
        assert HUB.files("me/broken")["README.md"] == odd


def case_files_that_would_fill_the_memory():
    """Refused by what Parquet says of itself, before a row is unfolded."""
    honest = Honest("me/bomb")

    def of(path: str, size: int) -> bytes:
        one = pq.read_table(io.BytesIO(honest.files[path])).slice(0, 1)
        same = pa.table({name: pa.chunked_array([pa.repeat(one[name][0], size)]) for name in one.column_names})
        sink = io.BytesIO()
        pq.write_table(same.cast(one.schema), sink)
        return sink.getvalue()

    many = 3_000_000
    bomb = of(SCORES, many)
    assert 8 * 9 * many > repository.HARMLESS and len(bomb) < 200_000
    read, pq.read_table = pq.read_table, None  # nothing may be unfolded
    try:
        problems = honest.problems(honest.restated({SCORES: bomb}))
        assert f"the pool's scores cannot be checked: the files have {many:,} rows, the recipe says 60" in problems
        stated = {"pool": honest.recipe["selection"]["pool"] | {"rows": many}}
        problems = honest.problems(honest.restated({SCORES: bomb}, selection=stated))
        assert any(f"holds {9 * many:,} values" in problem for problem in problems), problems
    finally:
        pq.read_table = read
    long = pa.array(["x" * 120_000_000, *[""] * 5])
    one_text = honest.parquet(TRAIN, lambda table: table.append_column("note", long), compression="zstd")
    assert len(one_text) < 100_000
    problems = honest.problems(honest.restated({TRAIN: one_text}))
    assert any("values in 120,0" in problem for problem in problems), problems
    files = honest.restated({TRAIN: of(TRAIN, 1000)})
    files["README.md"] = files["README.md"].replace(b"num_examples: 6\n", b"num_examples: 1000\n")
    assert honest.problems(files) == ["the subset cannot be checked: the files have 1,000 rows, the recipe says 6"]
    assert "the files have 1,000 rows, the recipe says 6" in refusal(load_subset, "me/bomb", "diq_10pct")
