"""Leaks against every pair counted by scikit-learn, and planted ones of each kind."""

import random

import pytest
from datasets import Dataset
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import jaccard_score

from diq_hf.selection.leakage import Leak, find_leaks


QUESTIONS = [
    "A patient with fever and a new murmur needs which test before antibiotics are started?",
    "How is the anion gap computed from sodium, chloride and bicarbonate in a blood sample?",
    "Which drug lowers potassium the fastest in a man with peaked T waves on his ECG?",
    "What is COVID-19?",
]
ANSWERS = [
    "Blood cultures, at least two, from different sites.",
    "Sodium less chloride and bicarbonate; about 8 to 12 is usual.",
    "Insulin with glucose moves it into cells within 15 minutes.",
    "A disease of the airways by SARS-CoV-2.",
]


def rows(*pairs) -> Dataset:
    return Dataset.from_list([{"prompt": prompt, "completion": answer} for prompt, answer in pairs])


@pytest.fixture(scope="module")
def pool():
    return rows(*zip(QUESTIONS, ANSWERS, strict=True))


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((QUESTIONS[1], ANSWERS[1]), (1, 1.0, "row")),
        ((QUESTIONS[1].upper().replace(",", " - "), f"  {ANSWERS[1].lower()[:-1]}!\n"), (1, 1.0, "row")),
        ((QUESTIONS[1], "It is not."), (1, 1.0, "prompt")),
        (("what is covid 19", "A virus."), (3, 1.0, "prompt")),
        ((QUESTIONS[2] + " Say why.", "Calcium does."), (2, 13 / 15, "prompt")),
        ((QUESTIONS[0], ANSWERS[0] + " Then wait."), (0, 8 / 10, "row")),
    ],
)
def test_kinds(pool, other, expected):
    row, similarity, by = expected
    (leak,) = find_leaks(pool, rows(("Something else altogether, is it not?", "Yes."), other))
    assert leak == Leak(row, 1, pytest.approx(similarity), by)


def test_other_formats_and_none(pool):
    chats = Dataset.from_list(
        [
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": QUESTIONS[2]},
                    {"role": "assistant", "content": "Insulin."},
                ]
            }
        ]
    )
    assert [(leak.pool_row, leak.by) for leak in find_leaks(pool, chats)] == [(2, "prompt")]
    text = Dataset.from_dict({"text": [f"{QUESTIONS[0]}\n{ANSWERS[0]}", QUESTIONS[1]]})
    assert [(leak.pool_row, leak.other_row, leak.by) for leak in find_leaks(pool, text)] == [(0, 0, "row")]
    assert find_leaks(pool, rows(("How old is the universe, roughly?", ANSWERS[3]))) == []
    assert find_leaks(pool.select([]), pool) == [] == find_leaks(pool, pool.select([]))


def test_questions_with_and_without_options(pool):
    """Validation rows have options, and the pool that was made of the same questions has none (or the reverse)."""
    options = ["\n\nA. Insulin\nB. Calcium\nC. Dialysis", "\n(a) Calcium\n\n(b) Insulin\n", "\n1) Calcium\n2) Insulin"]
    for shown in options:
        others = rows(("Something else, is it not?" + shown, "A."), (QUESTIONS[2].upper() + shown, "A. Insulin"))
        expected = [Leak(2, 1, 1.0, "prompt")]
        assert find_leaks(pool, others) == expected
        assert [(leak.other_row, leak.pool_row) for leak in find_leaks(others, pool)] == [(2, 1)]
    # With two sets of options they are two questions.
    asked = "Which of these is a virus of the airways?"
    one, two = (
        rows((f"{asked}\n\nA. {a}\nB. {b}", "A")) for a, b in (("flu", "tinea capitis"), ("mumps virus", "lice"))
    )
    assert find_leaks(one, two) == [] and len(find_leaks(one, one)) == 1


def test_signs_are_no_punctuation():
    sums = rows(("What is 5 + 3?", "8"), ("What is 5-3?", "2"), ("Is x = y?", "No"))
    assert find_leaks(sums, rows(("What is 5 - 3", "two"), ("Is x < y?", "No"))) == [Leak(1, 0, 1.0, "prompt")]


def test_one_instruction_is_no_leak():
    """A long template before short questions, with answers of one word: only the same question leaks."""
    template = "You are a careful doctor. Read the abstract below and answer with yes, no or maybe, nothing else. "
    names = [f"drug{i} {chr(97 + i % 26)}{i} in illness{i} of group{i % 9}" for i in range(400)]
    pool = rows(*((f"{template}Does {name} help?", "yes") for name in names))
    others = rows((f"{template}Does {names[7]} help?", "no"), (f"{template}Does water in thirst help?", "yes"))
    assert find_leaks(pool, others) == [Leak(7, 0, 1.0, "prompt")]


@pytest.mark.parametrize("threshold", [0.4, 0.7, 1])
def test_against_every_pair(threshold):
    rng = random.Random(0)
    vocabulary = [f"word{i}" for i in range(500)]
    texts = [" ".join(rng.choices(vocabulary, k=rng.randint(20, 60))) for _ in range(15)]
    changed = []
    for text in texts:
        words = text.split()
        for _ in range(rng.randint(0, 6)):
            words[rng.randrange(len(words))] = rng.choice(vocabulary)
        changed.append(" ".join(words))
    counts = CountVectorizer(ngram_range=(4, 4), binary=True).fit_transform([*texts, *changed]).toarray()
    shares = {(i, j): jaccard_score(counts[i], counts[15 + j]) for i in range(15) for j in range(15)}
    expected = {pair: share for pair, share in shares.items() if share >= threshold}
    assert expected
    found = find_leaks(Dataset.from_dict({"text": texts}), Dataset.from_dict({"text": changed}), threshold)
    assert {(leak.pool_row, leak.other_row): leak.similarity for leak in found} == pytest.approx(expected)


def test_refusals(pool):
    with pytest.raises(ValueError, match="share in \\(0, 1\\]"):
        find_leaks(pool, pool, 0)
    with pytest.raises(ValueError, match="text_columns"):
        find_leaks(Dataset.from_dict({"a": ["b"]}), pool)
