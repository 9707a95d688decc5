"""Duplicates against every pair counted by scikit-learn."""

import random

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import jaccard_score

from diq_hf.selection.duplicates import exact_duplicates, near_duplicates


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_near_duplicates(threshold):
    rng = random.Random(0)
    words = [f"word{i}" for i in range(500)]
    texts = [" ".join(rng.choices(words, k=rng.randint(20, 60))) for _ in range(20)]
    for text in texts[:10]:  # copies with more and more changed
        changed = text.split()
        for _ in range(rng.randint(0, 6)):
            changed[rng.randrange(len(changed))] = rng.choice(words)
        texts.append(" ".join(changed))
    counts = CountVectorizer(ngram_range=(4, 4), binary=True).fit_transform(texts).toarray()
    expected = {}
    for i in range(len(texts)):
        for j in range(i + 1, len(texts)):
            share = jaccard_score(counts[i], counts[j])
            if share >= threshold and texts[i] != texts[j]:
                expected[i, j] = share
    assert expected
    found = near_duplicates(texts, threshold)
    assert {(i, j): share for i, j, share in found} == pytest.approx(expected)
    assert np.all(np.diff([share for *_, share in found]) <= 0)


def test_a_part_is_as_near_as_its_share():
    words = list("abcdefghijklm")  # 10 runs of four, and 7 in the first ten words
    pair = [" ".join(words), " ".join(words[:10])]
    assert near_duplicates(pair, 0.7) == [(0, 1, 0.7)] and near_duplicates(pair, 0.71) == []


def test_texts_without_spaces_and_short_ones():
    a, b = "低钠血症患者应缓慢纠正血钠浓度以避免渗透性脱髓鞘", "低钠血症患者应缓慢纠正血钠浓度以避免渗透性脑病"
    assert [pair[:2] for pair in near_duplicates([a, "完全不同的一句话没有相同之处", b], 0.6)] == [(0, 2)]
    assert near_duplicates(["yes", "no", "", "a b"], 0.5) == []


def test_exact_duplicates():
    assert exact_duplicates(["A b", "c", " a\nB ", "ﬁne", "Fine", "c d"]) == [[0, 2], [3, 4]]
    assert near_duplicates(["A b c d e", "a  b C d e"], 0.1) == []  # the same, so not nearly
