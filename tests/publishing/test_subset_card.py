"""The example card is what the template makes of its recipe, and what a card says can be checked.

`python tests/publishing/test_subset_card.py` writes the example anew.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard, DatasetCardData

from diq_hf.publishing.publication import recipe_digest
from diq_hf.publishing.sections import merge_card
from diq_hf.publishing.subset_card import FIGURES, TAGS, different_numbers, render_card
from diq_hf.recipe import Recipe


CARDS = Path(__file__).parents[2] / "hub_cards"
RECIPE = Recipe.load(CARDS / "example_recipe.json")


def example_card(recipe: Recipe = RECIPE) -> str:
    files = {"diq_10pct": "train", "diq_10pct_scores": "scores"}
    configs = [
        {"config_name": name, "data_files": [{"split": "train", "path": f"diq_10pct/{stem}-*"}]}
        for name, stem in files.items()
    ]
    metadata = DatasetCardData(
        pretty_name="clinical-diq: rows picked by difficulty and influence",
        annotations_creators=["machine-generated"],
        task_categories=["text-generation"],
        language=["en"],
        license="apache-2.0",
        size_categories=["n<1K"],
        tags=TAGS,
        configs=configs,
    )
    return str(render_card("me/clinical-diq", "diq_10pct", recipe, metadata, list(FIGURES)))


def test_example_is_in_step():
    assert RECIPE.digest == recipe_digest(json.loads((CARDS / "example_recipe.json").read_text(encoding="utf-8")))
    assert (CARDS / "example_subset_card.md").read_text(encoding="utf-8") == example_card(), __doc__


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({}, "within a quadrant the larger influence first, until"),
        ({"order": "random", "seed": 3}, "within a quadrant rows in the order of a draw (seed 3), until"),
        (
            {"order": "alignment"},
            "within a quadrant the validation rows choosing in turn, each the row whose gradient",
        ),
        ({"per": "row"}, "within a quadrant the row that is worth more first, until"),
    ],
)
def test_who_comes_first_in_a_quadrant(settings, first):
    recipe = replace(RECIPE, selection=replace(RECIPE.selection, **{"order": None, **settings}))
    assert first in " ".join(example_card(recipe).split())


def test_every_number_is_checked():
    """Of each line with a number, whatever is written instead is found."""
    card = example_card()
    assert not different_numbers(card, "diq_10pct", RECIPE)
    changes = {
        "`diq_10pct`: 12 of 120 rows": "`diq_10pct`: 12 of 121 rows",
        "| Q1 | hard, influential | ": "| Q1 | hard, influential | 1",
    }
    changes |= {
        "| influence threshold | 50 | ": "| influence threshold | 50 | 9",
        "| all |  | 120 |": "| all |  | 12 |",
        "many: 12 of 120 rows": "many: 12 of 130 rows",
        "rows (0.1 of the pool)": "rows (0.01 of the pool)",
    }
    changes[f"`{RECIPE.digest}`"] = "`0`"
    for said, instead in changes.items():
        assert said in card
        problems = different_numbers(card.replace(said, instead), "diq_10pct", RECIPE)
        assert len(problems) == 1 and problems[0].startswith("the card says"), (said, problems)
    line = next(line for line in card.splitlines() if line.startswith("| Q1 |"))
    twice = card.replace(line, f"| Q1 | hard, influential | 1 | 1 |\n{line}")
    assert "and" in different_numbers(twice, "diq_10pct", RECIPE)[0]
    assert "no section" in different_numbers("# Nothing of ours\n", "diq_10pct", RECIPE)[0]


def test_five_lines_and_a_picture_come_first():
    card = example_card()
    section = card[card.index("## `diq_10pct`") :].splitlines()
    assert section[2].startswith("![") and section[2].endswith("(diq_10pct/quadrants.png)")
    names = [line[2 : line.index(":") + 1] for line in section[4:9]]
    assert names == ["What:", "How many:", "From:", "For:", "Load:"]
    assert section[5] == "- How many: 12 of 120 rows (0.1 of the pool)" and card.count("quadrants.png") == 1
    # Cards that were published before have no such lines.
    older = "\n".join(line for line in card.splitlines() if "How many" not in line)
    assert not different_numbers(older, "diq_10pct", RECIPE)


def test_a_card_without_a_head_is_kept():
    merged = merge_card("Just a line.", DatasetCard(example_card()), "diq_10pct")
    assert DatasetCard(merged).text.startswith("Just a line.\n\n<!-- diq:diq_10pct -->")
    assert DatasetCard(merged).data.tags == TAGS
    assert merge_card(merged, DatasetCard(example_card()), "diq_10pct") == merged


if __name__ == "__main__":
    (CARDS / "example_subset_card.md").write_text(example_card(), encoding="utf-8")
