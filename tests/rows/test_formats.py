"""Rows become exactly what a real `SFTTrainer` prepares, and bad rows are named."""

import numpy as np
import pytest
from conftest import SENTENCES, chat, make_model
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from diq_hf.rows import messages
from diq_hf.rows.encoded import RowError
from diq_hf.rows.formats import RowEncoder
from diq_hf.rows.messages import chatml


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
        ({"text": None}, "all its columns are null"),
        ({"text": 3.5}, "must be a string, got float"),
        ({"prompt": A, "completion": None}, "no `completion`"),
        ({"prompt": A, "completion": 3}, "`completion` must be a string"),
        ({"prompt": A, "completion": [{"role": "assistant", "content": B}]}, "Make both the same"),
        ({"prompt": [{"role": "user", "content": A}], "completion": B}, "Make both the same"),
        ({"prompt": A, "messages": CONVERSATION}, "remove the column `prompt`"),
        ({"prompt": A, "messages": CONVERSATION}, "read them with `columns='messages'`"),
        ({"prompt": A, "chosen": B, "rejected": C}, r"`columns=ColumnTemplate\('{prompt}', '{chosen}'\)`"),
        ({"prompt": A, "chosen": CONVERSATION[1:3]}, r"`columns=ColumnTemplate\(messages='chosen'\)`"),
        ({"prompt": CONVERSATION[1:2], "chosen": CONVERSATION[2:3]}, "rename that column to `completion`"),
        ({"chosen": CONVERSATION[1:3], "rejected": CONVERSATION[3:]}, "preference row"),
        ({"chosen": f"Human: {A} Assistant: {B}"}, "extract_prompt"),
        ({"conversations": CONVERSATION}, "Rename the column to `messages`, or read it with `columns='sharegpt'`"),
        ({"conversations": [A, B]}, r"`columns=ColumnTemplate\('{conversations\[0\]}', '{conversations\[1\]}'\)`"),
        ({"conversations": str(SHAREGPT)}, "CSV holds no lists"),
        ({"messages": str(CONVERSATION)}, "CSV holds no lists"),
        ({"messages": [{"role": None, "content": A}, *CONVERSATION]}, "message 0 of `messages` is from None"),
        ({"messages": SHAREGPT}, "belong in a column `conversations`"),
        ({"conversations": [{"from": "user", "value": A}, {"from": "Narrator", "value": B}]}, "1 .* 'Narrator'.* gpt"),
        ({"conversations": [{"from": None, "value": A}]}, "turn 0 of `conversations` is from None"),
        ({"conversations": [{"from": "human", "value": A}, {"from": "gpt", "value": " "}]}, "is empty"),
        ({"input_ids": IDS, "labels": None}, "`labels` is null"),
        ({"messages": []}, "non-empty list of messages"),
        ({"messages": [{"content": A}]}, "`role` and `content`"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "a list as `content`.*Join the texts"),
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


def test_sharegpt_roles_are_what_they_mean(tokenizer, tmp_path, caplog):
    """The trainer leaves "human" and "gpt" as they stand, and needs the rows mapped, as the warning says."""
    wild = {"system": "System", "user": "human", "assistant": "GPT"}
    raw = {"conversations": [{"from": wild[m["role"]], "value": m["content"]} for m in CONVERSATION]}
    messages.roles_differ.cache_clear()
    both = {"messages": CONVERSATION, "conversations": CONVERSATION}
    for known in ({"conversations": [*SHAREGPT[:1], {"from": "user", "value": A}]}, chatml(raw), both):
        RowEncoder(tokenizer)(known)
    assert RowEncoder(None).texts(raw)[1] == D and not caplog.text
    encoded = RowEncoder(tokenizer)(raw)
    assert "train on `ds.map(chatml, remove_columns='conversations')`" in caplog.text
    assert encoded.input_ids.tolist() == RowEncoder(tokenizer)({"messages": CONVERSATION}).input_ids.tolist()
    rows, prepared = Dataset.from_list([raw]), {}
    for name, train_dataset in (("raw", rows), ("mapped", rows.map(chatml, remove_columns="conversations"))):
        args = SFTConfig(tmp_path, use_cpu=True, bf16=False, report_to="none")
        trainer = SFTTrainer(make_model(), args=args, train_dataset=train_dataset, processing_class=tokenizer)
        prepared[name] = trainer.train_dataset[0]["input_ids"]
    assert prepared["mapped"] == encoded.input_ids.tolist()
    assert tokenizer.decode(prepared["raw"]).count("<|start|>GPT\n") == 2  # what the trainer makes of it by itself


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *[(name, "user") for name in ("human", "user", "Human", " USER")],
        *[(name, "assistant") for name in ("gpt", "assistant", "bot", "chatgpt", "model", "function_call")],
        *[(name, "tool") for name in ("observation", "tool", "function_response")],
        ("system", "system"),
    ],
)
def test_sharegpt_names(name, role):
    turn = {"from": name, "value": A, "weight": 0}
    assert chatml({"conversations": [turn], "id": 3}) == {
        "id": 3,
        "messages": [{"role": role, "content": A, "weight": 0}],
    }


