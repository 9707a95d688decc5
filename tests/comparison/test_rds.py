"""RDS+ against a loop over rows, one at a time, with transformers' own hidden states."""

import numpy as np
import pytest
import torch
from conftest import MODELS, make_model
from oracle import relative_error, with_lora

from diq_hf.comparison.forward import Forward
from diq_hf.comparison.rds import rank, weighted_mean
from diq_hf.rows.encoded import EncodedRow
from diq_hf.rows.formats import RowEncoder
from diq_hf.selection.turns import places_in_turns


@pytest.fixture
def rows(tokenizer, pool, validation):
    encoder = RowEncoder(tokenizer)
    return [encoder(row) for row in pool], [encoder(row) for row in validation]


def embedding(model, row):
    with torch.no_grad():
        states = model(input_ids=torch.tensor(row.input_ids)[None], output_hidden_states=True).hidden_states[-1][0]
    total = sum((t + 1) * state.double() for t, state in enumerate(states))
    return total / sum(range(1, len(states) + 1))


def nearest_in_turn(similarities):
    """The authors' loop: each validation row names its best row that it has not named yet."""
    waiting = [sorted(range(len(line)), key=lambda i: -line[i]) for line in similarities]
    taken = []
    while any(waiting):
        for names in waiting:
            name = names.pop(0)
            if name not in taken:
                taken.append(name)
    return taken


@pytest.mark.parametrize("name", MODELS)
def test_order_is_that_of_a_loop_over_rows(name, rows):
    model, (pool, validation) = make_model(name).eval(), rows
    cosine = torch.nn.functional.cosine_similarity
    similarities = [
        [float(cosine(embedding(model, wanted), embedding(model, row), dim=0)) for row in pool]
        for wanted in validation
    ]
    assert rank(model, pool, validation).tolist() == nearest_in_turn(similarities)
    assert rank(model, pool, validation, max_tokens_per_batch=40).tolist() == nearest_in_turn(similarities)


def test_embeddings_are_weighted_means_of_rows_alone(model, rows):
    found = Forward(model).states(rows[0], weighted_mean)
    expected = torch.stack([embedding(model.eval(), row) for row in rows[0]]).numpy()
    assert relative_error(found, expected) < 1e-5


def test_turns_of_many_rows():
    generator = np.random.default_rng(0)
    similarities = generator.normal(size=(7, 60)).round(1)  # with ties
    assert np.argsort(places_in_turns(similarities)).tolist() == nearest_in_turn(similarities)


def test_a_row_like_a_validation_row_comes_first(model, rows):
    pool, validation = rows
    assert rank(model, [*pool, validation[1]], validation[1:2])[0] == len(pool)


def test_the_model_comes_back_as_it_was(model, rows):
    model = with_lora(model).train()
    done = []
    first = rank(model, *rows, progress=done.append)
    assert first.tolist() == rank(model, *rows).tolist()  # no dropout
    assert sum(done) == len(rows[0]) + len(rows[1])
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad == ("lora" in name) for name, p in model.named_parameters())


def test_what_cannot_be_ranked_is_refused(model, rows):
    with pytest.raises(ValueError, match="no validation rows"):
        rank(model, rows[0], [])
    assert rank(model, [], rows[1]).tolist() == []
    gpt2, ids = make_model("gpt2"), np.ones(600, dtype=np.int64)
    with pytest.raises(ValueError, match=r"Row 1: it has 600 tokens.*max_length=512"):
        rank(gpt2, [rows[0][0], EncodedRow(ids, ids)], rows[1])
