"""Rows that trainers choose among, as fixtures: a test module takes them with `pytest_plugins = "pools"`."""

import pytest
from datasets import Dataset
from trainings import rows_of_chat


@pytest.fixture(scope="session")
def train_rows():
    return Dataset.from_list(rows_of_chat(24))


@pytest.fixture(scope="session")
def eval_rows():
    return Dataset.from_list(rows_of_chat(5, seed=1))


@pytest.fixture(scope="session")
def preferences():
    rows = [row | {"chosen": row["completion"]} for row in rows_of_chat(16)]
    for row, other in zip(rows, rows_of_chat(16, seed=2), strict=True):
        row["rejected"] = other["completion"]
        del row["completion"]
    return Dataset.from_list(rows)
