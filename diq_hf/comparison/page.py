"""A comparison for people: one HTML page that needs nothing else, and a short table."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..publishing.markdown import code
from ..reporting.pages import write
from .costs import total_costs
from .figures import COLORS, draw_costs
from .results import Comparison
from .statistics import BASELINE, Difference, differences, visible
from .taken import MISMATCHED, Taken, rows_of


def write_page(comparison: Comparison, path: str | Path, title: str = "Is it worth choosing?") -> Path:
    """Writes a page about a comparison: one HTML file without any other, to open in a browser, send or print.

    It shows the held-out loss against the total cost, each strategy's difference to random with its interval, what
    each strategy took, and the commands that repeat it. Needs matplotlib (`pip install 'diq-hf[report]'`).

    Args:
        comparison ([`Comparison`]):
            The runs. Those that are still missing are left out.
        path (`str` or `Path`):
            Where the page goes. A page that is there is replaced.
        title (`str`, *optional*, defaults to `"Is it worth choosing?"`):
            Heading.

    Returns:
        `Path`: `path`.

    Raises:
        `ValueError`: Nothing has run yet, or the comparison has no `"random"`.
    """
    return write(path, "comparison.html.jinja", _facts(comparison) | {"title": title}, "diq_hf.comparison")


def markdown_table(comparison: Comparison) -> str:
    """A comparison in a few lines of Markdown: loss by group, difference to random with its interval, and cost.

    Args:
        comparison ([`Comparison`]):
            The runs.

    Returns:
        `str`: A table, and a line that says how to read it.
    """
    book = _Book(comparison)
    several = len(comparison.ratios) > 1
    uneven = len({line["seeds"] for ratio in comparison.ratios for line in book.lines(ratio)}) > 1
    heads = [
        "strategy",
        *(["seeds"] if uneven else []),
        "rows",
        "all",
        *map(code, book.groups),
        f"against {BASELINE} (95 %)",
    ]
    heads += ["right answers", f"against {BASELINE}, points"] if book.has_questions else []
    heads += ["epochs"]
    lines = [[*(["budget"] if several else []), *heads]]
    lines.append(
        ["---", *["---:"] * (len(lines[0]) - 1)] if not several else ["---:", "---", *["---:"] * len(heads[1:])]
    )
    for ratio in comparison.ratios:
        before = [f"{value:.3f}" for value in book.before.values()]
        right = book.comparison.heldout.correct_before
        answers = [f"{np.mean(right):.1%}" if right else "", ""] if book.has_questions else []
        lines.append(
            [
                *([percent(ratio)] if several else []),
                "none",
                *([""] if uneven else []),
                "0",
                *before,
                "",
                *answers,
                "0",
            ]
        )
        for line in book.lines(ratio):
            losses = [f"{part.mean:.3f}" for part in (line["all"], *line["groups"])]
            gaps = [interval(line["all"])]
            if book.has_questions:
                gaps += [f"{line['accuracy'].mean:.1%}", interval(line["accuracy"])]
            seeds = [str(line["seeds"])] if uneven else []  # some runs are still to be done
            cells = [code(line["strategy"]), *seeds, f"{line['rows']:,.0f}", *losses, *gaps]
            cells.append(f"{line['cost'].epochs:.2f}")
            lines.append([*([percent(ratio)] if several else []), *cells])
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{table}\n\n{book.reading}"


def percent(ratio: float) -> str:
    return f"{100 * ratio:.3g} %"


def interval(part: Difference) -> str:
    """A difference with its interval, and a star where that excludes zero."""
    if part.difference is None:
        return "–"
    gap = signed(part, part.difference) + (" ★" if part.significant else "")
    return gap if part.low is None else f"{gap} [{signed(part, part.low)}, {signed(part, part.high)}]"


def signed(part: Difference, value: float) -> str:
    """A difference with its sign: of losses in nats, of shares in percentage points."""
    text = f"{value:+.4f}" if part.metric == "loss" else f"{100 * value:+.1f}"
    return text.replace("-", "−")


class _Book:
    """The figures of a comparison, looked up as the page asks for them."""

    def __init__(self, comparison: Comparison):
        if not comparison.runs:
            raise ValueError("Nothing has run yet: the comparison has no runs.")
        self.comparison, self.found = comparison, differences(comparison)
        self.parts = {
            (part.strategy, part.ratio, part.against, part.metric, part.per, part.group): part for part in self.found
        }
        self.costs = {(cost.strategy, cost.ratio): cost for cost in total_costs(comparison)}
        self.numbers = {name: i for i, name in enumerate(comparison.strategies, 1)}
        names = list(dict.fromkeys(comparison.heldout.groups))
        self.groups = names if len(names) > 1 else []
        self.tasks = list(dict.fromkeys(part.metric for part in self.found if part.per == "task"))
        self.has_questions = any(part.per == "question" for part in self.found)
        self.visible = visible(comparison, self.found)

    def lines(self, ratio: float) -> list[dict[str, Any]]:
        """A line for each strategy at a budget; whatever takes all rows comes last."""
        found = []
        for own in (ratio, None):
            for strategy in self.comparison.strategies:
                if (strategy, own) in self.costs:
                    found.append(self.line(strategy, own, ratio))
        return found

    def line(self, strategy: str, own: float | None, ratio: float) -> dict[str, Any]:
        runs = [run for run in self.comparison.runs if (run.strategy, run.ratio) == (strategy, own)]

        def part(metric: str, per: str, group: str | None = None) -> Difference | None:
            return self.parts.get((strategy, own, ratio, metric, per, group))

        def mean(name: str) -> float:
            return float(np.mean([getattr(run, name) for run in runs]))

        return {
            "number": self.numbers[strategy],
            "strategy": strategy,
            "seeds": len(runs),
            "reference": own is None,
            "kind": _kind(part("loss", "token")),
            "steps": mean("steps"),
            "rows": mean("rows"),
            "tokens": mean("tokens"),
            "all": part("loss", "token"),
            "groups": [part("loss", "token", group) for group in self.groups],
            "all_rows": part("loss", "row"),
            "groups_rows": [part("loss", "row", group) for group in self.groups],
            "accuracy": part("accuracy", "question"),
            "tasks": [part(task, "task") for task in self.tasks],
            "cost": self.costs[strategy, own],
        }

    @property
    def before(self) -> dict[str | None, float]:
        """Loss a token before any training: of all held-out rows, then of each group."""
        heldout = self.comparison.heldout
        losses, tokens, names = np.array(heldout.before), np.array(heldout.tokens), np.array(heldout.groups)
        groups = {group: names == group for group in self.groups}
        return {
            group: float(np.average(losses[rows], weights=tokens[rows]))
            for group, rows in ({None: np.ones(len(names), dtype=bool)} | groups).items()
        }

    @property
    def reading(self) -> str:
        """How the figures are to be read, in a sentence or two."""
        seeds, rows = len(self.comparison.seeds), len(self.comparison.heldout.groups)
        text = f"Held-out loss in nats a token, {rows:,} rows, {seeds} {'seed' if seeds == 1 else 'seeds'}; "
        if seeds == 1:
            text += "with one seed the noise of training is unseen, so nothing bears a star"
        else:
            text += "a star: the 95 % interval over rows and seeds excludes zero"
        if self.visible is not None:
            text += f"; differences below about {self.visible:.3f} cannot be seen"
        return text + "."


def _facts(comparison: Comparison) -> dict[str, Any]:
    """Everything the page says."""
    book, taken = _Book(comparison), Taken(comparison.pool)
    tests = [part for part in book.found if part.per == "token" and part.low is not None and not part.reference]
    return {
        "version": __version__,
        "colors": COLORS,
        "comparison": comparison,
        "book": book,
        "baseline": BASELINE,
        "pool_tokens": sum(comparison.pool.num_trained),
        "unit": "rows" if comparison.budget == "rows" else "trained tokens",
        "missing": _missing(comparison),
        "num_tests": len(tests),
        "num_stars": sum(part.significant for part in tests),
        "budgets": [_budget(book, taken, ratio) for ratio in comparison.ratios],
        "taken": taken,
        "pool": taken.describe(range(len(comparison.pool.num_trained))),
        "mismatched": MISMATCHED,
        "pieces": lambda name: re.split(r"(?<=[:,/])", name),
        "percent": percent,
        "signed": signed,
        "duration": duration,
    }


def _budget(book: _Book, taken: Taken, ratio: float) -> dict[str, Any]:
    """What the page shows of one budget."""
    lines = book.lines(ratio)
    choices = {(choice.strategy, choice.ratio): choice for choice in book.comparison.choices}
    chosen = [rows_of(choices.get((line["strategy"], _own(line, ratio))), book.comparison) for line in lines]
    several = [(line, rows) for line, rows in zip(lines, chosen, strict=True) if not line["reference"]]
    baseline = next((line["all"].mean for line in lines if line["strategy"] == BASELINE), None)
    return {
        "ratio": ratio,
        "lines": lines,
        "figure": draw_costs([_point(line) for line in lines], book.before[None], baseline) if lines else None,
        "taken": [
            {"number": line["number"], "strategy": line["strategy"], **taken.describe(rows)}
            for line, rows in zip(lines, chosen, strict=True)
        ],
        "overlaps": list(
            zip([line for line, _ in several], taken.overlaps([rows for _, rows in several]), strict=True)
        ),
    }


def _own(line: dict[str, Any], ratio: float) -> float | None:
    return None if line["reference"] else ratio


def _point(line: dict[str, Any]) -> dict[str, Any]:
    part: Difference = line["all"]
    known = part.low is not None
    return {
        "number": line["number"],
        "kind": line["kind"],
        "reference": line["reference"],
        "epochs": line["cost"].epochs,
        "loss": part.mean,
        "low": part.mean + part.low - part.difference if known else None,
        "high": part.mean + part.high - part.difference if known else None,
    }


def _kind(part: Difference) -> str:
    if part.strategy == BASELINE:
        return "baseline"
    return "open" if not part.significant else "better" if part.better else "worse"


def _missing(comparison: Comparison) -> int:
    """Runs that were asked for and are not there."""
    whole = {"full", *(run.strategy for run in comparison.runs if run.ratio is None)}
    budgets = sum(1 if name in whole else len(comparison.ratios) for name in comparison.strategies)
    return max(0, len(comparison.seeds) * budgets - len(comparison.runs))


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}" if seconds < 20 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"
