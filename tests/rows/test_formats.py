"""Rows become exactly what a real `SFTTrainer` prepares, and bad rows are named."""

import numpy as np
import pytest
from conftest import SENTENCES, chat, make_model
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from diq_hf.rows.encoded import RowError
from diq_hf.rows.formats import RowEncoder


A, B, C, D = SENTENCES
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": A},
    {"role": "assistant", "content": B},
    {"role": "user", "content": C},
    {"role": "assistant", "content": D},
]
SHAREGPT = [{"from": m["role"], "value": m["content"]} for m in CONVERSATION]
IDS = [7, 8, 9, 10, 11]
CASES = {
    "text": ([{"text": A}, {"text": B + "</s>"}], {}),
    "text field": ([{"body": A}, {"body": B}], {"dataset_text_field": "body"}),
    "prompt-completion": ([{"prompt": A, "completion": " " + B}, {"prompt": C + "\n", "completion": D + "</s>"}], {}),
    "prompt-completion whole": ([{"prompt": A, "completion": B}], {"completion_only_loss": False}),
    "merge across the boundary": ([{"prompt": "The anion g", "completion": "ap is the sodium."}], {}),
    "prompt-completion and text": ([{"text": A, "prompt": C, "completion": D}], {}),
    "messages": ([{"messages": CONVERSATION}, {"messages": CONVERSATION[1:3]}], {}),
    "messages, assistant only": ([{"messages": CONVERSATION}], {"assistant_only_loss": True}),
    "conversational": ([chat(A, B), chat(C, D)], {}),
    "conversational whole": ([chat(A, B)], {"completion_only_loss": False}),
    "conversational, assistant only": ([chat(A, B)], {"assistant_only_loss": True}),
    "sharegpt": ([{"conversations": SHAREGPT}, {"conversations": SHAREGPT[1:3]}], {}),
    "input_ids": ([{"input_ids": IDS}], {}),
    "labels": ([{"input_ids": IDS, "labels": [-100, -100, 9, 10, 11]}], {}),
    "completion_mask": (
        [{"input_ids": IDS, "completion_mask": [0, 0, 0, 1, 1]}],
        {"completion_only_loss": True},
    ),
    "completion_mask, default": ([{"input_ids": IDS, "completion_mask": [0, 0, 0, 1, 1]}], {}),
    "assistant_masks": ([{"input_ids": IDS, "assistant_masks": [0, 1, 1, 0, 1]}], {}),
    "keep_start": ([{"messages": CONVERSATION}], {"max_length": 24}),
    "keep_end": ([chat(A, B)], {"max_length": 24, "truncation_mode": "keep_end"}),
    "no truncation": ([{"messages": CONVERSATION}], {"max_length": None}),
    "template arguments": (
        [{"messages": CONVERSATION, "chat_template_kwargs": {"shout": True}}],
        {},
    ),
    "keys that Arrow fills with None": (
        [{"messages": [*CONVERSATION, {"role": "tool", "content": A, "name": "lookup"}, CONVERSATION[2]]}],
        {},
    ),
    "tools": ([{"messages": CONVERSATION, "tools": '[{"name": "lookup"}]'}], {}),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_sft_trainer(name, tokenizer, tmp_path):
    rows, settings = CASES[name]
    if name in ("template arguments", "tools"):
        tokenizer = type(tokenizer)(
            tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>", pad_token="<pad>", bos_token="<s>"
        )
        tokenizer.chat_template = "{{ tools }}{{ shout }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    trainer = SFTTrainer(
        make_model(),
        args=SFTConfig(tmp_path, use_cpu=True, bf16=False, report_to="none", **settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    encoder = RowEncoder(tokenizer, **settings)
    assert len(trainer.train_dataset) == len(rows)
    for prepared, row in zip(trainer.train_dataset, Dataset.from_list(rows), strict=True):
        encoded = encoder(row)
        assert encoded.input_ids.tolist() == prepared["input_ids"]
        assert encoded.labels.tolist() == prepared["labels"]


def test_rows_the_trainer_drops_are_refused(tokenizer, tmp_path):
    rows = [chat(A * 3, B), chat("Hi", B)]
    trainer = SFTTrainer(
        make_model(),
        args=SFTConfig(tmp_path, use_cpu=True, bf16=False, report_to="none", max_length=40),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    assert len(trainer.train_dataset) == 1
    encoder = RowEncoder(tokenizer, max_length=40)
    with pytest.raises(RowError, match="after truncation to `max_length=40`"):
        encoder(rows[0])
    assert encoder(rows[1]).num_trained


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": A}, "no known format"),
        ({"prompt": A}, "no `completion`"),
        ({"text": None}, "must be a string, got NoneType"),
        ({"text": 3.5}, "must be a string, got float"),
        ({"prompt": A, "completion": None}, "`completion` must be a string"),
        ({"messages": []}, "non-empty list of messages"),
        ({"messages": [{"content": A}]}, "`role` and `content`"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "a list as `content`"),
        ({"conversations": [{"from": "user", "value": A}, {"from": "gpt"}]}, "`from` and `value`"),
        ({"input_ids": IDS, "labels": [1]}, "`labels` must be a list of 5 integers"),
        ({"input_ids": [1, None, 3]}, "`input_ids` must be a list of 3 integers"),
        ({"input_ids": "abc"}, "`input_ids` must be a list"),
        ({"input_ids": IDS, "labels": [5, *[-100] * 4]}, "no token to train on"),
        ({"input_ids": []}, "no token to train on"),
        ({"messages": CONVERSATION, "images": []}, "images"),
        ({"text": A, "labels": 1}, "rename the column"),
        ({"text": " "}, "is empty"),
        ({"prompt": A, "completion": ""}, "is empty"),
        (chat(A, ""), "is empty"),
        ({"messages": [*CONVERSATION[:4], {"role": "assistant", "content": "\n"}]}, "is empty"),
        ({"messages": CONVERSATION, "tools": "{"}, "no JSON"),
    ],
)
def test_bad_rows_are_named(row, message, tokenizer):
    with pytest.raises(RowError, match=message):
        RowEncoder(tokenizer)(row)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ 'a' + messages | length }}", "can only concatenate str"),
    ],
)
def test_template_that_fails_is_a_row_error(template, message, tokenizer):
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>")
    tokenizer.chat_template = template
    with pytest.raises(RowError, match=message):
        RowEncoder(tokenizer)({"messages": CONVERSATION})


