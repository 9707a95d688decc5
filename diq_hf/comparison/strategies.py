"""Who is taken: strategies by name, with the options of `select_subset`, and what each must compute for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import yaml

from ..recipe import SelectionSettings
from ..selection.select import select_rows
from ..selection.settings import COLUMN_PREFIX, settings_for
from ..selection.turns import ALIGNMENT


# Each name's arguments of `select_subset`. Ours pass over what `select_subset` passes over by default; the others are
# as their authors describe them, and pass over nothing unless they are told to.
_NOTHING = {"max_mismatch": None, "max_similarity": None}
_PAPER = {"order": "influence", **_NOTHING}
STRATEGIES: Mapping[str, Mapping[str, Any]] = {
    "diq": {"order": "random"},
    "diq-paper": _PAPER,
    "diq-online": {"order": "random"},
    "random": {"strategy": "random", **_NOTHING},
    "influence": {"strategy": "influence", **_NOTHING},
    "difficulty": {"strategy": "difficulty", **_NOTHING},
    "loss": {"strategy": "loss", **_NOTHING},
    "length": {"strategy": "column:num_trained", **_NOTHING},
    "less": {"strategy": "column:less", **_NOTHING},
    "rds": {"strategy": "column:rds", **_NOTHING},
    "bm25": {"strategy": "column:bm25", **_NOTHING},
    "full": {},
}
# Columns that are computed here, when a strategy wants them.
OWN_COLUMNS = ("less", "rds", "bm25")
# What may follow a strategy's name.
OPTIONS = (
    "per",
    "difficulty_percentile",
    "max_difficulty_percentile",
    "influence_percentile",
    "max_mismatch",
    "max_similarity",
    "balance",
    "order",
)


@dataclass(frozen=True)
class Strategy:
    """A strategy as it was asked for: `"influence"`, or with options, `"influence:per=token,max_mismatch=0.2"`.

    Example:

    ```python
    >>> Strategy.parse("random:max_mismatch=0.2").arguments
    {'strategy': 'random', 'max_mismatch': 0.2, 'max_similarity': None}

    ```
    """

    text: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Strategy":
        """Reads a strategy.

        Raises:
            `ValueError`: Its name is unknown, or an option is.
        """
        name, _, rest = text.partition(":")
        if name == "column":
            column, _, rest = rest.partition(":")
            name = f"column:{column}"
        elif name not in STRATEGIES:
            raise ValueError(f"There is no strategy {name!r}; choose from {[*STRATEGIES, 'column:NAME']}.")
        options = {}
        for part in filter(None, rest.split(",")):
            key, equals, value = part.partition("=")
            if key not in OPTIONS or not equals:
                raise ValueError(f"Strategy {text!r} has {part!r}; options are {', '.join(OPTIONS)}: 'diq:per=token'.")
            if key in options:
                raise ValueError(f"Strategy {text!r} has {key!r} twice. Keep one.")
            options[key] = yaml.safe_load(value)
            options[key] = None if options[key] == "none" else options[key]
        if name == "diq-online" and options.get("order") == ALIGNMENT:
            raise ValueError("'diq-online' scores rows anew without `alignment`. Leave its `order` out.")
        if options and name == "full":
            raise ValueError("Strategy 'full' takes every row, and no options.")
        return cls(text, name, options)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `select_subset`, but for the budget and the seed."""
        own = {"strategy": self.name, **_NOTHING} if self.name.startswith(COLUMN_PREFIX) else STRATEGIES[self.name]
        if self.options.get("per") == "row":  # which says itself who comes first
            own = {name: value for name, value in own.items() if name != "order"}
        return {**own, **self.options}

    @property
    def column(self) -> str | None:
        """The column of ours that it ranks by."""
        return self.name if self.name in OWN_COLUMNS else None

    def check(self, scored: Any, **budget: Any) -> SelectionSettings:
        """The settings for a scored pool, so that what does not go together is refused before anything is trained."""
        try:
            settings = settings_for(scored, **budget, **self.arguments)
        except (TypeError, ValueError) as error:
            raise type(error)(f"Strategy {self.text!r}: {error}") from error
        wanted = settings.strategy.removeprefix(COLUMN_PREFIX)
        if settings.strategy.startswith(COLUMN_PREFIX) and wanted not in (*scored.column_names, *OWN_COLUMNS):
            raise ValueError(f"Strategy {self.text!r}: the pool has no column {wanted!r}.")
        return settings

    def take(self, scored: Any, seed: int = 0, **budget: Any) -> np.ndarray:
        """Positions of the rows it takes, the first choice first.

        Raises:
            `ValueError`: The budget cannot be met.
        """
        settings = self.check(scored, **budget, seed=seed)
        try:
            return select_rows(scored, settings).rows
        except ValueError as error:
            raise ValueError(f"Strategy {self.text!r}: {error}") from error

    def passes(self) -> tuple[str, ...]:
        """What of a pool's scores it needs, each of which has its price: see [`~diq_hf.comparison.costs`]."""
        arguments = self.arguments
        strategy = arguments.get("strategy", "diq")
        needed = {
            "diq": ("influence", "difficulty"),
            "influence": ("influence",),
            "difficulty": ("difficulty",),
            "loss": ("loss",),
        }.get(strategy, ())
        if self.name == "full":
            return ()
        if self.column:
            needed = (self.column,)
        if arguments.get("order") == ALIGNMENT:
            needed = (*needed, ALIGNMENT)
        return (*needed, "mismatch") if arguments.get("max_mismatch", "auto") is not None else needed
