"""What choosing costs, in tokens through the model: counted from what each strategy must compute, once."""

from collections.abc import Iterable, Mapping

from .results import Work


# What a strategy needs is made of these passes over the pool; one that several need is paid by each of them.
_PARTS: Mapping[str, tuple[str, ...]] = {
    "influence": ("validation", "scores"),
    "alignment": ("validation", "scores"),  # from the same passes
    "loss": ("losses",),
    "difficulty": ("losses", "answers"),
    "mismatch": ("losses", "answers", "null"),
}


def pass_works(tokens: int, answers: int, validation: int, null: int) -> dict[str, Work]:
    """The work of each part.

    Args:
        tokens (`int`):
            Tokens of the pool.
        answers (`int`):
            Tokens of its answers alone, as IFD takes them.
        validation (`int`):
            Tokens of the validation rows.
        null (`int`):
            Tokens of the foreign pairs that `mismatch` is held against.
    """
    return {
        "validation": Work(forward=validation, backward=validation),
        "scores": Work(forward=tokens, backward=tokens),
        "losses": Work(forward=tokens),
        "answers": Work(forward=answers),
        "null": Work(forward=null),
    }


def selecting(needs: Iterable[str], works: Mapping[str, Work], free: Iterable[str] = ()) -> Work:
    """What a strategy must compute before it can choose.

    Args:
        needs (`Iterable[str]`):
            Scores, as [`Strategy.passes`] names them.
        works (`dict`):
            See [`pass_works`]; further needs (`"less"`, say) under their own names.
        free (`Iterable[str]`, *optional*):
            Needs that cost nothing here, such as a difficulty that the rows came with.
    """
    needs = [need for need in needs if need not in set(free)]
    parts = {part for need in needs for part in _PARTS.get(need, (need,))}
    if "scores" in parts:
        parts.discard("losses")  # the same forward pass
    return sum((works[part] for part in sorted(parts)), Work())
