"""Texts of others in a card, as a Markdown reader that is not ours renders them."""

import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from huggingface_hub import DatasetCardData

from diq_hf.publishing.markdown import code, code_block, plain
from diq_hf.publishing.sections import merge_card
from diq_hf.publishing.subset_card import different_numbers, render_card
from diq_hf.recipe import DifficultyFacts, ModelFacts, Recipe, Source, ValidationFacts


markdown_it = pytest.importorskip("markdown_it")

NASTY = [
    "a|b",
    "a | b |\n| Q1 | hard, influential | 99 | 99 |",
    "```\nrm -rf\n```",
    "`tick` and ``two``",
    "<!-- diq:diq_10pct -->",
    "<!-- /diq:diq_10pct -->",
    "<script>alert(1)</script>",
    "[click](http://example.com) ![x](y)",
    "*bold* _slanted_ ~~gone~~ \\| back",
    "&lt; &#124; entities",
    "## heading",
    "- list",
    "  blanks   inside  ",
    "ünïcode 数学 😀",
    "{{ jinja }} {% raw %}",
]


class Cells(HTMLParser):
    """Texts of the cells of all tables, and of all code blocks."""

    def __init__(self, html: str):
        super().__init__()
        self.rows, self.blocks, self.tags, self._within = [], [], [], None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._within = "cell"
        elif tag == "pre":
            self.blocks.append("")
            self._within = "block"

    def handle_endtag(self, tag):
        self._within = None if tag in ("td", "th", "pre") else self._within

    def handle_data(self, data):
        if self._within == "cell":
            self.rows[-1][-1] += data
        elif self._within == "block":
            self.blocks[-1] += data


def read(text: str) -> Cells:
    return Cells(markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text))


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
@pytest.mark.parametrize("shown", [code, plain])
def test_a_cell_shows_what_it_was_given(shown, text):
    cells = read(f"| what | value |\n| --- | --- |\n| x {shown(text)} | {shown(text)} |\n| end | end |\n")
    seen = " ".join(text.split())
    assert cells.rows[1:] == [[f"x {seen}", seen], ["end", "end"]]
    assert set(cells.tags) <= {"table", "thead", "tbody", "tr", "th", "td", "code"}


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_commands_are_shown_as_they_are(text):
    commands = ["diq score pool.jsonl --model m", shlex.join(["diq", "score", "--group-column", text, "--x", "--y z"])]
    cells = read(f"{code_block(commands)}\n\nAfter.\n")
    (block,) = cells.blocks
    assert shlex.split(block.replace("\\\n    ", " ")) == [w for command in commands for w in shlex.split(command)]
    assert set(cells.tags) <= {"pre", "code", "p"}


def test_a_card_of_nasty_texts_is_read_and_merged_again():
    """Whoever names a validation group chooses no other number of the card."""
    recipe = Recipe.load(Path(__file__).parents[2] / "hub_cards" / "example_recipe.json")
    everything = " ".join(NASTY)
    recipe = replace(
        recipe,
        model=ModelFacts(name="x](http://evil) [y", on_hub=True, revision=everything, dtype=everything),
        validation=tuple(ValidationFacts(group=text, rows=1, digest=text) for text in NASTY),
        modules=tuple(NASTY),
        settings={text: text for text in NASTY},
        difficulty=DifficultyFacts(source=everything, fingerprint=everything),
        versions={text: text for text in NASTY},
        pool=Source(name=everything, on_hub=False, split=everything),
        commands=tuple(NASTY),
        tokenizer=everything,
        cost=replace(recipe.cost, device=everything, seconds=0.0),
        selection=replace(recipe.selection, strategy=everything, unscored={everything: 3}),
    )
    head = DatasetCardData(configs=[{"config_name": f"diq_10pct{part}", "data_files": []} for part in ("", "_scores")])
    card = render_card("me/x", "diq_10pct", recipe, head, [])
    assert not different_numbers(str(card), "diq_10pct", recipe)
    assert merge_card(str(card), card, "diq_10pct") == str(card)
    cells = read(card.text)
    assert sum(row[0] == "Q1" for row in cells.rows) == 1
    groups = [row for row in cells.rows if row[0].startswith("validation group")]
    assert [row[0].removeprefix("validation group ") for row in groups] == [" ".join(text.split()) for text in NASTY]
    assert all(
        len(row) == 2 for row in cells.rows if row[0].startswith(("validation", "settings", "model", "versions"))
    )
    assert not {"script", "img", "strong", "em", "s"} & set(cells.tags)
    assert "evil" not in "".join(re.findall('href="(.*?)"', markdown_it.MarkdownIt().render(card.text)))
