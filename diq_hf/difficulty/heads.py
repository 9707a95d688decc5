"""Which classes of a classifier are which level: its heads, and the order of each.

A perspective is a group of classes named by it and a level, `"knowledge 1"` to `"overall 5"`, in the `id2label` of a
sequence-classification checkpoint. So one encoder holds several ordinal heads and nothing custom has to be loaded.
"""

import re
from collections.abc import Mapping, Sequence


PERSPECTIVES = ("knowledge", "reasoning", "overall")
# The name of the only head of a checkpoint whose classes name no perspective.
UNNAMED = "difficulty"
# Names of classes in their order, easiest first; `-heavy` and the like behind them makes no difference.
ORDERS = (
    ("knowledge", "reasoning"),
    ("factual", "reasoning"),
    ("recall", "reasoning"),
    ("easy", "hard"),
    ("easy", "medium", "hard"),
    ("low", "high"),
    ("low", "medium", "high"),
    ("simple", "complex"),
)


def class_heads(id2label: Mapping[int, str], labels: Sequence[str] | None = None) -> dict[str, list[int] | None]:
    """Class ids of each head from easiest to hardest; `None` for a regression head.

    Example:

    ```python
    >>> class_heads({0: "reasoning 1", 1: "reasoning 2", 2: "overall 2", 3: "overall 1"})
    {'reasoning': [0, 1], 'overall': [3, 2]}
    >>> class_heads({0: "level 5", 1: "level 1", 2: "level 3"})
    {'difficulty': [1, 2, 0]}

    ```
    """
    names = {int(i): str(name) for i, name in id2label.items()}
    of_perspective = {i: re.fullmatch(rf"({'|'.join(PERSPECTIVES)})[ _]\d+", name) for i, name in names.items()}
    if labels is not None or not all(of_perspective.values()):
        return {UNNAMED: class_order(names, labels)}
    groups: dict[str, dict[int, str]] = {}
    for i, found in of_perspective.items():
        groups.setdefault(found[1], {})[i] = names[i]
    return {perspective: class_order(group) for perspective, group in groups.items()}


def class_order(id2label: Mapping[int, str], labels: Sequence[str] | None = None) -> list[int] | None:
    """Class ids from easiest to hardest; `None` for a regression head.

    Example:

    ```python
    >>> class_order({0: "level 5", 1: "level 1", 2: "level 3"})
    [1, 2, 0]
    >>> class_order({0: "Reasoning", 1: "Knowledge"})
    [1, 0]

    ```
    """
    names = {int(i): str(name) for i, name in id2label.items()}
    if labels is not None:
        if sorted(labels) != sorted(names.values()):
            raise ValueError(
                f"`labels` {list(labels)} must be the checkpoint's own, in order: {list(names.values())}."
            )
        ids = {name: i for i, name in names.items()}
        return [ids[label] for label in labels]
    if len(names) == 1:
        return None
    plain = {re.sub(r"[\s_-]*(heavy|based|intensive)$", "", name.strip().casefold()): i for i, name in names.items()}
    for order in ORDERS:
        if sorted(plain) == sorted(order):
            return [plain[name] for name in order]
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names.values()):
        raise ValueError(
            f"The classes are named {', '.join(names.values())}, as `transformers` calls those that nobody named: "
            "which is harder is not said. Look at the checkpoint's card, and pass `labels=`, from easiest to hardest."
        )
    numbers = {i: re.findall(r"(?:(?<!\w)-)?\d+(?:\.\d+)?", name) for i, name in names.items()}
    if any(len(found) != 1 for found in numbers.values()) or len({found[0] for found in numbers.values()}) < len(
        names
    ):
        raise ValueError(
            f"The order of the classes {list(names.values())} cannot be read from their names. Pass `labels=[...]`, "
            "from easiest to hardest."
        )
    return sorted(names, key=lambda i: float(numbers[i][0]))