def test_null_columns_are_as_if_absent(tokenizer):
    """Each row of a mixture is read by what it has."""
    kinds = [{"text": A}, {"messages": CONVERSATION}, chat(A, B), {"conversations": SHAREGPT}, {"input_ids": IDS}]
    kinds += [{"input_ids": IDS, "labels": [-100, -100, 9, 10, 11]}]
    columns = {name for row in kinds for name in row} | {"images", "tools", "chat_template_kwargs", "chosen"}
    encoder = RowEncoder(tokenizer)
    for row in kinds:
        mixed = dict.fromkeys(columns) | row
        if row == {"input_ids": IDS}:
            # Nothing but its labels tells such a row's prompt from its answer.
            with pytest.raises(RowError, match="`labels` is null"):
                encoder(mixed)
            continue
        for found, expected in ((encoder(mixed), encoder(row)),):
            assert np.array_equal(found.input_ids, expected.input_ids)
            assert np.array_equal(found.labels, expected.labels)
        assert encoder.texts(mixed) == encoder.texts(row)


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


def test_answer_is_the_last_turn(tokenizer):
    """Also where every turn of the assistant's is trained, and after the tokens have been made."""
    encoder = RowEncoder(tokenizer, assistant_only_loss=True)
    messages = {"messages": CONVERSATION}
    every, last = encoder(messages), encoder.encode_answer(messages)
    assert tokenizer.decode(last.input_ids[last.labels != -100]) == D + "<|end|>"
    tokenized = {"input_ids": every.input_ids.tolist(), "labels": every.labels.tolist()}
    again = encoder.encode_answer(tokenized)
    assert tokenizer.decode(again.input_ids[again.labels != -100]) == D + "<|end|>"
    prompt, answer = encoder.texts(tokenized)
    assert answer.strip() == D and A in prompt and B in prompt and D not in prompt
    assert np.array_equal(encoder.encode_answer({"conversations": SHAREGPT}).labels, last.labels)


def test_answer_needs_no_marks_of_the_template(tokenizer):
    plain = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>")
    plain.chat_template = tokenizer.chat_template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    encoder = RowEncoder(plain, assistant_only_loss=True)
    with pytest.raises(ValueError, match="generation"):
        encoder(chat(A, B))
    assert np.array_equal(encoder.encode_answer(chat(A, B)).labels, RowEncoder(plain)(chat(A, B)).labels)


def test_prompt_of_one_token(tokenizer):
    encoder = RowEncoder(tokenizer)
    assert encoder.encode_answer({"prompt": "a", "completion": B}).labels[:2].tolist() != [-100, -100]
    one = {"input_ids": IDS, "labels": [-100, *IDS[1:]]}
    assert encoder.encode_answer(one).labels.tolist() == [-100, *IDS[1:]]
    with pytest.raises(RowError, match="all its tokens are trained"):
        encoder.encode_answer({"input_ids": IDS, "labels": IDS})
    with pytest.raises(RowError, match="its prompt is empty"):
        encoder.encode_answer({"input_ids": [tokenizer.bos_token_id, *IDS], "labels": [-100, *IDS]})
    with pytest.raises(RowError, match="nothing of its prompt is left"):
        RowEncoder(tokenizer, max_length=4, truncation_mode="keep_end").encode_answer(one)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": CONVERSATION[:4]}, "last message is from 'user'"),
        ({"messages": CONVERSATION[2:3]}, "no prompt"),
        ({"messages": [*CONVERSATION, {"role": "tool", "content": A}]}, "last message is from 'tool'"),
    ],
)
def test_rows_without_an_answer(row, message, tokenizer):
    with pytest.raises(RowError, match=message):
        RowEncoder(tokenizer).encode_answer(row)


