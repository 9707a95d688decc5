"""The page says what the columns hold, whatever the rows hold, and works in a real browser."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from datasets import Dataset, Value
from scipy.stats import spearmanr
from typer.testing import CliRunner

from diq_hf import QuadrantRule, select_subset, write_report
from diq_hf.cli.__main__ import app
from diq_hf.reporting.figures import plot_quadrants


HOSTILE = [
    "</script><script>document.title = 'taken'</script>",
    "<img src=x onerror=\"document.title = 'taken'\"><b id=taken>sodium</b>",
    "<!-- <script> --> {{ 7 * 7 }} {% raw %} &amp; \"quotes\" 'single'\u2028\u0000 end",
    "]]></style><style>body{display:none}</style> sodium",
]


@pytest.fixture
def scored():
    return Dataset.from_dict(
        {
            "prompt": ["Is it flu?", "is it  FLU?", "Low sodium?", "High sodium?", "Why?", "", *HOSTILE[:2]],
            "completion": ["Yes.", "yes.", "Slowly.", "Water.", "Because.", "", *HOSTILE[2:]],
            "difficulty": [4.0, 4.5, 1.0, 5.0, 2.0, None, 3.0, float("nan")],
            "influence": [0.9, 0.8, 0.7, 0.1, -0.2, 0.5, 0.6, 0.1],
            "num_tokens": [10, 10, 20, 40, 80, 0, 30, 5],
        }
    )


class Page(HTMLParser):
    """A page's elements, the text of its table cells and its embedded rows."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.cells, self.in_cell = [], [], [], False
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        data = re.search(r'<script type="application/json" id="rows-data">(.*?)</script>', self.source, re.DOTALL)
        self.rows = json.loads(data[1])
        self.text = " ".join(re.sub(r"<[^>]*>", " ", self.source.split("<body>")[1].split("<script")[0]).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag == "tr":
            self.cells.append([])
        elif tag in ("td", "th"):
            self.cells[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.in_cell:
            self.cells[-1][-1] += data.strip()


def test_plot_quadrants(tmp_path):
    scored = Dataset.from_dict({"difficulty": [1.0, 2.0, 3.0, None], "influence": [0.1, -0.4, 0.3, 1.0]})
    path = plot_quadrants(scored, QuadrantRule.fit(scored), tmp_path / "quadrants.png", selected=[2])
    assert path.read_bytes().startswith(b"\x89PNG")


def test_tables_and_counts(scored, tmp_path):
    page = Page(write_report(scored, tmp_path / "report.html", num_rows=3, max_similarity=None))
    # Scored: rows 0, 1, 2, 3, 4 and 6; medians 3.5 and 0.65. Selected: rows 0 and 1 of Q1, then row 2 of Q2.
    assert page.cells[1:6] == [
        ["Q1hard, influential", "2", "25.0 %", "4.25", "0.85", "10", "2"],
        ["Q2easy, influential", "1", "12.5 %", "1", "0.7", "20", "1"],
        ["Q3hard, little influence", "1", "12.5 %", "5", "0.1", "40", "0"],
        ["Q4easy, little influence", "2", "25.0 %", "2.5", "0.2", "55", "0"],
        ["all scored", "6", "75.0 %", "3.25", "0.4833", "31.67", "3"],
    ]
    assert page.cells[7:11] == [
        ["10 to 10", "2", "0.85", "0.85", "2"],
        ["20 to 30", "2", "0.65", "0.65", "1"],
        ["40 to 40", "1", "0.1", "0.1", "0"],
        ["80 to 80", "1", "-0.2", "0.2", "0"],
    ]
    assert page.cells[12:] == [
        ["selected", "3", "37.5 %"],
        ["beyond the budget", "3", "37.5 %"],
        ["unscored", "2", "25.0 %"],
    ]
    for said in (
        "8 rows 2 without scores 3 selected 3.5 difficulty threshold 0.65 influence threshold",
        "1 of the 3 selected rows only repeat another one, apart from case and white space: rows 0, 1.",
        "2 of 8 rows:",
        "All 8 rows are on this page.",
    ):
        assert said in page.text
    lengths, influence = [10, 10, 20, 40, 80, 30], np.array([0.9, 0.8, 0.7, 0.1, -0.2, 0.6])
    assert f"with influence is {spearmanr(lengths, influence)[0]:.4g} " in page.text
    assert f"absolute value {spearmanr(lengths, np.abs(influence))[0]:.4g} " in page.text
    assert [row["rank"] for row in page.rows] == [1, 2, 3, 4, 5, 6, None, None]
    assert [row["row"] for row in page.rows] == [0, 1, 2, 3, 6, 4, 5, 7]


def test_why_rows_were_not_selected(scored, tmp_path):
    scored = scored.add_column("mismatch", [0.0, 0.0, 0.9, None, 0.1, 0.0, 0.2, 0.5])
    page = Page(write_report(scored, tmp_path / "report.html", num_rows=2))
    # Row 1 says the same as row 0, row 2 the wrong thing; then comes row 3 of Q3.
    assert page.cells[12:] == [
        ["selected", "2", "25.0 %"],
        ["beyond the budget", "2", "25.0 %"],
        ["duplicate", "1", "12.5 %"],
        ["mismatch", "1", "12.5 %"],
        ["unscored", "2", "25.0 %"],
    ]
    assert "Passed over since they repeat a selected row: row 1 (row 0)." in page.text
    assert ("aria-label", "Histogram of the mismatch") in page.attributes
    assert {row["row"]: row["reason"] for row in page.rows if row["row"] < 4} == {
        0: "selected",
        1: "duplicate",
        2: "mismatch",
        3: "selected",
    }
    # A pool that says what was taken of it is taken at its word.
    _, pool = select_subset(scored, num_rows=1, return_pool=True)
    assert Page(write_report(pool, tmp_path / "report.html")).cells[12] == ["selected", "1", "12.5 %"]


def test_lengths_that_are_not_known(scored, tmp_path):
    lengths = [10, None, 20, None, 80, 0, 30, 5]
    scored = scored.remove_columns("num_tokens").add_column("num_tokens", lengths)
    page = Page(write_report(scored, tmp_path / "report.html", num_rows=3))
    assert [page.cells[1][5], page.cells[3][5]] == ["10", "–"]  # of the two rows of Q1 one is known, of Q3 none
    assert [cells[:2] for cells in page.cells[7:11]] == [[f"{n} to {n}", "1"] for n in (10, 20, 30, 80)]
    unknown = scored.remove_columns("num_tokens").add_column("num_tokens", [None] * 8)
    assert Page(write_report(unknown, tmp_path / "report.html", num_rows=3)).cells[1][5] == "–"


def test_first_and_last_rows_of_a_quadrant(tmp_path):
    n = 24  # all at the difficulty threshold, so half are Q1 and half Q3; the last is the most influential
    texts = [f"row {i}" for i in range(n)]
    scored = Dataset.from_dict({"text": texts, "difficulty": [1.0] * n, "influence": range(n)})
    scored = scored.cast_column("influence", Value("float32"))
    page = Page(write_report(scored, tmp_path / "report.html", order="influence"))
    q1, q3 = (page.source.split(f'<h3><b class="{name}">')[1].split("<h3>")[0] for name in ("Q1", "Q3"))
    shown = [list(map(int, re.findall(r"<span>row (\d+) ·", part))) for part in (q1, q3)]
    assert shown == [[23, 22, 21, 20, 19, 16, 15, 14, 13, 12], [11, 10, 9, 8, 7, 4, 3, 2, 1, 0]]


def test_rows_of_a_quadrant_in_the_order_they_were_drawn(tmp_path):
    """Inside a quadrant `select_subset` draws by default: the page lists rows by their ranks, not by influence."""
    n = 80
    influence = np.linspace(1, 2, n)
    influence[n // 2 :] = 0.5
    texts = [f"{i} " * 9 for i in range(n)]
    texts[39] = texts[38]  # the largest influence of Q1, and whichever of the two comes later is passed over
    rows = Dataset.from_dict({"text": texts, "difficulty": np.ones(n), "influence": influence})
    for order in ("random", "influence"):
        _, pool = select_subset(rows, num_rows=45, order=order, return_pool=True)
        page = Page(write_report(pool, tmp_path / f"{order}.html"))
        listed = page.source.split("<h2>First and last rows")[1].split("<h2>")[0]
        cards = [(int(rank), int(row)) for rank, row in re.findall(r"Q1 #(\d+)</b>\s*<span>row (\d+) ", listed)]
        ranked = sorted((rank, row) for row, rank in enumerate(pool["diq_rank"][:40]) if rank is not None)
        assert len(ranked) == 39 and cards == ranked[:5] + ranked[-5:]
        by_influence = sorted(ranked, key=lambda one: -influence[one[1]])
        assert (ranked == by_influence) == (order == "influence")
        assert [row["rank"] for row in page.rows if row["rank"]] == list(range(1, len(pool)))
        assert "By diq_rank (the order in which DIQ takes them)" in page.text.replace(" )", ")")


def test_rows_are_only_text(scored, tmp_path):
    page = Page(write_report(scored, tmp_path / "report.html", title=HOSTILE[0]))
    assert page.tags.count("script") == 2 and page.tags.count("style") == 1 + 4  # each figure has its own
    assert "img" not in page.tags and ("id", "taken") not in page.attributes
    texts = {row["row"]: (row["prompt"], row["answer"]) for row in page.rows}
    assert texts[6] == (HOSTILE[0], HOSTILE[2]) and texts[7] == (HOSTILE[1], HOSTILE[3])


def test_nothing_is_loaded(scored, tmp_path):
    page = Page(write_report(scored, tmp_path / "report.html"))
    assert ("src", "x") not in page.attributes
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert value.startswith(("#", "data:"))
        assert "://" not in (value or "") or name.startswith("xmlns"), (name, value)
    assert "@import" not in page.source and not re.search(r"url\((?!#)", page.source)


def test_many_rows_make_a_small_page(tmp_path):
    n = 30_000
    rng = np.random.default_rng(0)
    columns = {"difficulty": rng.random(n), "influence": rng.standard_normal(n), "num_tokens": np.arange(n) + 1}
    scored = Dataset.from_dict({"text": ["a long row " * 500] * n} | columns)
    path = write_report(
        scored, tmp_path / "report.html", ratio=0.01, max_rows=200, max_similarity=None, order="influence"
    )
    page = Page(path)
    assert path.stat().st_size < 1_500_000
    assert [page.rows[0]["rank"], page.rows[-1]["rank"]] == [1, n] and len(page.rows) == 200
    assert "text of 200 of the 30,000 rows" in page.text
    assert "299 of the 300 selected rows only repeat another one" in page.text
    assert "[cut: 5,500 characters]" in page.rows[0]["prompt"]


def test_rows_of_any_format(tmp_path):
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    shown = {
        "messages": (messages, ("Q", "A")),
        "text": ("plain", ("plain", "")),
        "conversations": ([{"from": "user", "value": "Q"}, {"from": "assistant", "value": "A"}], ("Q", "A")),
        "prompt": (["not", "messages"], ('{"prompt": ["not", "messages"]}', "")),
        "input_ids": ([3, 1], None),
        "question": ("unknown", None),
    }
    for column, (value, expected) in shown.items():
        scored = Dataset.from_dict({column: [value], "difficulty": [1.0], "influence": [1.0]})
        (row,) = Page(write_report(scored, tmp_path / "report.html")).rows
        if expected is None:  # as it stands
            assert json.loads(row["prompt"])[column] == value
            expected = (row["prompt"], "")
        assert (row["prompt"], row["answer"]) == expected
        assert row["length"] == sum(map(len, expected))  # without `num_tokens` it is characters


def test_errors(scored, tmp_path):
    (tmp_path / "report.html").write_text("kept")
    with pytest.raises(ValueError, match="no column"):
        write_report(scored.remove_columns("influence"), tmp_path / "report.html")
    with pytest.raises(ValueError, match="only 5 of 8 can be taken; passed over: 1 duplicate, 2 unscored"):
        write_report(scored, tmp_path / "report.html", ratio=0.9)
    with pytest.raises(TypeError, match="IterableDataset cannot be read by position"):
        write_report(scored.to_iterable_dataset(), tmp_path / "report.html")
    with pytest.raises(ValueError, match="max_rows"):
        write_report(scored, tmp_path / "report.html", max_rows=0)
    assert (tmp_path / "report.html").read_text() == "kept"


def test_command(scored, tmp_path):
    scored.save_to_disk(tmp_path / "scored")
    arguments = ["report", f"{tmp_path}/scored", "--num-rows", "3", "--output", f"{tmp_path}/new/page.html"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0 and "8 rows in" in result.output
    write_report(scored, tmp_path / "same.html", num_rows=3, title="scored")
    assert (tmp_path / "new" / "page.html").read_text() == (tmp_path / "same.html").read_text()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Opens a page in headless Chromium and gives its elements as they are once its script has run."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("CI installs Chromium, and it is not there.")
        pytest.skip("Chromium is not installed (`apt-get install chromium`).")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"]
    command = [program, *flags, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"]

    def dump(path, address=""):
        url = path.as_uri() + address
        return subprocess.run([*command, url], capture_output=True, text=True, check=True, timeout=60).stdout

    return dump


@pytest.mark.parametrize(
    ("query", "count", "shown"),
    [("#q=sodium", "3 of 8 rows", [2, 3, 7]), ("#q=low+SODIUM", "1 of 8 rows", [2]), ("", "", [])],
)
def test_search_in_a_browser(scored, tmp_path, browser, query, count, shown):
    page = browser(write_report(scored, tmp_path / "report.html"), query)
    assert f'<span id="count" role="status">{count}</span>' in page
    found = page[page.index('<div id="found">') : page.index("<noscript>")]
    assert sorted(map(int, re.findall(r"<span>row (\d+) ·", found))) == shown
    assert "<title>Scored dataset</title>" in page and 'id="taken"' not in page
    if query == "#q=sodium":
        assert "&lt;img src=x" in found
