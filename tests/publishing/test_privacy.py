"""What is taken for a path of somebody's machine, and what is not."""

import pytest

from diq_hf.publishing.privacy import refuse_private


PATHS = [
    "/home/me/model",
    "diq score ./pool.jsonl",
    "../up.jsonl",
    "..\\up.jsonl",
    "~/pool.jsonl",
    "~me/pool.jsonl",
    "~\\pool.jsonl",
    "C:\\models\\mine",
    "C:/models/mine",
    "d:/x",
    "see D:\\x",
    "\\\\server\\share\\x",
    "\\\\?\\C:\\x",
    "file:///home/me/x",
    "FILE:/home/me/x",
    "file://server/x",
    "%2Fhome%2Fme",
    "file%3A%2F%2F%2Fhome",
    "C%3A%5CUsers",
    "cache_dir=/tmp/x",
    "column-1:/home/me",
    "('/home/me')",
    "a, /home/me",
    "[/home/me]",
    'diq score "/home/me/x y"',
]
NAMES = [
    "~5",
    "~",
    "~ 5/6",
    "and/or",
    "5 / 3",
    "w/ prompt",
    "me/data",
    "https://example.com/a?b=c#d",
    "http://localhost:8000/v1",
    "s3://bucket/x",
    "gs://bucket/x",
    "hf://datasets/me/x",
    "C: a drive",
    "ratio 1:2",
    "\\d+\\.\\w",
    "a\\b",
    "...",
    "100%",
    "diq select scored --output subset --ratio 0.1",
    "medical.qa/hard",
    "<b>x</b>",
    "hf_tokenizer",
    "hf_hub_download_path_something_long",
    "from_hf_transformers_checkpoint_to_something",
    "hf_" + "a" * 33 + "_b",
    "hf_oauth_expiration_minutes_of_a_space",
    "api_org_something_that_is_a_long_name",
]
TOKENS = [
    "hf_secret",
    "see hf_secret.",
    "hf_" + "a" * 34,
    "Bearer%20hf_" + "b" * 34,
    "https://me:hf_" + "Ab1" * 12 + "@huggingface.co",
    '{"text": "a\\nhf_' + "c" * 34 + '"}',  # after a line break in JSON, as a page holds its rows
    "api_org_" + "d" * 34,
    "hf_oauth_eyJ" + "hbGciOiJFZERTQSJ9.eyJ" * 2,
    "hf_jwt_eyJ" + "hbGciOiJFZERTQSJ9.eyJ" * 2,
]


@pytest.mark.parametrize("text", PATHS)
def test_paths_are_refused_as_values_and_as_names(text):
    for value in (text, [text], {"a": {"b": [text]}}):
        with pytest.raises(ValueError, match=r"^recipe.* holds a local path"):
            refuse_private({"x": value}, None)
    with pytest.raises(ValueError, match=r"^a name in recipe\['x'\] holds a local path"):
        refuse_private({"x": {text: 1}}, None)


@pytest.mark.parametrize("text", NAMES)
def test_names_are_not(text):
    refuse_private({"x": [text, {text: text}]}, "hf_secret")


@pytest.mark.parametrize("text", TOKENS)
def test_tokens(text):
    with pytest.raises(ValueError, match="holds a token"):
        refuse_private({"x": text}, "hf_secret")
