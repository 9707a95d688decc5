"""Recipes: what was published is read, what is not one is refused by file and key, and nothing is lost on the way."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from diq_hf.facts import Facts
from diq_hf.recipe import ModelFacts, QuadrantCounts, Recipe, SelectionFacts


EXAMPLE = Path(__file__).parents[2] / "hub_cards" / "example_recipe.json"


@pytest.fixture
def published() -> dict:
    return json.loads(EXAMPLE.read_text(encoding="utf-8"))


def without_null(value):
    if isinstance(value, dict):
        return {name: without_null(part) for name, part in value.items() if part is not None}
    return [without_null(part) for part in value] if isinstance(value, list) else value


def test_what_was_published_is_read(published):
    recipe = Recipe.load(EXAMPLE)
    assert (recipe.model.name, recipe.model.on_hub, recipe.model.adapter) == ("SmolLM2-135M-Instruct", False, None)
    assert (recipe.cost.rows, recipe.cost.sft_seconds) == (120, None)
    assert [(group.group, group.rows) for group in recipe.validation] == [(None, 24)]
    assert recipe.selection.pool == QuadrantCounts(rows=120, Q1=32, Q2=28, Q3=29, Q4=31)
    assert (recipe.selection.ratio, recipe.selection.num_rows) == (0.1, None)
    assert without_null(recipe.to_json()) == without_null(published)
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_the_least_there_is():
    """A recipe without a scorer's facts, as a push without `recipe` makes it."""
    counts = {"rows": 1, "Q1": 1, "Q2": 0, "Q3": 0, "Q4": 0}
    recipe = Recipe.from_json({"selection": {"num_rows": 1, "subset": counts}, "files": {}, "digest": "0"})
    assert recipe.model is recipe.cost is recipe.commands is recipe.selection.pool is None
    assert set(recipe.to_json()) == {"selection", "files", "digest"}
    assert Recipe().to_json() == {} and Recipe.from_json({}) == Recipe()


def test_the_whole_pool_is_not_the_default_strategy():
    whole = SelectionFacts(strategy=None)
    assert whole.to_json()["strategy"] is None and SelectionFacts.from_json(whole.to_json()) == whole
    assert SelectionFacts.from_json({}).strategy == "diq"


def test_an_adapter_without_a_name():
    """Said as null at first, which is not the same as no adapter."""
    model = {"name": None, "on_hub": False, "digest": "d", "dtype": "float32"}
    assert ModelFacts.from_json(model).adapter is None
    assert ModelFacts.from_json(model | {"adapter": None}).adapter == ""
    again = ModelFacts.from_json(ModelFacts.from_json(model | {"adapter": None}).to_json())
    assert again.adapter == "" and ModelFacts.from_json(model | {"adapter": "mine"}).adapter == "mine"


def test_unknown_keys_are_kept_but_not_in_a_selection(published):
    published["drift"] = {"slope": [1, {"deep": None}]}
    published["model"]["quantization"] = "nf4"
    recipe = Recipe.from_json(published)
    assert recipe.more == {"drift": {"slope": [1, {"deep": None}]}}
    assert recipe.model.more == {"quantization": "nf4"}
    assert recipe.to_json()["drift"] == published["drift"]
    assert recipe.to_json()["model"]["quantization"] == "nf4"
    published["selection"]["raito"] = 0.1
    with pytest.raises(ValueError, match=r"recipe\['selection'\] has \['raito'\], which this version does not know"):
        Recipe.from_json(published)


def test_a_field_that_is_added_is_missing_from_older_recipes(published):
    @dataclass(frozen=True, kw_only=True)
    class Newer(Recipe):
        warmth: float | None = None

    assert Newer.from_json(published).warmth is None
    assert "warmth" not in Newer.from_json(published).to_json()
    assert Newer.from_json(published | {"warmth": 0.5}).to_json()["warmth"] == 0.5
    assert issubclass(Newer, Facts)


REMOVED, HUGE = object(), 10**30


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ((), [], r"recipe must be an object \(a dict\), not \[\]"),
        (("cost",), "dear", r"recipe\['cost'\] must be an object"),
        (("cost", "seconds"), REMOVED, r"recipe\['cost'\] has no 'seconds'; it has \['device', 'rows'"),
        (("cost", "seconds"), "9", r"recipe\['cost'\]\['seconds'\] must be a finite number, not '9'"),
        (("cost", "seconds"), float("nan"), "must be a finite number, not nan"),
        (("cost", "rows"), 1.5, r"\['rows'\] must be a whole number, not 1.5"),
        (("cost", "rows"), True, "must be a whole number, not True"),
        (("cost", "rows"), HUGE, "must be a whole number, not 1000"),
        (("cost", "seconds"), HUGE, "must be a finite number, not 1000"),
        (("model", "on_hub"), 1, "must be true or false, not 1"),
        (("model", "name"), 1, "must be a string, not 1"),
        (("modules",), "q_proj", r"recipe\['modules'\] must be a list, not 'q_proj'"),
        (("modules", 3), None, r"recipe\['modules'\]\[3\] must be a string, not None"),
        (("validation",), {}, "must be a list"),
        (("validation", 0, "digest"), REMOVED, r"recipe\['validation'\]\[0\] has no 'digest'"),
        (("versions", "torch"), 2, r"recipe\['versions'\]\['torch'\] must be a string, not 2"),
        (("settings",), [], r"recipe\['settings'\] must be an object"),
        (("selection", "seed"), None, r"recipe\['selection'\]\['seed'\] must be a whole number, not None"),
        (("selection", "pool", "Q4"), REMOVED, r"recipe\['selection'\]\['pool'\] has no 'Q4'"),
        (("selection", "unscored"), {"why": "x"}, r"\['unscored'\]\['why'\] must be a whole number"),
        (("files",), ["a"], r"recipe\['files'\] must be an object"),
        ((1,), "x", r"recipe has the key 1; keys are strings"),
        (("digest",), "x" * 99, None),
    ],
)
def test_what_is_no_recipe_is_refused_by_its_key(published, path, value, said):
    changed = published
    for key in path[:-1]:
        changed = changed[key]
    if not path:
        published = value
    elif value is REMOVED:
        del changed[path[-1]]
    else:
        changed[path[-1]] = value
    if said is None:
        Recipe.from_json(published)
    else:
        with pytest.raises(ValueError, match=said):
            Recipe.from_json(published)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"model": ', "cannot be read as JSON: Expecting value: line 1"),
        (b'{"digest": "\xff"}', "cannot be read as JSON: 'utf-8' codec"),
        (b'{"cost": NaN}', "cannot be read as JSON: NaN is no JSON number"),
        (b"[" * 100_000, "cannot be read as JSON: maximum recursion"),
        (b'{"cost": {"rows": ' + b"9" * 5000 + b"}}", "cannot be read as JSON: Exceeds the limit"),
        (b"", "cannot be read as JSON"),
        (b'{"cost": {}}', r"recipe\['cost'\] has no 'rows'; it has \[\]"),
    ],
)
def test_the_file_is_named(tmp_path, content, said):
    path = tmp_path / "diq_recipe.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{said}"):
        Recipe.load(path)