def test_missing_chat_template(tokenizer):
    bare = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>")
    with pytest.raises(ValueError, match="no chat template") as error:
        RowEncoder(bare)({"messages": CONVERSATION})
    assert not isinstance(error.value, RowError)  # no row's fault: never to be passed over


def test_missing_eos(tokenizer):
    bare = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="no `eos_token`"):
        RowEncoder(bare)({"text": A})


def test_vocabulary_mismatch(tokenizer):
    with pytest.raises(ValueError, match="outside the model's vocabulary of 10") as error:
        RowEncoder(tokenizer, vocab_size=10)({"input_ids": IDS})
    assert not isinstance(error.value, RowError)
    for row in ({"input_ids": [-1, *IDS]}, {"input_ids": IDS, "labels": [-1, -1, -1, 10, 11]}):
        with pytest.raises(ValueError, match="masked labels are not -100"):
            RowEncoder(tokenizer, vocab_size=384)(row)


@pytest.mark.parametrize("settings", [{"max_length": 1}, {"truncation_mode": "middle"}])
def test_bad_settings(settings, tokenizer):
    with pytest.raises(ValueError, match=r"max_length|truncation_mode"):
        RowEncoder(tokenizer, **settings)


def test_answer_of_every_format_with_a_prompt(tokenizer):
    encoder = RowEncoder(tokenizer, completion_only_loss=False)
    answer = encoder.encode_answer(chat(A, B))
    assert np.array_equal(answer.labels, RowEncoder(tokenizer)(chat(A, B)).labels)
    messages = [{"role": "user", "content": A}, {"role": "assistant", "content": B}]
    assert np.array_equal(encoder.encode_answer({"messages": messages}).labels, answer.labels)
    masked = {"input_ids": IDS, "completion_mask": [0, 0, 0, 1, 1]}
    assert encoder.encode_answer(masked).labels.tolist() == [-100, -100, -100, 10, 11]
    for row in ({"text": A}, {"input_ids": IDS}, {"messages": messages[:1]}):
        with pytest.raises(RowError):
            encoder.encode_answer(row)


def test_texts(tokenizer):
    encoder = RowEncoder(tokenizer)
    assert encoder.texts(chat(A, B)) == (A, B)
    assert encoder.texts({"messages": CONVERSATION}) == (f"Be brief.\n{A}\n{B}\n{C}", D)
    assert encoder.texts({"text": A}) == (A, "")
    encoded = encoder({"prompt": A, "completion": " " + B})
    row = {"input_ids": encoded.input_ids.tolist(), "labels": encoded.labels.tolist()}
    assert encoder.texts(row) == (A, " " + B)
