"""Clinical questions with known levels of difficulty, to see whether a classifier learns more than words.

``clinical_levels()`` gives seeded rows with a ``prompt`` (a string), its ``template`` (one of 16) and three levels
from 1 to 5:

* ``reasoning``: one step for the question itself and one for each of the four findings it rests on that is still
  missing. Half of the findings stand beside an item that does not matter (``FILLERS``), and the sentence says which of
  the two is missing; the other way round it has the same words, so a bag of words cannot tell the two apart. It can
  for the other half.
* ``knowledge``: how rare the patient's disease is (``DISEASES``, our own grading). A second disease, of any other
  level, is only said to be ruled out, and which is which shows in the order of the words alone.
* ``overall``: the mean of both, rounded up.

The findings and the setting belong to the template, so that held-out templates ask about things never seen in
training. Diseases, fillers and sentence frames are shared by all templates.

All text was written for this file; the patients are invented. Nothing here is medical advice.

    python examples/benchmarks/clinical_levels.py levels.jsonl
"""

import argparse
import json
import random
from pathlib import Path


DISEASES = (
    ("a common cold", "a sprained ankle", "hay fever", "a stomach bug", "head lice", "a mild sunburn"),
    ("high blood pressure", "type 2 diabetes", "asthma", "a urinary tract infection", "migraine", "gout"),
    (
        "ulcerative colitis",
        "Graves disease",
        "temporal arteritis",
        "sarcoidosis",
        "coeliac disease",
        "aortic stenosis",
    ),
    (
        "myasthenia gravis",
        "Wilson disease",
        "phaeochromocytoma",
        "Takayasu arteritis",
        "hereditary angioedema",
        "acromegaly",
    ),
    (
        "Erdheim-Chester disease",
        "Whipple disease",
        "stiff person syndrome",
        "lipoid proteinosis",
        "Susac syndrome",
        "Gitelman syndrome",
    ),
)
# Each frame in both orders: beside a disease or an item stand the same words, whatever is said about it.
CASES = (
    "Here {true} is real and {other} is not.",
    "Here {other} is not real and {true} is.",
    "Although {other} was feared, {true} was found.",
    "Although {true} was found, {other} was feared.",
    "The note about {true} was right, the note about {other} was wrong.",
    "The note about {other} was wrong, the note about {true} was right.",
)
FILLERS = (
    "the visitor list",
    "the meal plan",
    "the bed number",
    "the parking permit",
    "the phone charger",
    "the insurance form",
    "the room key",
    "the laundry bag",
    "the television card",
    "the taxi receipt",
)
# A finding alone, missing or there, and beside an item that is the other.
FINDINGS = (
    ("We lack {missing}.", "We have {there}.", "We have {there} but lack {missing}."),
    ("{missing} is unknown.", "{there} is known.", "{missing} is unknown while {there} is known."),
    ("The notes omit {missing}.", "The notes give {there}.", "The notes give {there} and omit {missing}."),
    ("Someone forgot {missing}.", "Someone sent {there}.", "Someone forgot {missing} and sent {there}."),
)
# Template: the setting, the question, and the four findings it rests on.
TEMPLATES = {
    "dosing": (
        "On the renal ward",
        "Which dose of vancomycin is safe?",
        ("the creatinine clearance", "the lean weight", "the trough level", "the loading dose"),
    ),
    "acid-base": (
        "In the emergency room",
        "Which acid-base disorder is hidden here?",
        ("the anion gap", "the delta ratio", "the expected carbon dioxide", "the lactate"),
    ),
    "sodium": (
        "After a night of vomiting",
        "How fast may sodium be corrected?",
        ("the corrected sodium", "the urine osmolality", "the volume status", "the water deficit"),
    ),
    "stroke": (
        "On the stroke unit",
        "Should the clot be dissolved?",
        ("the time of onset", "the infarct core", "the bleeding risk", "the stroke score"),
    ),
    "heart": (
        "In the cardiac clinic",
        "Is a defibrillator warranted?",
        ("the ejection fraction", "the corrected QT", "the family history", "the functional class"),
    ),
    "lung": (
        "Before chest surgery",
        "How much lung may be removed?",
        ("the diffusing capacity", "the split perfusion", "the predicted FEV1", "the oxygen uptake"),
    ),
    "fluid": (
        "In the burns centre",
        "Which infusion rate is due now?",
        ("the burned area", "the hours since injury", "the Parkland volume", "the urine output"),
    ),
    "child": (
        "On the children's ward",
        "Is this child growing as it should?",
        ("the height percentile", "the bone age", "the parental target height", "the growth velocity"),
    ),
    "pregnancy": (
        "At the antenatal visit",
        "When should labour be induced?",
        ("the gestational age", "the fetal weight", "the cervical score", "the Doppler flow"),
    ),
    "anaemia": (
        "In the blood clinic",
        "What drives this anaemia?",
        ("the reticulocyte index", "the iron saturation", "the haptoglobin", "the smear"),
    ),
    "test": (
        "Reading a screening result",
        "How likely is disease now?",
        ("the prior odds", "the likelihood ratio", "the specificity", "the posterior odds"),
    ),
    "liver": (
        "In the transplant meeting",
        "Should this patient be listed?",
        ("the MELD score", "the portal pressure", "the tumour load", "the bilirubin trend"),
    ),
    "toxicology": (
        "After an overdose",
        "Is the antidote needed?",
        ("the ingested amount", "the time of ingestion", "the nomogram line", "the clotting time"),
    ),
    "ventilator": (
        "In intensive care",
        "How should the ventilator be set?",
        ("the ideal body weight", "the driving pressure", "the shunt fraction", "the lung compliance"),
    ),
    "bone": (
        "In the fracture service",
        "Who gets which bone drug?",
        ("the bone density", "the fracture risk", "the vitamin D level", "the kidney function"),
    ),
    "infection": (
        "On the infection round",
        "May antibiotics be stopped?",
        ("the culture result", "the source control", "the procalcitonin trend", "the MIC"),
    ),
}


