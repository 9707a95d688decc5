"""BM25 against its formula, term by term."""

import math
import re
import sys

import numpy as np
import pytest
from conftest import SENTENCES, chat
from datasets import Dataset

from diq_hf.comparison.bm25 import rank
from diq_hf.comparison.pool import Pool, Scoring
from diq_hf.comparison.rankings import add_rankings
from diq_hf.comparison.strategies import Strategy
from diq_hf.comparison.training import Training
from diq_hf.rows.formats import RowEncoder


POOL = [*SENTENCES, "Potassium, potassium and potassium!", "", "?", "fever " * 5 + SENTENCES[0]]
QUERIES = {
    "a": ["Which drug lowers potassium? Which?", "blood cultures"],
    "b": ["The anion gap", "...", "The sodium of Zanzibar"],
}


def words(text):
    return [word for word in re.findall(r"\w+", text.lower()) if len(word) > 1]


def bm25(query, documents, k1=1.5, b=0.75):
    """Lucene's: idf · tf / (tf + k1 (1 - b + b length / mean length)), summed over the words of the query."""
    mean = sum(map(len, documents)) / len(documents)
    found = []
    for document in documents:
        score = 0.0
        for word in query:
            with_it = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - with_it + 0.5) / (with_it + 0.5))
            count = document.count(word)
            score += idf * count / (count + k1 * (1 - b + b * len(document) / mean))
        found.append(score)
    return np.array(found)


def test_scores_are_those_of_the_formula():
    documents = [words(text) for text in POOL]
    means = {
        group: np.mean([bm25(words(query), documents) for query in queries], axis=0)
        for group, queries in QUERIES.items()
    }
    assert np.allclose(rank(POOL, QUERIES), np.maximum(means["a"], means["b"]), rtol=1e-12)
    assert np.allclose(rank(POOL, QUERIES["a"]), means["a"], rtol=1e-12)
    assert rank(POOL, QUERIES["a"]).argmax() in (2, 4)


def test_what_has_no_words_is_refused():
    with pytest.raises(ValueError, match="no validation texts"):
        rank(POOL, [])
    with pytest.raises(ValueError, match="a group has none"):
        rank(POOL, {"a": ["x y"], "b": []})
    with pytest.raises(ValueError, match="no words"):
        rank(["", "?"], QUERIES)
    with pytest.raises(ValueError, match="no words"):
        rank(POOL, ["?"])


def test_without_the_package_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ImportError, match=r"diq-hf\[compare\]"):
        rank(POOL, QUERIES)


def test_words_of_the_chat_template_find_nothing(model, tokenizer, tmp_path):
    """Here `user` and `assistant`, which every row has once it is rendered."""
    rows = [
        chat("Who may edit?", "The user, the assistant, the user."),
        *(chat(f"{i}?", SENTENCES[i]) for i in range(4)),
    ]
    wanted = {"a": [chat("How?", SENTENCES[3])], "b": [{"text": SENTENCES[2]}, chat("What?", "No such words")]}
    encoder = RowEncoder(tokenizer)
    pool = Pool(Dataset.from_list(rows), tuple(map(encoder, rows)), {}, {}, Scoring(wanted, "ifd", encoder))
    asked = [Strategy.parse("bm25")]
    found = add_rankings(pool, asked, Training("unused", {"use_cpu": True}), (model, tokenizer), tmp_path)
    texts = [" ".join(encoder.texts(row)) for row in rows]
    expected = rank(texts, {"a": [f"How? {SENTENCES[3]}"], "b": [SENTENCES[2], "What? No such words"]})
    assert np.allclose(found.scored["bm25"][:], expected)
    assert expected[0] < expected[3:].min()
