"""The page and the table say what the runs hold, whatever they are called, and load nothing."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from comparisons import made_up
from markdown_it import MarkdownIt

from diq_hf.comparison.figures import spread
from diq_hf.comparison.page import duration, markdown_table, write_page
from diq_hf.comparison.results import ChoiceFacts, Comparison, PoolFacts, Work
from diq_hf.comparison.statistics import differences
from diq_hf.comparison.taken import Taken


LONG = "influence:per=token,max_mismatch=0.2"
HOSTILE = "<script>document.title = 'taken'</script>|`&"


class Page(HTMLParser):
    """A page's elements, and its tables' cells, a list of lines each."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.tables, self.in_cell = [], [], [], False
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(re.sub(r"<[^>]*>", "", self.source.split("<body>")[1].replace("<wbr>", "")).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True
        elif tag == "small":
            self.tables[-1][-1][-1] += " "

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.in_cell:
            self.tables[-1][-1][-1] += data.strip()


@pytest.fixture
def comparison():
    gains = {LONG: -0.3, "length": 0.3}
    return made_up(
        ("random", "diq", LONG, "length"), gains, ratios=(0.05, 0.1), full=True, questions=40, tasks=("arc",)
    )


def test_tables(comparison, tmp_path):
    page, found = Page(write_page(comparison, tmp_path / "page.html")), differences(comparison)
    assert len(page.tables) == 2 * 5  # runs, groups, groups by rows, what was taken, overlaps
    runs = page.tables[0]
    assert [line[0] for line in runs[1:]] == ["before training", "1random", "2diq", f"3{LONG}", "4length", "5full"]
    (part,) = (
        part for part in found if (part.strategy, part.ratio, part.per, part.group) == (LONG, 0.05, "token", None)
    )
    shown = [f"{value:+.4f}".replace("-", "−") for value in (part.difference, part.low, part.high)]
    assert part.better and runs[4][6] == f"{shown[0]} ★ {shown[1]} to {shown[2]}"
    assert runs[4][4:6] == [f"{part.mean:.3f}", f"{part.spread:.4f}"]
    tokens = np.array(comparison.heldout.tokens)
    assert runs[1][4] == f"{np.average(comparison.heldout.before, weights=tokens):.3f}"
    correct = np.mean([run.correct for run in comparison.runs if (run.strategy, run.ratio) == ("diq", 0.05)])
    assert runs[3][7] == f"{100 * correct:.1f} %" and runs[2][8] == "–" and runs[2][6] == "–"
    assert runs[-1][-3] == "1.00" and runs[3][-3] == "2.45"  # epochs
    medquad = np.array(comparison.heldout.groups) == "medquad"
    losses = np.mean([run.losses for run in comparison.runs if (run.strategy, run.ratio) == ("diq", 0.05)], axis=0)
    assert page.tables[1][3][3] == f"{np.average(losses[medquad], weights=tokens[medquad]):.3f}"
    assert page.tables[2][3][3] == f"{losses[medquad].mean():.3f}"
    for said in (
        f"Better than random: {LONG}. Worse than random: length. Not to be told from random: diq.",
        "of 18 intervals (strategies, budgets and groups) exclude zero",
        "diq compare pool.jsonl --model example/small-instruct --heldout heldout.jsonl",
        "learning_rate0.001",
    ):
        assert said in page.text, said
    assert 'role="note"' not in page.source  # nothing to warn of


def test_what_was_taken():
    pool = PoolFacts(
        num_trained=(10, 20, 30, 40, 100),
        sources=("a", "a", "b", "b", "b"),
        mismatch=(0.1, 0.3, None, 0.9, 0.0),
        duplicate_of=(-1, 0, 1, -1, -1),
        facts=("clean", "wrong", "clean", "clean", "clean"),
    )
    taken = Taken(pool)
    assert taken.describe((1, 2, 3)) == {
        "rows": 3,
        "tokens": 90,
        "length": 30.0,
        "sources": pytest.approx([1 / 3, 2 / 3]),
        "quadrants": [],
        "facts": pytest.approx([2 / 3, 1 / 3]),
        "repeated": pytest.approx(1 / 3),  # row 2 repeats row 1, since both repeat row 0
        "mismatched": 1.0,
    }
    assert taken.overlaps([(0, 1, 2), (2, 3)]) == [[1.0, 0.5], [pytest.approx(3 / 7), 1.0]]
    many = Taken(PoolFacts(num_trained=(1,) * 40, sources=tuple(f"s{i % 10}" for i in range(40))))
    assert many.sources.names[-1] == "others" and sum(many.describe(range(40))["sources"]) == pytest.approx(1)
    assert many.describe(range(3))["repeated"] is None and many.describe(range(3))["mismatched"] is None


def test_taken_stands_on_the_page(comparison, tmp_path):
    choice = ChoiceFacts(strategy="diq", ratio=0.1, rows=(0, 1), tokens=2, selecting=Work())
    others = [part for part in comparison.choices if (part.strategy, part.ratio) != ("diq", 0.1)]
    page = Page(write_page(replace(comparison, choices=(*others, choice)), tmp_path / "page.html"))
    head, line = page.tables[8][0], page.tables[8][3]
    sources = comparison.pool.sources
    assert line[0] == "diq" and line[1] == "2"
    for name in set(sources):
        share = sum(sources[row] == name for row in (0, 1)) / 2
        assert line[head.index(name)] == f"{100 * share:.0f} %"
    assert page.tables[9][2][2] == "100" and page.tables[9][0] == ["", "1", "2", "3", "4"]


def test_names_are_only_text(comparison, tmp_path):
    runs = [replace(run, strategy=HOSTILE) if run.strategy == LONG else run for run in comparison.runs]
    choices = [replace(part, strategy=HOSTILE) if part.strategy == LONG else part for part in comparison.choices]
    hostile = replace(
        comparison,
        strategies=("random", "diq", HOSTILE, "length", "full"),
        runs=tuple(runs),
        choices=tuple(choices),
        warnings=(HOSTILE,),
        commands=(HOSTILE,),
        training={HOSTILE: HOSTILE},
    )
    page = Page(write_page(hostile, tmp_path / "page.html", title=HOSTILE))
    assert "script" not in page.tags and page.text.count("&lt;script&gt;document.title") > 5
    tokens = MarkdownIt().enable("table").parse(markdown_table(hostile))
    cells = [token for token in tokens if token.type == "td_open"]
    assert len(cells) == 2 * 6 * 10  # no line lost or won a cell


def test_nothing_is_loaded(comparison, tmp_path):
    page = Page(write_page(comparison, tmp_path / "page.html"))
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert value.startswith(("#", "data:"))
        assert "://" not in (value or "") or name.startswith("xmlns"), (name, value)
    assert "@import" not in page.source and not re.search(r"url\((?!#)", page.source)
    assert "default-src 'none'" in page.source and "script-src" not in page.source


def test_warnings(tmp_path):
    comparison = made_up(seeds=(0,), quick=True, warnings=("leak in row 3",), gains={"diq": -1.0})
    missing = replace(comparison, runs=comparison.runs[:2], choices=comparison.choices[:2])
    page = Page(write_page(missing, tmp_path / "page.html"))
    note = page.text[page.text.index("An early answer") :]
    assert re.match(
        r"An early answer: a small model or few rows\. Differences below about 0\.0\d\d cannot be seen with it\. One "
        r"seed: .* nothing bears a star\. 1 run is still missing\. leak in row 3",
        note,
    )
    assert "★" not in page.text and "Not to be told from random: diq." in page.text
    with pytest.raises(ValueError, match="Nothing has run yet"):
        write_page(replace(comparison, runs=()), tmp_path / "page.html")


def test_what_is_not_known_is_left_out(tmp_path):
    comparison = made_up(groups=(("rows", 30),), budget="rows")
    few = {"model": None, "sources": None, "commands": None, "pool": PoolFacts(num_trained=(5,) * 400)}
    page = Page(write_page(replace(comparison, **few), tmp_path / "page.html"))
    assert "At 10 % of the rows" in page.text and "By group" not in page.text and "To repeat it" not in page.text
    assert page.tables[2][0] == ["", "rows", "tokens a row"]
    again = Comparison.from_json(comparison.to_json())
    assert (
        write_page(again, tmp_path / "a.html").read_text() == write_page(comparison, tmp_path / "b.html").read_text()
    )


def test_markdown_table(comparison):
    lines = markdown_table(comparison).splitlines()
    assert "seeds |" not in lines[0]
    fewer = replace(comparison, runs=comparison.runs[:-1])
    assert markdown_table(fewer).splitlines()[0].count("| seeds |") == 1
    heads = "| budget | strategy | rows | all | `medquad` | `pubmedqa` | against random (95 %) |"
    assert lines[0] == f"{heads} right answers | against random, points | epochs |"
    assert lines[2].startswith("| 5 % | none | 0 | ")
    (line,) = (line for line in lines if line.startswith(f"| 10 % | `{LONG}`"))
    assert re.search(r"\| −0\.\d{4} ★ \[−0\.\d{4}, −0\.\d{4}\] \| \d\d\.\d% \|.*\| 2\.50 \|$", line)
    assert lines[-1].startswith(
        "Held-out loss in nats a token, 60 rows, 3 seeds; a star: the 95 % interval over rows and"
    )
    one = markdown_table(made_up(groups=(("rows", 30),), seeds=(0,)))
    assert one.startswith("| strategy | rows | all | against random") and "nothing bears a star" in one


def test_points_stand_apart():
    places = np.array([0.5, 0.1, 0.5, 0.5, 0.9])
    moved = spread(places, 0.1)
    assert moved == pytest.approx([0.4, 0.1, 0.5, 0.6, 0.9])
    assert spread(np.zeros(3), 0.1) == pytest.approx([-0.1, 0, 0.1])


@pytest.mark.parametrize(("seconds", "said"), [(3, "3 s"), (118, "118 s"), (150, "2.5 min"), (9000, "2.5 h")])
def test_duration(seconds, said):
    assert duration(seconds) == said


def test_questions_have_columns():
    asked = made_up(questions=20)
    lines = markdown_table(asked).splitlines()
    heads = [head.strip() for head in lines[0].split("|")]
    assert heads[-4:] == ["right answers", "against random, points", "epochs", ""]
    for line, strategy in zip(lines[3:6], asked.strategies, strict=True):
        right = np.mean([run.correct for run in asked.runs if run.strategy == strategy])
        assert [cell.strip() for cell in line.split("|")][-4] == f"{right:.1%}"
