"""Which classes of a classifier are which level."""

import pytest

from diq_hf.difficulty.heads import class_heads, class_order


def test_heads_in_any_order():
    names = {0: "overall 2", 1: "knowledge 1", 2: "overall 1", 3: "knowledge 2"}
    assert class_heads(names) == {"overall": [2, 0], "knowledge": [1, 3]}
    assert class_heads({0: "knowledge", 1: "reasoning"}, ["knowledge", "reasoning"]) == {"difficulty": [0, 1]}
    assert class_heads({0: "score"}) == {"difficulty": None}


@pytest.mark.parametrize(
    ("id2label", "labels", "expected"),
    [
        ({0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, ["LABEL_0", "LABEL_1", "LABEL_2"], [0, 1, 2]),
        ({0: "5 stars", 1: "1 star", 2: "10 stars"}, None, [1, 0, 2]),
        ({0: "-1", 1: "-2", 2: "0"}, None, [1, 0, 2]),
        ({0: "level-1", 1: "level-2", 2: "level-3"}, None, [0, 1, 2]),
        ({0: "score"}, None, None),
        ({0: "hard", 1: "easy"}, ["hard", "easy"], [0, 1]),
        ({0: "hard", 1: "easy"}, None, [1, 0]),
        ({0: "Medium", 1: "Low", 2: "High"}, None, [1, 0, 2]),
    ],
)
def test_class_order(id2label, labels, expected):
    assert class_order(id2label, labels) == expected


@pytest.mark.parametrize(
    ("id2label", "labels"),
    [
        ({0: "benign", 1: "malignant"}, None),
        ({0: "hard", 1: "reasoning"}, None),
        ({0: "LABEL_0", 1: "LABEL_1"}, None),
        ({0: "1", 1: "level 1"}, None),
        ({0: "a", 1: "b"}, ["a", "c"]),
    ],
)
def test_class_order_is_never_guessed(id2label, labels):
    with pytest.raises(ValueError, match="`labels"):
        class_order(id2label, labels)
