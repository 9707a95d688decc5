"""Readers of benchmarks on rows in the shape that the Hub has them in."""

import pytest

from diq_hf.rows.benchmarks import BENCHMARKS, choice_row, read_question, sample
from diq_hf.rows.encoded import RowError


FOUR = {"A": "Iron", "B": "HIV", "C": "Zinc", "D": "None"}
ASKED = "Which is a virus?"
SHOWN = f"{ASKED}\n\nA. Iron\nB. HIV\nC. Zinc\nD. None"
GPQA = {"Question": ASKED, "Correct Answer": "HIV", "High-level domain": "Biology", "Explanation": "It is."} | {
    f"Incorrect Answer {i}": text for i, text in ((1, "Iron"), (2, "Zinc"), (3, "None"))
}
HUB = {
    "gpqa": (GPQA | {"Subdomain": "Genetics"}, GPQA | {"Subdomain": "Organic Chemistry"}),
    "hle": (
        {
            "question": SHOWN,
            "image": "",
            "answer": "B",
            "answer_type": "multipleChoice",
            "category": "Biology/Medicine",
        },
        {"question": SHOWN, "image": "data:image/png;base64,", "answer": "B", "category": "Biology/Medicine"},
    ),
    "medbullets": (
        {"idx": "0", "question": ASKED, "options": FOUR | {"E": ""}, "answer": "B", "explanation": ""},
        None,
    ),
    "medmcqa": (
        {
            "id": "x",
            "question": ASKED,
            "opa": "Iron",
            "opb": "HIV",
            "opc": "Zinc",
            "opd": "None",
            "cop": 1,
            "exp": None,
        },
        {"id": "y", "question": ASKED, "opa": "Iron", "opb": "HIV", "opc": "Zinc", "opd": "None", "cop": -1},
    ),
    "medqa": ({"question": ASKED, "answer": "HIV", "options": FOUR, "meta_info": "step1", "answer_idx": "B"}, None),
    "medxpertqa": (
        {"id": "Text-1", "question": f"{ASKED}\nAnswer Choices: (A) Iron (B) HIV", "options": FOUR, "label": "B"},
        None,
    ),
    "mmlu-pro-health": (
        {"question": ASKED, "options": list(FOUR.values()), "answer": "B", "answer_index": 1, "category": "health"},
        {"question": ASKED, "options": list(FOUR.values()), "answer": "B", "answer_index": 1, "category": "law"},
    ),
    "pubmedqa": (
        {
            "pubid": 1,
            "question": "Does it help?",
            "context": {"contexts": ["It was tried.", "It helped."], "labels": ["A", "B"], "meshes": []},
            "long_answer": "It does.",
            "final_decision": "yes",
        },
        None,
    ),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks(name):
    row, passed_over = HUB[name]
    made = BENCHMARKS[name].read(row)
    (asked,), (answer,) = made["prompt"], made["completion"]
    assert (asked["role"], answer["role"]) == ("user", "assistant")
    if name == "pubmedqa":
        assert asked["content"] == "It was tried.\nIt helped.\n\nDoes it help?\n\nA. yes\nB. no\nC. maybe"
        assert answer["content"] == "A. yes"
    elif name == "gpqa":  # in an order that gives nothing away
        assert answer["content"][3:] == "HIV" and answer["content"] in asked["content"].split("\n")
        assert sorted(line[3:] for line in asked["content"].split("\n")[2:]) == sorted(FOUR.values())
    else:
        assert asked["content"] == SHOWN and answer["content"] in ("B. HIV", "B")
    assert passed_over is None or BENCHMARKS[name].read(passed_over) is None


@pytest.mark.parametrize("answer", ["B", "b", "(B)", " B. ", 1, "HIV"])
def test_answers(answer):
    assert choice_row(ASKED, FOUR, answer) == choice_row(ASKED, list(FOUR.values()), 1)
    assert choice_row(ASKED, FOUR, answer)["completion"][0]["content"] == "B. HIV"


@pytest.mark.parametrize(
    ("options", "answer", "error"),
    [
        (FOUR, "E", "none of its options"),
        (FOUR, 4, "none of"),
        (FOUR, None, "none of"),
        (FOUR, True, "none of"),
        (["a"], 0, "1 options"),
        (["", "a", "b"], 0, "an option that is empty"),
        ("A. a\nB. b", "A", "are one string"),  # not a list of letters
    ],
)
def test_bad_choices(options, answer, error):
    with pytest.raises(RowError, match=error):
        choice_row(ASKED, options, answer)


def test_options_keep_their_places():
    """An empty one moves no other, a number that is a name is one, and ARC's `label` and `text` are two lists."""
    assert choice_row(ASKED, ["", "HIV", "E. coli"], 1)["completion"][0]["content"] == "A. HIV"
    assert choice_row(ASKED, {"1": "HIV", "2": "E. coli"}, 1)["completion"][0]["content"] == "A. HIV"
    arc = {"question": ASKED, "choices": {"text": list(FOUR.values()), "label": list(FOUR)}, "answerKey": "B"}
    assert read_question(arc) == choice_row(ASKED, FOUR, "B")


def test_rows_of_ones_own():
    chat = {"prompt": [{"role": "user", "content": "Why?"}], "completion": [{"role": "assistant", "content": "So."}]}
    for row in (
        {"prompt": "Why?", "completion": "So."},
        {"question": "Why?", "answer": "So."},
        {"question": "Why?", "options": None, "answer": "So."},  # mixed with choices in one file
        {"messages": chat["prompt"] + chat["completion"]},
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
        {"Question": "Why?", "Complex_CoT": "Hm.", "Response": "So."},
        chat,
    ):
        made = read_question(row)
        assert made["prompt"] == chat["prompt"] and made["completion"][0]["content"].endswith("So.")
    assert (
        read_question({"question": ASKED, "choices": list(FOUR.values()), "answer": 1})["completion"][0]["content"]
        == "B. HIV"
    )
    for row, error in (
        ({"a": "b"}, "no known format"),
        ({"messages": chat["prompt"]}, "no question followed by an answer"),
        ({"question": ASKED, "options": FOUR, "answer": "Z"}, "none of its options"),
    ):
        with pytest.raises(RowError, match=error):
            read_question(row)


def test_sample():
    taken = sample(100, 20, "medqa")
    assert taken == sample(100, 20, "medqa") == sorted(set(taken)) and len(taken) == 20 and max(taken) < 100
    assert taken != sample(100, 20, "medmcqa") and taken != sample(100, 20, "medqa", seed=1)
