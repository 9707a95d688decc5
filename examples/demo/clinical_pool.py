"""A small pool of clinical reasoning rows whose hidden facts are known, and a clean validation set beside it.

``clinical_pool()`` gives 120 rows in chat form (``prompt`` and ``completion``), in a shuffled order:

* 66 ``generated``: the templates below, with numbers and choices drawn from the seed and the answers computed;
* 18 ``handwritten``: single cases written by hand;
* 12 ``trivial``: one short fact each;
* 12 ``duplicate``: exact copies of a generated or handwritten row;
* 12 ``corrupted``: the prompt of such a row under a spoiled answer (another row's answer, shuffled words, a wrong
  final answer, or a text that breaks off and starts again; three of each).

``clinical_pool(small=True)`` gives 40 shorter ones: 20, 5, 5, 5 and 5 of these kinds, of at most three steps.

``clinical_validation()`` gives 24 clean rows, 8 of them from templates held out of the pool and 16 from templates of
the pool with other parameters: the two sets draw from the even and the odd places of every number range, so
they share no vignette whatever the seeds. Its small form has 7 rows.

The other columns are for the reader and never for the scorer: ``steps`` is the number of reasoning steps written in
the answer (1 to 6), ``knowledge`` is ``common`` or ``rare``, ``source_id`` names the row a copy was made from (else
the row itself). A corrupted row keeps ``steps``, ``knowledge`` and ``topic`` of its source.

The cases stand in ``clinical_cases.jsonl`` and were written for it; the patients are invented. Nothing here is
medical advice.
"""

import json
import random
import re
from pathlib import Path
from typing import NamedTuple

from clinical_numbers import NUMBERS, Draw


class Case(NamedTuple):
    """A case, before or after its braces are filled in."""

    template: str
    topic: str
    knowledge: str
    question: str
    steps: tuple[str, ...]
    answer: str
    extras: tuple[tuple[str, str, str], ...]  # optional further steps, each as (question, step, part of the answer)


def read_cases() -> list[Case]:
    """Every case of the file; its braces as `fill` says."""
    lines = (Path(__file__).parent / "clinical_cases.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    return [
        Case(**case | {"steps": tuple(case["steps"]), "extras": tuple(map(tuple, case["extras"]))}) for case in cases
    ]


CASES = read_cases()
# Each template with the numbers of steps of the rows made from it.
TEMPLATES = {
    "anion_gap": (4, 5, 6),
    "sodium": (2, 2, 3),
    "osmolar_gap": (4, 5, 6),
    "renal_dose": (3, 3, 4),
    "calcium": (2, 2, 3, 4),
    "gas_exchange": (3, 3, 4, 5),
    "child_fluid": (2, 3),
    "burn": (4, 5, 6),
    "long_qt": (2, 3, 3, 4),
    "probability": (4, 4, 5),
    "iron": (1, 2, 2, 3),
    "thyroid": (1, 1, 2, 3),
    "hepatitis": (1, 1, 2),
    "shock": (1, 1, 2, 3),
    "porphyria": (1, 4, 6),
    "wilson": (1, 3, 5),
    "urea cycle": (1, 3, 5, 6),
    "whipple": (1, 2, 4),
    "encephalitis": (1, 3, 5),
    "neoplasia": (4, 5, 6),
}
SMALL_TEMPLATES = {
    **dict.fromkeys(("osmolar_gap", "gas_exchange", "probability", "encephalitis"), (3,)),
    **dict.fromkeys(("anion_gap", "calcium", "long_qt"), (2,)),
    **dict.fromkeys(("iron", "thyroid"), (1, 2)),
    **dict.fromkeys(("hepatitis", "shock", "wilson", "urea cycle"), (1, 3)),
    "sodium": (1,),
}
VALIDATION = {
    "water_deficit": (4, 5),  # held out of the pool, like the next three
    "purpura": (3, 4),
    "angioedema": (3, 4),
    "adrenal": (3, 5),
    "anion_gap": (4, 5),
    "osmolar_gap": (4,),
    "renal_dose": (3,),
    "gas_exchange": (4,),
    "calcium": (3,),
    "sodium": (2,),
    "burn": (5,),
    "long_qt": (3,),
    "probability": (4,),
    "porphyria": (3, 5),
    "wilson": (3,),
    "urea cycle": (4,),
    "encephalitis": (3,),
    "neoplasia": (4,),
}
SMALL_VALIDATION = {
    **dict.fromkeys(("purpura", "angioedema", "adrenal"), (3,)),
    **dict.fromkeys(("long_qt", "wilson", "urea cycle", "encephalitis"), (2,)),
}
SYNONYMS = (
    ("What is the diagnosis?", "Which disease is this?", "What is the most likely diagnosis?", "Name the diagnosis."),
    (" means that ", " shows that ", " tells us that "),
    (" mean that ", " show that ", " tell us that "),
    (" suggests a ", " points to a "),
    (" suggest a ", " point to a "),
    (", so ", ", and so ", ", hence "),
    (", because ", ", as ", ", since "),
    (" shows ", " reveals "),
)


