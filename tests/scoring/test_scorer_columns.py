"""`columns=`: rows of no known format score as the rows do that the template makes, and the recipe says so."""

import numpy as np
import pytest
from conftest import SENTENCES, make_model
from datasets import ClassLabel, Dataset

from diq_hf import DIQScorer
from diq_hf.recipe import Recipe
from diq_hf.rows.presets import PRESETS
from diq_hf.rows.templates import ColumnTemplate


@pytest.fixture
def hub_rows() -> Dataset:
    """The paper's pool as the Hub has it."""
    rows = [
        {"Question": SENTENCES[i % 4][: 20 + i], "Complex_CoT": SENTENCES[(i + 1) % 4], "Response": SENTENCES[i % 3]}
        for i in range(10)
    ]
    return Dataset.from_list(rows)


def make_scorer(validation, tokenizer, columns=None, **options):
    return DIQScorer(make_model(), validation, tokenizer, columns=columns, **options)


def test_scores_of_columns(hub_rows, validation, tokenizer):
    scorer = make_scorer(validation, tokenizer, "medical-o1")
    expected = make_scorer(validation, tokenizer).score(PRESETS["medical-o1"].apply(hub_rows))
    scored = scorer.score(hub_rows)
    assert scored.column_names == [*hub_rows.column_names, "difficulty", "influence"]
    for name in ("difficulty", "influence"):
        assert np.array_equal(scored[name][:], expected[name][:])
        assert np.allclose(hub_rows.map(scorer, batched=True)[name][:], expected[name][:], rtol=1e-4, atol=1e-6)
    # Validation rows of the pool's own shape are read by the template, too.
    same = make_scorer(hub_rows.select(range(3)), tokenizer, "medical-o1")
    of_rows = make_scorer(PRESETS["medical-o1"].apply(hub_rows.select(range(3))), tokenizer)
    assert same.recipe().validation == of_rows.recipe().validation


def test_recipe_and_fingerprint(hub_rows, validation, tokenizer):
    plain = make_scorer(validation, tokenizer)
    templates = [
        "medical-o1",
        ColumnTemplate("{Question}", "{Response}"),
        {"prompt": "{Question}", "completion": "x{Response}"},
    ]
    scorers = [plain, *(make_scorer(validation, tokenizer, template) for template in templates)]
    assert len({scorer.fingerprint for scorer in scorers}) == 4
    assert "columns" not in plain.recipe().settings
    settings = scorers[1].recipe().settings["columns"]
    assert settings == {
        "prompt": "{Question}",
        "completion": "<think>{Complex_CoT}</think>\n\n{Response}",
        "chat": True,
    }
    assert Recipe.from_json(scorers[1].recipe().to_json()).settings["columns"] == settings


def test_missing_columns_and_unknown_shapes(hub_rows, validation, tokenizer):
    with pytest.raises(ValueError, match=r"reads \['question', 'answer'\].*it has \['Complex_CoT', 'Question'"):
        make_scorer(validation, tokenizer, "question-answer").score(hub_rows)
    # A pool is never read by another format because its columns are missing.
    with pytest.raises(ValueError, match=r"reads \['Question'"):
        make_scorer(validation, tokenizer, "medical-o1").score(Dataset.from_list(validation))
    scorer = make_scorer(validation, tokenizer)
    for run in (lambda: scorer.score(hub_rows), lambda: hub_rows.map(scorer, batched=True)):
        with pytest.raises(ValueError, match=r"Question: 'A patient.*Read them with `columns='medical-o1'`"):
            run()


def test_bad_rows_are_skipped_by_number(hub_rows, validation, tokenizer, caplog):
    rows = Dataset.from_list([*hub_rows, hub_rows[0] | {"Complex_CoT": None}])
    with pytest.raises(ValueError, match=r"Row 10: its column 'Complex_CoT' is null"):
        make_scorer(validation, tokenizer, "medical-o1").score(rows)
    scored = make_scorer(validation, tokenizer, "medical-o1", on_bad_row="skip").score(rows)
    assert np.isnan(scored["influence"][:]).tolist() == [False] * 10 + [True]


def test_classes_are_called_by_their_names(tokenizer, tmp_path):
    """As with `ds.map(template)`: of a ClassLabel column a template reads the names, wherever it reads."""
    names, rows = ["no", "maybe", "yes"], [{"q": SENTENCES[i % 4], "a": i % 3, "level": i % 2} for i in range(12)]
    labelled = Dataset.from_list(rows).cast_column("a", ClassLabel(names=names))
    labelled = labelled.cast_column("level", ClassLabel(names=["level 4", "level 2"]))
    plain = Dataset.from_list([row | {"a": names[row["a"]], "level": [4.0, 2.0][row["level"]]} for row in rows])
    template = ColumnTemplate("{q}", "{a}")
    scorers = [
        make_scorer(taken.select(range(4)), tokenizer, template, difficulty="column:level")
        for taken in (plain, labelled)
    ]
    assert scorers[0].fingerprint == scorers[1].fingerprint
    expected = scorers[0].score(plain)
    streamed = scorers[1].score(labelled.to_iterable_dataset(), output_dir=tmp_path / "scored")
    for found in (
        scorers[1].score(labelled),
        labelled.map(scorers[1], batched=True),
        labelled.map(scorers[1]),
        Dataset.from_list(list(streamed)),
    ):
        for name in ("difficulty", "influence"):
            assert np.allclose(found[name][:], expected[name][:], rtol=1e-4, atol=1e-6)
        assert found["a"][:] == labelled["a"][:]  # the rows stay what they are
    chosen = [
        scorer.select(rows, num_rows=2, max_scored=1)[0]
        for scorer, rows in zip(scorers, (plain, labelled), strict=True)
    ]
    assert chosen[0]["q"][:] == chosen[1]["q"][:] and chosen[1].features["a"].names == names
    grouped = [make_scorer(rows.select(range(4)), tokenizer, template, group_column="a") for rows in (plain, labelled)]
    assert grouped[0].groups == grouped[1].groups == ("no", "maybe", "yes")