def test_a_row_is_tokenized_once(tokenizer):
    """The answer's encoding takes over what the row's made, and never another row's."""
    counted = type(tokenizer)(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>", chat_template=tokenizer.chat_template
    )
    calls = []

    class Counting:
        def __getattr__(self, name):
            return getattr(counted, name)

        def __call__(self, **kwargs):
            calls.append(kwargs)
            return counted(**kwargs)

        def apply_chat_template(self, *arguments, **kwargs):
            calls.append(arguments)
            return counted.apply_chat_template(*arguments, **kwargs)

    rows = [chat(A, B), {"messages": CONVERSATION}, {"prompt": A, "completion": B}, {"prompt": A, "completion": D}]
    encoder = RowEncoder(Counting())
    for row in rows:
        calls.clear()
        encoder(row)
        answer = encoder.encode_answer(row)
        assert len(calls) == 2  # the whole row, and its prompt alone, by which the answer's beginning is found
        assert np.array_equal(answer.labels, RowEncoder(counted).encode_answer(row).labels)
    mutated = chat(A, B)
    encoder(mutated)
    mutated["completion"][0]["content"] = D  # in place
    assert np.array_equal(encoder.encode_answer(mutated).input_ids, RowEncoder(counted)(chat(A, D)).input_ids)


def test_texts(tokenizer):
    encoder = RowEncoder(tokenizer)
    assert encoder.texts(chat(A, B)) == (A, B)
    assert encoder.texts({"messages": CONVERSATION}) == (f"Be brief.\n{A}\n{B}\n{C}", D)
    assert encoder.texts({"text": A}) == (A, "")
    encoded = encoder({"prompt": A, "completion": " " + B})
    row = {"input_ids": encoded.input_ids.tolist(), "labels": encoded.labels.tolist()}
    assert encoder.texts(row) == (A, " " + B)
    whole = {"input_ids": encoded.input_ids.tolist()}
    assert encoder.texts(whole) == (f"{A} {B}", "")
    assert RowEncoder(tokenizer, max_length=3).texts(row) == (A, " " + B)  # texts are never cut


CALL = {"type": "function", "function": {"name": "lookup", "arguments": {"drug": "insulin", "dose": None}}}
SAID = '{"name": "lookup", "arguments": {"drug": "insulin"}}'


@pytest.mark.parametrize(
    ("row", "texts"),
    [
        ({"prompt": "id-7", "messages": CONVERSATION[1:3]}, (A, B)),
        ({"prompt": A, "chosen": B, "rejected": C}, (A, B)),
        ({"prompt": A, "chosen": CONVERSATION[1:3], "rejected": CONVERSATION[3:]}, (A, B)),
        ({"chosen": CONVERSATION[1:3], "rejected": CONVERSATION[3:]}, (A, B)),
        ({"prompt": CONVERSATION[1:2], "chosen": CONVERSATION[2:3], "rejected": CONVERSATION[4:]}, (A, B)),
        ({"messages": [CONVERSATION[1], {"role": "assistant", "content": None, "tool_calls": [CALL]}]}, (A, SAID)),
        ({"prompt": A, "completion": None}, (A, "")),
        ({"prompt": CONVERSATION[1:2], "completion": []}, (A, "")),
        ({"prompt": A, "completion": [{"role": "assistant", "content": B}]}, (A, B)),
        ({"prompt": A}, (A, "")),
        ({"messages": CONVERSATION[1:2]}, (A, "")),
        ({"messages": [CONVERSATION[1], {"role": "Assistant", "content": B}]}, (A, B)),
        ({"conversations": [{"from": "human", "value": A}, {"from": "gpt", "value": B}]}, (A, B)),
    ],
)
def test_the_answer_is_found_where_it_stands(row, texts):
    encoder = RowEncoder(None)
    assert encoder.texts(row) == texts
    assert encoder.rated_texts(row) == (texts[0], None)
    if texts[1]:
        assert encoder.rated_texts(row, "prompt+completion") == texts
    else:
        with pytest.raises(RowError, match="no answer beside its prompt"):
            encoder.rated_texts(row, "prompt+completion")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": " ", "completion": B}, "its prompt is empty"),
        ({"chosen": A + B, "rejected": A + C}, "extract_prompt"),
        ({"prompt": [{"role": "user", "content": [{"type": "text", "text": A}]}]}, "Join the texts"),
        ({"prompt": ["a"]}, "`role` and `content`"),
    ],
)
def test_texts_that_cannot_be_read(row, message):
    with pytest.raises(RowError, match=message):
        RowEncoder(None).rated_texts(row)