def fill(draw: Draw, text: str, known: dict[str, str]) -> str:
    """``{x}`` puts a known value, ``{4..9}`` draws a number, ``{a|b}`` a phrase; ``{x=...}`` also makes it known.

    Of four phrases or more, the pool and the validation set take every other one.
    """
    for phrases in SYNONYMS:
        text = text.replace(phrases[0], draw.pick(*phrases))

    def value(match: re.Match) -> str:
        name, body = match.groups()
        if body in known:
            return known[body]
        if ".." in body:
            scale = 10 if "." in body.replace("..", "") else 1
            drawn = str(draw.num(*(round(float(bound) * scale) for bound in body.split(".."))) / scale)
            drawn = drawn if scale == 10 else drawn[:-2]
        else:
            options = body.split("|")
            drawn = draw.pick(*(options[draw.half :: 2] if len(options) > 3 else options))
        known[name or ""] = drawn
        return drawn

    return re.sub(r"\{(?:(\w+)=)?([^{}]*)\}", value, text)


def filled(draw: Draw, case: Case, depth: int) -> Case:
    """The case with ``depth`` steps: extras join when it has fewer, and its first steps go when it has more."""
    known = NUMBERS[case.template](draw) if case.template in NUMBERS else {}
    known = {name: str(value) for name, value in known.items()}
    extras = case.extras[: max(0, depth - len(case.steps))]
    question = fill(draw, " ".join([case.question, *(extra[0] for extra in extras)]), known)
    steps = tuple(fill(draw, step, known) for step in (*case.steps[-depth:], *(extra[1] for extra in extras)))
    answer = fill(draw, "; ".join([case.answer, *(extra[2] for extra in extras)]), known)
    return case._replace(question=question, steps=steps, answer=answer, extras=())


def answer_text(draw: Draw, case: Case) -> str:
    """The steps and the answer, numbered or in prose; whatever the style, the text ends in a colon and the answer."""
    style, steps = draw.pick("lines", "inline", "prose"), [step[0].upper() + step[1:] for step in case.steps]
    if style == "lines":
        return "\n".join([*(f"{i}. {step}" for i, step in enumerate(steps, 1)), f"Answer: {case.answer}."])
    if style == "inline":
        return " ".join([*(f"Step {i}: {step}" for i, step in enumerate(steps, 1)), f"Answer: {case.answer}."])
    if len(steps) > 1:
        links = [*("First", "Next", "Then", "After that", "In addition")[: len(steps) - 1], "Finally"]
        steps = [f"{link}, {step}" for link, step in zip(links, case.steps, strict=True)]
    return " ".join([*steps, f"Therefore the answer is: {case.answer}."])


