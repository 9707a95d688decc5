"""Seeded choices, and what templates with arithmetic compute: each function gives the names that its text uses."""

import math
import random


class Draw:
    """Seeded choices. ``half`` 0 (pool) or 1 (validation) picks the even or the odd places of a number range."""

    def __init__(self, rng: random.Random, half: int):
        self.rng, self.half, self.decks = rng, half, {}

    def num(self, low: int, high: int, step: int = 1) -> int:
        return self.rng.choice(range(low, high + 1, step)[self.half :: 2])

    def pick(self, *options):
        return self.rng.choice(options)

    def deal(self, *options):
        """Like ``pick``, but an option returns only after all the others were dealt."""
        if not self.decks.get(options):
            self.decks[options] = self.rng.sample(options, len(options))
        return self.decks[options].pop()

    def person(self, low: int, high: int) -> tuple[str, int, str]:
        age, sex = self.num(low, high), self.pick("man", "woman")
        return f"{'An' if age in (8, 11, 18) or 80 <= age < 90 else 'A'} {age}-year-old {sex}", age, sex


def anion_gap(d: Draw) -> dict:
    who, *_ = d.person(19, 78)
    story, cause = d.deal(
        ("stopped insulin two days ago and has strongly positive ketones", "diabetic ketoacidosis"),
        ("has fever, mottled skin and a lactate of 9 mmol/L", "lactic acidosis"),
        ("has missed a week of dialysis and has a urea four times normal", "uraemic acidosis"),
    )
    bic, na, gap, extra = d.num(6, 16), d.num(132, 145), d.num(20, 31), d.pick(0, 0, 10)
    cl, expected = na - bic - gap, 1.5 * bic + 8
    co2 = round(expected) + extra
    ph, ratio = round(6.1 + math.log10(bic / (0.03 * co2)), 2), round((gap - 12) / (24 - bic), 1)
    fit = "well above that, so the lungs do not keep up" if extra else "within that range, so breathing has adapted"
    second = "with added respiratory acidosis" if extra else "with adequate compensation"
    sign, third = "between 0.8 and 2, so the gap explains the fall in bicarbonate", "no further metabolic disorder"
    if ratio < 0.8:
        sign, third = "low, so bicarbonate is also lost in another way", "plus a normal-gap acidosis"
    elif ratio > 2:
        sign, third = "above 2, so bicarbonate was high to begin with", "plus a metabolic alkalosis"
    return locals()


def sodium(d: Draw) -> dict:
    who, *_ = d.person(24, 79)
    glucose, na = d.num(320, 940, 20), d.num(124, 138)
    over = glucose - 100
    add = round(1.6 * over / 100, 1)
    real = round(na + add, 1)
    word, reading = "normal", "so only water has shifted out of cells"
    if not 135 <= real <= 145:
        word, reading = (
            ("low", "so true hyponatraemia is present") if real < 135 else ("high", "so free water has been lost")
        )
    return locals()


def osmolar_gap(d: Draw) -> dict:
    who, *_ = d.person(22, 58)
    clue, poison, acid, harm = d.deal(
        ("sees a snowfield before both eyes", "methanol", "formic acid", "poisons the optic nerve"),
        ("has flank pain and oxalate crystals in the urine", "ethylene glycol", "oxalic acid", "harms the kidney"),
    )
    na, sugar, nitrogen, gap = d.num(136, 145), 18 * d.num(5, 8), d.pick(14, 28), d.num(26, 58)
    calculated = 2 * na + sugar // 18 + nitrogen * 5 // 14
    measured = calculated + gap
    return locals()


def renal_dose(d: Draw) -> dict:
    drug, reason, limit = d.deal(
        ("enoxaparin", "needs treatment for a leg vein clot", 30), ("levofloxacin", "has severe pneumonia", 50)
    )
    clearance = 0.0
    while clearance < 22 or abs(clearance - limit) < 2:
        who, age, sex = d.person(58, 88)
        weight, creatinine = d.num(48, 90), d.num(9, 30) / 10
        raw = round((140 - age) * weight / (72 * creatinine), 1)
        clearance = round(0.85 * raw, 1) if sex == "woman" else raw
    factor = f"is multiplied by 0.85, which gives {clearance} mL/min" if sex == "woman" else "needs no further factor"
    side, hours = ("below", "24") if clearance < limit else ("above", "12")
    if drug == "levofloxacin":
        hours = "48" if clearance < limit else "24"
    dose = f"{weight if drug == 'enoxaparin' else 750} mg every {hours} hours"
    rule = "1 mg/kg every 12 hours, or every 24" if drug == "enoxaparin" else "750 mg every 24 hours, or every 48"
    return locals()


