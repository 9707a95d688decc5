"""ClassLabel columns count as numbers only where their names do."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Value

from diq_hf.columns import class_label_numbers, label_values, labels_as_numbers


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["2", "3", "4", "5"], [2, 3, 4, 5]),
        (["1", "10", "2"], [1, 10, 2]),
        (["level 1", "level 3", "Level 2"], [1, 3, 2]),
        (["LABEL_0", "LABEL_1"], [0, 1]),
        (["-1", "0", "1.5"], [-1, 0, 1.5]),
        (["Q2", "Q1"], [2, 1]),
        (["grade-2", "grade-1"], [2, 1]),
    ],
)
def test_names_that_are_numbers(names, numbers):
    assert class_label_numbers(ClassLabel(names=names), "level").tolist() == numbers


@pytest.mark.parametrize(
    "names",
    [
        ["easy", "hard", "medium"],
        ["1", "2", "unknown"],
        ["gsm8k", "math500"],  # numbers, but no scale
        ["1-2", "3-4"],
        ["knowledge 1", "reasoning 2"],
        ["1", "1.0"],
        [str(i) + "x" * i for i in range(1, 30)],
    ],
)
def test_other_names_are_refused_with_the_column(names):
    with pytest.raises(ValueError, match=r"Column 'level' is a ClassLabel of \["):
        class_label_numbers(ClassLabel(names=names), "level")


def test_other_features_are_left_alone():
    for feature in (Value("int64"), Value("string"), None):
        assert class_label_numbers(feature, "level") is None


def test_values_and_columns():
    numbers = np.array([2.0, 5.0])
    assert label_values(np.array([1, 0]), numbers) == [5, 2]
    assert label_values(0, numbers) == 2 and label_values(None, numbers) is None
    rows = Dataset.from_dict({"level": ["10", "2", None], "other": ["a", "b", "a"]})
    rows = rows.class_encode_column("level").class_encode_column("other")
    found = labels_as_numbers(rows, ["level", "absent"])
    assert found["level"][:] == [10, 2, None] and found.features["other"] == rows.features["other"]
    # The same rows have one fingerprint, so what is kept on disk for them is found again.
    assert found._fingerprint == labels_as_numbers(rows, ["level"])._fingerprint != rows._fingerprint
    with pytest.raises(ValueError, match="'other'"):
        labels_as_numbers(rows, ["other"])