def clinical_levels(rows_per_template: int = 75, seed: int = 0) -> list[dict]:
    """Rows of all templates in a shuffled order; each pair of levels about as often as any other."""
    rng = random.Random(seed)
    rows = []
    for template, (setting, question, findings) in TEMPLATES.items():
        pairs = [(knowledge, reasoning) for knowledge in range(1, 6) for reasoning in range(1, 6)]
        drawn = [pair for _ in range(-(-rows_per_template // 25)) for pair in rng.sample(pairs, 25)]
        for knowledge, reasoning in drawn[:rows_per_template]:
            other = rng.choice([level for level in range(1, 6) if level != knowledge])
            diseases = {"true": rng.choice(DISEASES[knowledge - 1]), "other": rng.choice(DISEASES[other - 1])}
            missing = set(rng.sample(findings, reasoning - 1))
            sentences = []
            frames = rng.sample(FINDINGS, 4)
            for finding, filler, frame in zip(rng.sample(findings, 4), rng.sample(FILLERS, 4), frames, strict=True):
                is_missing = finding in missing
                roles = {"missing": finding, "there": filler} if is_missing else {"missing": filler, "there": finding}
                alone = rng.random() < 0.5
                text = frame[(0 if is_missing else 1) if alone else 2].format(**roles)
                sentences.append(text[0].upper() + text[1:])
            case = rng.choice(CASES).format(**diseases)
            person = f"a {rng.randint(19, 79)}-year-old {rng.choice(['man', 'woman'])}"
            rows.append(
                {
                    "prompt": " ".join([f"{setting}, {person}.", case, *sentences, question]),
                    "template": template,
                    "knowledge": knowledge,
                    "reasoning": reasoning,
                    "overall": (knowledge + reasoning + 1) // 2,
                }
            )
    rng.shuffle(rows)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows_per_template", type=int, default=75)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = clinical_levels(options.rows_per_template, options.seed)
    options.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{len(rows)} rows in {options.path}")