def calcium(d: Draw) -> dict:
    who, *_ = d.person(42, 79)
    story, pth, reason, cause = d.deal(
        ("back pain and weight loss", "6 pg/mL (low)", "the parathyroid glands are switched off", "malignancy"),
        ("kidney stones", "118 pg/mL (high)", "the parathyroid glands drive it", "primary hyperparathyroidism"),
        ("cough and swollen lung nodes", "8 pg/mL (low)", "the glands are switched off", "sarcoidosis"),
    )
    total, albumin = d.num(104, 122) / 10, d.num(20, 32) / 10
    lack = round(4 - albumin, 1)
    add = round(0.8 * lack, 2)
    real = round(total + add, 1)
    return locals()


def gas_exchange(d: Draw) -> dict:
    who, age, _ = d.person(24, 68)
    story, word, cause, help_ = d.deal(
        ("is drowsy with pinpoint pupils", "normal", "hypoventilation from an opioid", "naloxone"),
        ("is breathless after a long flight", "raised", "pulmonary embolism", "anticoagulation and imaging"),
        (
            "has fever and crackles on one side",
            "raised",
            "shunt through a consolidated lobe",
            "antibiotics and oxygen",
        ),
        ("has weak limbs and a feeble cough", "normal", "hypoventilation from weak muscles", "support of breathing"),
    )
    limit = age / 4 + 4
    co2, gap = (4 * d.num(15, 19), int(limit) - d.num(2, 5)) if word == "normal" else (4 * d.num(6, 8), d.num(38, 56))
    alveolar = 150 - co2 * 5 // 4
    oxygen, side = alveolar - gap, "below" if word == "normal" else "well above"
    return locals()


def child_fluid(d: Draw) -> dict:
    weight = d.num(22, 40)
    age, rest = (weight - 7) // 3, weight - 20
    rate = 60 + rest
    day = 24 * rate
    return locals()


def burn(d: Draw) -> dict:
    who, *_ = d.person(21, 63)
    where, sum_, area = d.deal(
        ("the front of the trunk and one whole arm", "18 + 9", 27),
        ("both whole arms and the front of the trunk", "9 + 9 + 18", 36),
        ("the fronts of both legs", "9 + 9", 18),
    )
    weight, delay = d.num(52, 96), d.pick(1, 2, 3, 4)
    left, half = 8 - delay, 2 * weight * area
    total, early, late = 2 * half, round(half / left), round(half / 16)
    return locals()


def long_qt(d: Draw) -> dict:
    who, _, sex = d.person(29, 78)
    drug = d.deal("methadone", "haloperidol", "clarithromycin", "citalopram")
    rate, qt, limit = d.num(64, 100, 4), d.num(370, 460, 10), 450 if sex == "man" else 460
    interval = round(60 / rate, 2)
    root = round(math.sqrt(interval), 2)
    qtc = round(qt / root)
    word, action = "normal", f"continue {drug} with routine checks"
    if qtc > limit:
        word, action = "prolonged", f"review the need for {drug}, check electrolytes and repeat the ECG"
    if qtc > 500:
        word, action = "dangerously long", f"stop {drug}, correct potassium and magnesium, and monitor"
    return locals()


def probability(d: Draw) -> dict:
    who, *_ = d.person(23, 77)
    ill, positive = d.pick("pulmonary embolism", "coeliac disease", "appendicitis"), d.deal(True, False)
    prior, sens, spec = d.num(10, 50, 5), d.num(80, 96, 2), d.num(80, 95)
    result, shown = ("positive", f"{sens} / (100 - {spec})") if positive else ("negative", f"(100 - {sens}) / {spec}")
    ratio, rest = round(sens / (100 - spec) if positive else (100 - sens) / spec, 2), 100 - prior
    odds = round(prior / rest, 2)
    post = round(odds * ratio, 2)
    chance = round(100 * post / (1 + post))
    verdict = "makes it likely" if chance > 60 else "makes it unlikely" if chance < 10 else "settles nothing yet"
    return locals()


def water_deficit(d: Draw) -> dict:
    who, _, sex = d.person(66, 79)
    weight, na, share = d.num(48, 84), d.num(152, 165), 0.45 if sex == "woman" else 0.5
    water, over = round(share * weight, 1), na - 140
    deficit, days = round(water * over / 140, 1), over / 10
    daily = round(deficit / days, 1)
    return locals()


COMPUTED = (anion_gap, sodium, osmolar_gap, renal_dose, calcium, gas_exchange, child_fluid, burn, long_qt, probability)
NUMBERS = {function.__name__: function for function in (*COMPUTED, water_deficit)}
