"""What is said where validation or held-out rows stand in the pool."""

from typing import Any

import typer


# Rows that are named.
SHOWN = 5


def warn_of_leaks(
    pool: Any, others: Any, named: str = "validation", text_field: str = "text", parts: Any = None
) -> int:
    """Names rows of another dataset that stand in the pool, on the error stream; gives their number.

    Args:
        pool ([`~datasets.Dataset`]):
            What is trained on.
        others ([`~datasets.Dataset`]):
            The other rows.
        named (`str`, *optional*, defaults to `"validation"`):
            What they are called.
        text_field (`str`, *optional*, defaults to `"text"`):
            Column of plain text rows.
        parts (`Iterable`, *optional*):
            All rows, of which `pool` is a beginning, where they come in parts.
    """
    from ..selection.leakage import find_leaks_in
    from ..selection.texts import RowTexts

    own = [text_field] if all(text_field in rows.column_names for rows in (pool, others)) else None
    columns = own if text_field != "text" else None
    if columns is None and not all(RowTexts(rows).columns for rows in (pool, others)):
        typer.secho(
            f"diq: No column is known to hold texts, so {named} rows were not looked for in the pool.", err=True
        )
        return 0
    leaks = find_leaks_in([pool] if parts is None else parts, pool, others, text_columns=columns)
    rows = sorted({leak.other_row for leak in leaks})
    if rows:
        words = leak_words(leaks, len(others), named)
        typer.secho(f"diq: {words}", fg="yellow", err=True)
    return len(rows)


def leak_words(leaks: list, size: int, named: str, where: str = "the pool as well", remedy: str | None = None) -> str:
    """Leaks by number and name, and what to do."""
    rows = sorted({leak.other_row for leak in leaks})
    whole = {leak.other_row for leak in leaks if leak.by == "row"}
    pool = sorted({leak.pool_row for leak in leaks})
    by_question = f", {len(rows) - len(whole)} of them with another answer" if len(rows) > len(whole) else ""
    examples = "; ".join(
        f"{named} row {leak.other_row} in row {leak.pool_row} ({_alike(leak)})" for leak in _nearest(leaks)[:SHOWN]
    )
    if remedy is None:
        remedy = (
            f"What is measured on them is memory: take the {len(pool)} row{'s' * (len(pool) > 1)} out of the pool, or "
            f"these out of the {named} rows."
        )
    more = "; …" if len(rows) > SHOWN else ""
    return f"{len(rows)} of {size} {named} rows stand in {where}{by_question}: {examples}{more}. {remedy}"


def _nearest(leaks: list) -> list:
    """Of each other row the leak that is most alike."""
    best: dict[int, Any] = {}
    for leak in leaks:
        known = best.get(leak.other_row)
        if known is None or (leak.by == "row", leak.similarity) > (known.by == "row", known.similarity):
            best[leak.other_row] = leak
    return sorted(best.values(), key=lambda leak: (leak.by != "row", -leak.similarity, leak.other_row))


def _alike(leak: Any) -> str:
    how = "the same" if leak.similarity == 1 else f"{leak.similarity:.0%} alike"
    return how if leak.by == "row" else f"the question, {how}"
