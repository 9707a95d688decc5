"""LESS against steps that torch's own AdamW takes on one row at a time, in float64, with explicit cosines."""

import copy

import numpy as np
import pytest
import torch
from conftest import make_model
from oracle import attention_weights, in_float64, relative_error, row_gradient, with_lora
from trainings import make_trainer

from diq_hf.comparison.less import AdamMoments, LessCheckpoint, moments, rank
from diq_hf.rows.encoded import EncodedRow
from diq_hf.rows.formats import RowEncoder


pytest_plugins = "pools"

BETAS, EPS = (0.8, 0.95), 1e-6


@pytest.fixture
def rows(tokenizer, pool, validation):
    encoder = RowEncoder(tokenizer)
    encoded = [encoder(row) for row in validation]
    return [encoder(row) for row in pool], {"a": encoded[:1], "b": encoded[1:]}


def made_up(model, phi, seed):
    """Moments as if the model had been trained, with some of them next to nothing."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, parameter in model.named_parameters():
        if any(parameter is one for one in phi):
            normal = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            scale = 10.0 ** torch.randint(-6, 1, parameter.shape, generator=generator).to(parameter.dtype)
            found[name] = AdamMoments(1e-2 * normal, 1e-3 * normal.square() * scale, 3 + seed, BETAS, EPS)
    return found


def adam_step(parameters, gradients, states, **settings):
    """The step that AdamW takes, over its learning rate."""
    copies = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    optimizer = torch.optim.AdamW(copies, lr=1.0, weight_decay=0.0, **settings)
    for parameter, gradient, state in zip(copies, gradients, states, strict=True):
        parameter.grad = gradient.clone()
        optimizer.state[parameter] = {name: value.clone() for name, value in state.items()}
    optimizer.step()
    return torch.cat([(p - new).detach().flatten() for p, new in zip(parameters, copies, strict=True)])


def expected_scores(checkpoints, pool, groups):
    """`checkpoints`: model, φ, AdamW's state of each of φ, its settings and the learning rate."""
    total = 0
    for model, phi, states, settings, learning_rate in checkpoints:
        steps = [adam_step(phi, row_gradient(model, phi, row)[0], states, **settings) for row in pool]
        means = []
        for group in groups.values():
            gradients = [torch.cat([g.flatten() for g in row_gradient(model, phi, row)[0]]) for row in group]
            means.append(torch.stack(gradients).mean(dim=0))
        cosine = torch.nn.functional.cosine_similarity
        total = total + learning_rate * np.array([[float(cosine(s, m, dim=0)) for m in means] for s in steps])
    return total.max(axis=1) / sum(learning_rate for *_, learning_rate in checkpoints)


def torch_state(kept):
    step = torch.tensor(float(kept.steps))
    return {"step": step, "exp_avg": kept.first, "exp_avg_sq": kept.second}


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_scores_are_cosines_of_adams_own_steps(name, rows):
    pool, groups = rows
    theirs, ours = [], []
    for seed, learning_rate in ((0, 3e-4), (1, 1e-4)):
        model = in_float64(make_model(name, seed=seed))
        phi = attention_weights(model)
        kept = made_up(model, phi, seed)
        states = [torch_state(one) for one in kept.values()]
        theirs.append((model, phi, states, {"betas": BETAS, "eps": EPS}, learning_rate))
        ours.append(LessCheckpoint(model, kept, learning_rate))
    done = []
    found = rank(ours, pool, groups, progress=done.append)
    assert relative_error(found, expected_scores(theirs, pool, groups)) < 1e-7
    assert relative_error(rank(ours, pool, groups, max_tokens_per_batch=60), found) < 1e-9
    assert sum(done) == 2 * (len(pool) + 3)
    one_group = {"a": groups["a"]}
    assert relative_error(rank(ours, pool, one_group), expected_scores(theirs, pool, one_group)) < 1e-7


def test_a_warm_up_with_lora_from_trainer_to_scores(tmp_path, train_rows, eval_rows, rows):
    """Moments are read by name from the trainer; the other side takes them from torch's optimizer."""
    pool, groups = rows
    trainer = make_trainer(
        "sft", train_rows, eval_rows, tmp_path, None, model=with_lora(make_model()), max_steps=4, adam_beta2=0.9
    )
    trainer.train()
    kept = moments(trainer)
    model = trainer.model
    assert list(kept) == [name for name, p in model.named_parameters() if p.requires_grad]
    phi = [p for p in model.parameters() if p.requires_grad]
    optimizer = trainer.optimizer.optimizer
    in_float64(model)
    states = [
        {name: value.double() if value.ndim else value for name, value in optimizer.state[p].items()} for p in phi
    ]
    settings = {"betas": (0.9, 0.9), "eps": 1e-8}
    expected = expected_scores([(model, phi, states, settings, 1e-3)], pool, groups)
    found = rank([LessCheckpoint(model, kept, 1e-3)], pool, groups)
    assert relative_error(found, expected) < 1e-7
    assert found.argmax() == expected.argmax()


def test_moments_are_copies_of_a_steps(tmp_path, train_rows, eval_rows):
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, None, max_steps=1)
    with pytest.raises(ValueError, match="for a step at least"):
        moments(trainer)
    trainer.train()
    kept = moments(trainer)
    before = copy.deepcopy(kept["model.norm.weight"].second)
    for state in trainer.optimizer.optimizer.state.values():
        state["exp_avg_sq"].zero_()
    assert torch.equal(kept["model.norm.weight"].second, before) and before.abs().sum() > 0
    assert kept["model.norm.weight"].steps == 1


def test_an_optimizer_without_moments_is_refused(tmp_path, train_rows, eval_rows):
    trainer = make_trainer("sft", train_rows, eval_rows, tmp_path, None, max_steps=1, optim="adafactor")
    trainer.train()
    with pytest.raises(ValueError, match="optim="):
        moments(trainer)


def test_what_cannot_be_ranked_is_refused(model, rows):
    pool, groups = rows
    kept = made_up(model, attention_weights(model), 0)
    with pytest.raises(ValueError, match=r"no moments of model.layers.0.mlp.up_proj"):
        rank([LessCheckpoint(model, kept, 1.0)], pool, groups, target_modules=["up_proj"])
    with pytest.raises(ValueError, match="no validation rows"):
        rank([LessCheckpoint(model, kept, 1.0)], pool, {})
    with pytest.raises(ValueError, match="no checkpoint"):
        rank([], pool, groups)
    with pytest.raises(ValueError, match="above zero"):
        rank([LessCheckpoint(model, kept, 0.0)], pool, groups)


def test_packed_and_padded_rows_have_one_step_each(rows):
    """A row's step is no sum of tokens': it must be taken on the mean of the row's own trained tokens alone."""
    pool, groups = rows
    whole = EncodedRow(pool[3].input_ids, pool[3].input_ids)  # its first label is no trained token
    found = []
    for attention in ("sdpa", "eager"):  # packed, padded
        model = in_float64(make_model())
        model.set_attn_implementation(attention)
        kept = made_up(model, attention_weights(model), 0)
        found.append(rank([LessCheckpoint(model, kept, 1.0)], [*pool, whole], groups))
        alone = rank([LessCheckpoint(model, kept, 1.0)], [whole], groups)
        assert relative_error(found[-1][-1:], alone) < 1e-9
    assert relative_error(*found) < 1e-4  # eager attention's softmax is in float32
