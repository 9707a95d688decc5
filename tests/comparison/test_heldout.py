"""Held-out rows: losses and choices against full logits, one row at a time."""

import numpy as np
import pytest
import torch
from conftest import chat, make_model, make_tokenizer
from datasets import Dataset
from oracle import with_lora
from peft import LoraConfig, get_peft_model

from diq_hf.comparison.heldout import HeldOut, plain_texts
from diq_hf.rows.encoded import RowError
from diq_hf.rows.formats import RowEncoder
from diq_hf.selection.leakage import find_leaks


OPTIONS = {"A": "calcium", "B": "insulin moves potassium into cells", "C": "antibiotics"}
QUESTION = {"question": "Which drug lowers potassium the fastest?", "options": OPTIONS, "answer": "B"}


def question(**changes):
    return QUESTION | changes


def log_likelihood(model, prompt_ids, ids):
    """Sum of log p of all tokens behind the prompt, from full logits."""
    with torch.no_grad():
        log_p = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(log_p[t - 1, ids[t]]) for t in range(len(prompt_ids), len(ids)))


def likeliest(model, tokenizer, text, options, chat_template=True):
    """Log-likelihoods of options as replies, from the template's own rendering."""
    found = []
    for option in options:
        if chat_template:
            turns = chat(text, option)
            prompt = tokenizer.apply_chat_template(turns["prompt"], add_generation_prompt=True, tokenize=False)
            whole = tokenizer.apply_chat_template(turns["prompt"] + turns["completion"], tokenize=False)
        else:
            prompt = f"Question: {text}\nAnswer:"
            whole = f"{prompt} {option}{tokenizer.eos_token}"
        assert whole.startswith(prompt)
        found.append(log_likelihood(model, tokenizer(prompt)["input_ids"], tokenizer(whole)["input_ids"]))
    return found


def test_losses_are_the_models_own(model, tokenizer, pool):
    encoder = RowEncoder(tokenizer)
    heldout = HeldOut([row | {"source": "ab"[i % 2]} for i, row in enumerate(pool)], encoder, "source")
    losses, correct = heldout.measure(model.eval())
    expected = []
    for row in map(encoder, pool):
        ids, labels = torch.tensor(row.input_ids)[None], torch.tensor(row.labels)[None]
        with torch.no_grad():
            expected.append(model(input_ids=ids, labels=labels).loss.item())
    assert np.allclose(losses, expected, rtol=1e-5)
    assert correct is None and heldout.question_groups is None
    assert heldout.groups == ("a", "b", "a", "b", "a", "b", "a")
    assert heldout.tokens == tuple(row.num_trained for row in map(encoder, pool))


@pytest.mark.parametrize("chat_template", [True, False])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_likeliest_option_is_the_answer(chat_template, normalize):
    model, tokenizer = make_model("qwen3").eval(), make_tokenizer()
    if not chat_template:
        tokenizer.chat_template = None
    texts = list(OPTIONS.values())
    expected = np.array(likeliest(model, tokenizer, QUESTION["question"], texts, chat_template))
    if normalize:
        expected = expected / [len(text) for text in texts]
    heldout = HeldOut([question(answer=letter) for letter in "ABC"], RowEncoder(tokenizer), normalize=normalize)
    _, correct = heldout.measure(model)
    assert list(correct) == [float(i == expected.argmax()) for i in range(3)]


def test_likelihoods_and_their_convention_differ_by_length(tokenizer):
    """Random models like few tokens: the plain sum takes the shortest option, by characters another one wins."""
    model = make_model("qwen3").eval()
    rows = [question(answer=letter) for letter in "ABC"]
    plain, by_length = (HeldOut(rows, RowEncoder(tokenizer), normalize=n).measure(model)[1] for n in (False, True))
    assert sum(plain) == sum(by_length) == 1
    assert list(plain) != list(by_length)


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (OPTIONS, "b"),
        (OPTIONS, OPTIONS["B"]),
        (OPTIONS, 1),
        (OPTIONS | {"D": None}, "B"),
        (list(OPTIONS.values()), "B"),
        (list(OPTIONS.values()), 1),
        (list(OPTIONS.values()), OPTIONS["B"]),
        (dict(zip("123", OPTIONS.values(), strict=True)), 2),
        (dict(zip("123", OPTIONS.values(), strict=True)), "2"),
    ],
)
def test_every_way_to_name_the_right_option(tokenizer, options, answer):
    heldout = HeldOut([question(options=options, answer=answer)], RowEncoder(tokenizer))
    assert heldout.questions[0].right == 1
    assert len(heldout.questions[0].replies) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answer": "D"}, "none of its options"),
        ({"answer": 3}, "none of its options"),
        ({"answer": 1.0}, "must be a letter"),
        ({"answer": None}, "lacks `answer`"),
        ({"options": ["B", "A"], "answer": "A"}, "several"),
        ({"options": ["x", "x", "y"], "answer": "A"}, "several"),
        ({"options": ["x"], "answer": 0}, "needs two"),
        ({"options": ["x", ""], "answer": 0}, "not empty"),
        ({"options": [{"key": "A", "value": "x"}], "answer": 0}, "must be texts"),
        ({"options": "x or y"}, "a list or a dict"),
        ({"question": " "}, "its `question`"),
    ],
)
def test_a_question_without_one_right_answer_is_refused_by_its_row(tokenizer, pool, changes, said):
    with pytest.raises(RowError, match=f"Held-out Row 1 .*{said}"):
        HeldOut([pool[0], question(**changes)], RowEncoder(tokenizer))


