"""What a selection is asked for: a [`SelectionSettings`], made from arguments and checked."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..recipe import SelectionSettings
from .budgets import PER, check_budget
from .quotas import check_balance
from .texts import RowTexts
from .turns import ALIGNMENT, has_alignment


STRATEGIES = ("diq", "random", "influence", "difficulty", "loss", "length")
# A strategy of this form ranks by a column of the user's own, the largest values first.
COLUMN_PREFIX = "column:"
# Who comes first inside a quadrant.
ORDERS = ("influence", "random", ALIGNMENT)
# The column a strategy ranks by, beside the two scores, and how a scorer is asked for it.
STRATEGY_COLUMNS = {"loss": "loss", "length": "num_tokens"}
# What "auto" is, where the dataset has the column or the texts to apply it to.
MAX_MISMATCH = 0.2
MAX_SIMILARITY = 0.7


def settings_for(
    scored: Any,
    *,
    max_mismatch: float | str | None = "auto",
    max_similarity: float | str | None = "auto",
    text_columns: Sequence[str] | None = None,
    balance: str | Mapping[str, Mapping[str, float]] | None = None,
    order: str | None = "auto",
    has_mismatch: bool | None = None,
    **settings: Any,
) -> SelectionSettings:
    """The settings that arguments of [`select_subset`] stand for, for one dataset.

    Args:
        scored ([`~datasets.Dataset`]):
            The rows, by whose columns `"auto"` is decided.
        max_mismatch (`float`, *optional*, defaults to `"auto"`):
            See [`select_subset`], like all others.
        has_mismatch (`bool`, *optional*):
            Whether rows will have a `mismatch`; by default whether they have.

    Raises:
        `ValueError`: A setting is out of range, two do not go together, or the dataset lacks what one is about.
    """
    has_mismatch = "mismatch" in scored.column_names if has_mismatch is None else has_mismatch
    texts = RowTexts(scored, text_columns)
    if max_mismatch == "auto":
        max_mismatch = MAX_MISMATCH if has_mismatch else None
    if max_similarity == "auto":
        max_similarity = MAX_SIMILARITY if texts.columns else None
    settings |= {"max_mismatch": max_mismatch, "max_similarity": max_similarity, "balance": check_balance(balance)}
    settings["text_columns"] = None if text_columns is None else tuple(text_columns)
    settings["per"] = None if settings.get("per") == "paper" else settings.get("per")
    if order == "auto":
        inside = settings.get("strategy", "diq") == "diq" and settings["per"] != "row"
        order = (ALIGNMENT if has_alignment(scored) else "random") if inside else None
    settings["order"] = None if order == "influence" else order
    settings = SelectionSettings(**settings)
    check_settings(settings)
    if max_mismatch is not None and not has_mismatch:
        raise ValueError(
            "`max_mismatch` needs the column 'mismatch': score with `extra_columns=['mismatch']`, or leave it out."
        )
    if settings.order == ALIGNMENT and ALIGNMENT not in scored.column_names:
        raise ValueError(
            f"`order='{ALIGNMENT}'` needs the column of this name: score with `extra_columns=['{ALIGNMENT}']`, or use "
            "`order='random'`."
        )
    if max_similarity is not None and not texts.columns:
        raise ValueError(
            f"`max_similarity` compares texts, and none of the columns {scored.column_names} is known to hold any. "
            "Name them: `text_columns=['question', 'answer']`."
        )
    return settings


def check_settings(settings: SelectionSettings) -> None:
    """Refuses settings that are out of range, or do not go together."""
    own = str(settings.strategy).startswith(COLUMN_PREFIX)
    if settings.strategy not in STRATEGIES and not own:
        raise ValueError(f"`strategy` is {settings.strategy!r}; choose from {[*STRATEGIES, 'column:NAME']}.")
    if (settings.per or PER[0]) not in PER:
        raise ValueError(f"`per` is {settings.per!r}; choose from {list(PER)}.")
    if (settings.order or ORDERS[0]) not in ORDERS:
        raise ValueError(f"`order` is {settings.order!r}; choose from {list(ORDERS)}.")
    check_budget(settings.ratio, settings.num_rows, settings.num_tokens)
    check_balance(settings.balance)
    for name in ("max_mismatch", "max_similarity"):
        value = getattr(settings, name)
        if value is None:
            continue
        if isinstance(value, bool | str) or not 0 <= value <= 1 or (name == "max_similarity" and not value):
            raise ValueError(f"`{name}` is a share between 0 and 1, 'auto' or None, got {value!r}.")
    if settings.thresholds is not None and (settings.strategy != "diq" or len(settings.thresholds) != 2):
        raise ValueError(f"`thresholds` are two, for the strategy 'diq', got {settings.thresholds!r}.")
    by_influence = settings.strategy in ("diq", "influence")
    if settings.per and not by_influence:
        raise ValueError(
            f"`per={settings.per!r}` says what an influence is worth, and `strategy={settings.strategy!r}` does not "
            "rank by influence."
        )
    if settings.per == "row" and settings.num_tokens is not None:
        raise ValueError(
            "`per='row'` is for batches of equal rows, where rows are what is paid: pass `ratio` or `num_rows`. With "
            "a budget in tokens use `per='token'`."
        )
    if settings.order is not None and (settings.strategy != "diq" or settings.per == "row"):
        raise ValueError(
            f"`order={settings.order!r}` says who comes first inside the quadrants of the strategy 'diq', where "
            "`per='row'` does so too. Leave one of them out."
        )