def make_row(kind: str, question: str, answer: str, steps: int, knowledge: str, topic: str) -> dict:
    talk = {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
    }
    return {"id": "", **talk, "steps": steps, "knowledge": knowledge, "kind": kind, "topic": topic}


def case_row(draw: Draw, kind: str, case: Case, depth: int) -> dict:
    case = filled(draw, case, depth)
    wish = draw.pick("", " Answer briefly." if depth == 1 else " Reason step by step.", " Explain.")
    return make_row(kind, case.question + wish, answer_text(draw, case), depth, case.knowledge, case.topic)


def generated_rows(draw: Draw, templates: dict[str, tuple[int, ...]]) -> list[dict]:
    rows = []
    for name, depths in templates.items():
        cases = [case for case in CASES if case.template == name]
        rows += [case_row(draw, "generated", draw.deal(*cases), depth) for depth in depths]
    return rows


def spoil(rng: random.Random, how: int, text: str, other: str) -> str:
    """A visibly wrong version of an answer; ``other`` is the answer of a row on another topic."""
    if how == 0:  # an answer to something else
        return other
    words = text.split()
    if how == 1:  # the same words in random order
        return " ".join(rng.sample(words, len(words)))
    if how == 2:  # the reasoning stays, the final answer is wrong: numbers tenfold, or what the other row concludes
        reasoning, colon, answer = text.rpartition(": ")
        wrong = re.sub(r"(?<![\w-])\d+(\.\d+)?(?![\w-])", lambda number: f"{10 * float(number[0]):g}", answer)
        return reasoning + colon + (other.rpartition(": ")[2] if wrong == answer else wrong)
    part = " ".join(words[: max(6, int(0.45 * len(words)))]).rstrip(".,:;")  # breaks off and starts again
    return f"{part} {part}"


def clinical_pool(seed: int = 0, small: bool = False) -> list[dict]:
    templates, spoiled = (SMALL_TEMPLATES, 5) if small else (TEMPLATES, 12)
    rng = random.Random(seed)
    draw = Draw(rng, half=0)
    rows = generated_rows(draw, templates)
    by_hand, facts = ([case for case in CASES if case.template == kind] for kind in ("hand", "trivial"))
    if small:
        by_hand, facts = sorted(by_hand, key=lambda case: len(case.steps))[:5], facts[:5]
    rows += [case_row(draw, "handwritten", case, len(case.steps)) for case in by_hand]
    chosen = rng.sample(range(len(rows)), len(rows))
    copied, reasoned = chosen[:spoiled], [i for i in chosen[spoiled:] if rows[i]["steps"] > 1][:spoiled]
    real = rows[:]
    rows += [make_row("trivial", case.question, case.answer, 1, case.knowledge, case.topic) for case in facts]
    sources = [*range(len(rows)), *copied, *reasoned]
    rows += [real[i] | {"kind": "duplicate"} for i in copied]
    for n, i in enumerate(reasoned):
        others = [row for row in real if row["topic"] != real[i]["topic"] and row["steps"] > 1]
        text, other = (row["completion"][0]["content"] for row in (real[i], rng.choice(others)))
        wrong = [{"role": "assistant", "content": spoil(rng, n % 4, text, other)}]
        rows.append(real[i] | {"kind": "corrupted", "completion": wrong})
    order = rng.sample(range(len(rows)), len(rows))
    ids = {old: f"c{new:03d}" for new, old in enumerate(order)}
    return [rows[old] | {"id": ids[old], "source_id": ids[sources[old]]} for old in order]


def clinical_validation(seed: int = 1, small: bool = False) -> list[dict]:
    rng = random.Random(seed)
    rows = generated_rows(Draw(rng, half=1), SMALL_VALIDATION if small else VALIDATION)
    rng.shuffle(rows)
    for i, row in enumerate(rows):
        row["id"] = f"v{i:03d}"
        del row["kind"]
    return rows