def test_a_question_and_its_answer_are_told_how_to_be_read(tokenizer):
    with pytest.raises(RowError, match=r"Held-out Row 0 .*Read them with `columns='question-answer'`"):
        HeldOut([{"question": "Why?", "answer": "So.", "options": None}], RowEncoder(tokenizer))


def test_rows_and_questions_stand_together(model, tokenizer, pool):
    rows = [
        pool[0] | {"task": "rows"},
        question(task="questions"),
        pool[1] | question(task="both", answer="A"),
        pool[2] | {"task": "rows", "options": ["a column of its own"]},
    ]
    encoder = RowEncoder(tokenizer)
    columns = dict.fromkeys(name for row in rows for name in row)
    table = Dataset.from_list([columns | row for row in rows[:2]])  # with nulls where a row has no such column
    heldout = HeldOut(table, encoder, "task")
    assert heldout.question_groups == ("questions",)
    heldout = HeldOut(rows, encoder, "task")
    losses, correct = heldout.measure(model)
    assert heldout.groups == ("rows", "questions", "both", "rows")
    assert heldout.question_groups == ("questions", "both")
    assert losses.shape == (4,) and correct.shape == (2,)
    right = likeliest(model.eval(), tokenizer, QUESTION["question"], [OPTIONS["B"]])[0]
    assert losses[1] == pytest.approx(-right / heldout.tokens[1], rel=1e-5)  # a question's loss is its right reply's
    assert np.allclose(losses[[0, 2, 3]], HeldOut(pool[:3], encoder).measure(model)[0], rtol=1e-5)


def test_options_are_compared_whole_and_alone(tokenizer):
    """Whatever rows are cut to and trained on."""
    encoder = RowEncoder(tokenizer, max_length=8, completion_only_loss=False)
    replies = HeldOut([question()], encoder).questions[0].replies
    expected = HeldOut([question()], RowEncoder(tokenizer)).questions[0].replies
    assert [list(reply.labels) for reply in replies] == [list(reply.labels) for reply in expected]


@pytest.mark.parametrize("training", [True, False])
def test_any_adapter_is_measured_and_comes_back_as_it_was(tokenizer, pool, training):
    settings = {"use_dora": True, "modules_to_save": ["lm_head"], "target_modules": ["q_proj"], "lora_dropout": 0.5}
    model = get_peft_model(make_model(), LoraConfig(r=2, **settings)).train(training)
    before = {name: (p.requires_grad, p.clone()) for name, p in model.named_parameters()}
    heldout = HeldOut([*pool, question()], RowEncoder(tokenizer))
    first, second = heldout.measure(model), heldout.measure(model)
    assert np.array_equal(first[0], second[0])  # no dropout
    assert all(module.training == training for module in model.modules())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == before[name][0] and torch.equal(parameter, before[name][1])
        assert parameter.grad is None


def test_an_adapter_counts(model, tokenizer, pool):
    heldout = HeldOut(pool, RowEncoder(tokenizer))
    plain = heldout.measure(model)[0]
    adapted = with_lora(model, use_rslora=False)
    assert np.abs(heldout.measure(adapted)[0] - plain).max() > 1e-3


def test_what_is_no_rows_is_refused(model, tokenizer, pool):
    encoder = RowEncoder(tokenizer)
    with pytest.raises(ValueError, match="no held-out rows"):
        HeldOut([], encoder)
    with pytest.raises(TypeError, match="Pick a split"):
        HeldOut({"test": pool}, encoder)
    with pytest.raises(TypeError, match="make a stream a dataset"):
        HeldOut(Dataset.from_list(pool).to_iterable_dataset(), encoder)
    with pytest.raises(RowError, match=r"Held-out Row 1 .*name its group"):
        HeldOut([pool[0] | {"source": "a"}, pool[1]], encoder, "source")
    with pytest.raises(RowError, match=r"Held-out Row 1.*known format"):
        HeldOut([pool[0], {"words": "x"}], encoder)


def test_a_diverged_model_is_no_result(model, tokenizer, pool):
    heldout = HeldOut(pool, RowEncoder(tokenizer))
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"down_proj.weight` are not finite: the training has diverged"):
        heldout.measure(model)


def test_questions_are_found_in_a_pool(pool):
    """By their texts: of rows and questions together, and of questions alone, whose columns no format has."""
    asked = chat(QUESTION["question"], "Insulin, I think.")
    train = Dataset.from_list([pool[0], asked])
    for rows in ([question(answer=1)], [pool[3] | dict.fromkeys(QUESTION), dict.fromkeys(pool[3]) | question()]):
        leaks = find_leaks(train, plain_texts(Dataset.from_list(rows)))
        assert [(leak.pool_row, leak.other_row, leak.by) for leak in leaks] == [(1, len(rows) - 1, "prompt")]
    texts = plain_texts(Dataset.from_list([pool[3] | question()]))
    assert texts[0] == {"prompt": pool[3]["prompt"][0]["content"], "completion": pool[3]["completion"][0]["content"]}
    with pytest.raises(RowError, match=r"Held-out Row 1 \(.*none of its options"):
        plain_texts(Dataset.from_list([question(), question(answer="D")]))
