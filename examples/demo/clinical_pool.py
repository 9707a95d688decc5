"""A small pool of clinical reasoning rows whose hidden facts are known, and a clean validation set beside it.

``clinical_pool()`` gives 120 rows in chat form (``prompt`` and ``completion``), in a shuffled order:

* 66 ``generated``: the templates below, with numbers and choices drawn from the seed and the answers computed;
* 18 ``handwritten``: single cases written by hand;
* 12 ``trivial``: one short fact each;
* 12 ``duplicate``: exact copies of a generated or handwritten row;
* 12 ``corrupted``: the prompt of such a row under a spoiled answer (another row's answer, shuffled words, a wrong
  final answer, or a text that breaks off and starts again; three of each).

``clinical_validation()`` gives 24 clean rows, 8 of them from templates held out of the pool and 16 from templates of
the pool with other parameters: the two sets draw from the even and the odd places of every number range, so
they share no vignette whatever the seeds.

The other columns are for the reader and never for the scorer: ``steps`` is the number of reasoning steps written in
the answer (1 to 6), ``knowledge`` is ``common`` or ``rare``, ``source_id`` names the row a copy was made from (else
the row itself). A corrupted row keeps ``steps``, ``knowledge`` and ``topic`` of its source.

All text was written for this file; the patients are invented. Nothing here is medical advice.
"""

import math
import random
import re
from typing import NamedTuple


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


class Case(NamedTuple):
    """A case, before or after its braces are filled in."""

    template: str
    topic: str
    knowledge: str
    question: str
    steps: tuple[str, ...]
    answer: str
    extras: tuple[tuple[str, str, str], ...]  # optional further steps, each as (question, step, part of the answer)


def parse(text: str) -> list[Case]:
    """Cases from text: a head, ``Q:`` the question, ``-`` a step, ``A:`` the answer, ``+`` an extra (see Case)."""
    cases = []
    for block in re.split(r"\n(?=\[)", re.sub(r"\n  +", " ", text.strip())):
        head, question, *rest = block.split("\n")
        steps, (answer,), extras = (tuple(line[2:].strip() for line in rest if line[0] == mark) for mark in "-A+")
        extras = tuple(tuple(extra.split(" => ")) for extra in extras)
        cases.append(Case(*head.strip("[]").split("; "), question[3:], steps, answer, extras))
    return cases


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


# --- Numbers: what a template with arithmetic computes; its text below uses the names returned ---


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

# --- Texts: [template; topic; knowledge], then as parse() and fill() say ---

CASES = parse("""
[anion_gap; acid-base; common]
Q: {who} {story}. {The blood gas and chemistry show|Results are|Blood tests give} pH {ph}, PaCO2 {co2} mmHg,
  bicarbonate {bic}, sodium {na} and chloride {cl} mmol/L. {Describe the acid-base state.|Which disorder is this, and
  is it compensated?}
- a pH of {ph} is below 7.35, so the blood is acidaemic.
- bicarbonate is {low|down} at {bic} mmol/L, so the acidosis is metabolic.
- the anion gap is {na} - {cl} - {bic} = {gap}, above 12, so an unmeasured acid is present.
- Winters' formula expects a PaCO2 of 1.5 x {bic} + 8 = {expected}, give or take 2.
- the measured {co2} mmHg is {fit}.
A: high-gap metabolic acidosis ({cause}) {second}
+ Is a further metabolic disorder hidden? => the delta ratio ({gap} - 12) / (24 - {bic}) = {ratio} is {sign}. =>
  {third}
[sodium; sodium; common]
Q: {who} with {untreated|new|poorly controlled} diabetes is {thirsty|drowsy|dry and weak}. Glucose is {glucose} mg/dL
  and sodium {na} mmol/L. Correct the sodium for glucose, using 1.6 mmol/L per 100 mg/dL {of excess|above 100}.
- the excess of {over} mg/dL lowers sodium by 1.6 x {over} / 100 = {add}.
- the corrected sodium is {na} + {add} = {real} mmol/L.
A: corrected sodium {real} mmol/L
+ What does it mean? => a corrected value of {real} is {word}, {reading}. => {word}, {reading}
[osmolar_gap; toxicology; rare]
Q: {who}, {found with an unlabelled bottle|brought in after a party}, {clue}. Measured osmolality is {measured}
  mOsm/kg, sodium {na} mmol/L, glucose {sugar} and urea nitrogen {nitrogen} mg/dL, with acidosis and no ethanol. Which
  poison is likely?
- calculated osmolality is 2 x {na} + {sugar}/18 + {nitrogen}/2.8 = {calculated}.
- the osmolar gap is {measured} - {calculated} = {gap}, above 10, so extra molecules are present.
- with acidosis and no ethanol, a toxic alcohol is being turned into an acid.
- a patient who {clue} has most likely swallowed {poison}.
A: {poison}
+ Which product does the harm? => alcohol and aldehyde dehydrogenase turn it into {acid}, which {harm}. => {acid}
+ What is the treatment? => fomepizole blocks the first enzyme while dialysis clears alcohol and acid. => fomepizole
  and dialysis
[renal_dose; renal dosing; common]
Q: {who} ({weight} kg, creatinine {creatinine} mg/dL) {reason}. You choose {drug}, {rule} when the clearance is below
  {limit} mL/min. {Which dose fits the kidney function?|Estimate the creatinine clearance and give the dose.}
- {drug} leaves through the kidney, so the creatinine clearance decides on the dose.
- Cockcroft-Gault gives (140 - {age}) x {weight} / (72 x {creatinine}) = {raw} mL/min.
- for a {sex} this value {factor}.
- {clearance} lies {side} {limit} mL/min, so the dose is {dose}.
A: {drug} {dose}
[calcium; calcium; common]
Q: {who} with {story} has a calcium of {total} mg/dL, an albumin of {albumin} g/dL and a PTH of {pth}. {Correct the
  calcium for albumin.|What is the calcium once corrected for albumin?}
- albumin is {lack} g/dL below 4, so 0.8 x {lack} = {add} mg/dL is added.
- corrected calcium is {total} + {add} = {real} mg/dL, clearly above 10.5.
A: corrected calcium {real} mg/dL, hypercalcaemia
+ Do the parathyroid glands cause it? => at this calcium a PTH of {pth} means that {reason}. => {reason}
+ Name the likely disease. => with {story}, the first cause to look for is {cause}. => {cause}
[gas_exchange; gas exchange; common]
Q: {who} breathing room air {story}. {Arterial gas|The blood gas}: PaO2 {oxygen} mmHg, PaCO2 {co2} mmHg. Work out the
  alveolar-arterial gradient (150 mmHg inspired) and judge it.
- the alveolar oxygen is 150 - {co2} / 0.8 = {alveolar} mmHg.
- the gradient is {alveolar} - {oxygen} = {gap} mmHg.
- the limit for this age is {age} / 4 + 4 = {limit}, and {gap} lies {side} it.
A: gradient {gap} mmHg, {word}
+ Why is oxygen low? => a {word} gradient in a patient who {story} fits {cause}. => {cause}
+ What helps? => the treatment has to reach this cause, which means {help_}. => {help_}
[child_fluid; paediatric fluids; common]
Q: {Before an operation|On the ward} a well-hydrated child of {weight} kg, aged {age} years, is kept without food and
  drink. Which hourly rate of maintenance fluid follows from the 4-2-1 rule?
- the first 20 kg take 40 + 20 = 60 mL/h and the other {rest} kg take {rest} mL/h.
- together this makes 60 + {rest} = {rate} mL/h.
A: {rate} mL per hour
+ How much is that in a day? => over a day the volume is 24 x {rate} = {day} mL. => {day} mL per day
[burn; burns; common]
Q: {who} of {weight} kg arrives {delay} h after {a house fire|a petrol flash} with partial-thickness burns of {where};
  no fluid was given so far. By the Parkland formula, which rate of Ringer's lactate is needed now?
- by the rule of nines the burn covers {sum_} = {area}% of the body.
- the Parkland volume is 4 mL x {weight} kg x {area} = {total} mL in 24 hours.
- half of it, {half} mL, is due within 8 hours of the burn itself.
- {delay} h of these 8 have passed, so {left} h remain.
- the rate is {half} / {left} = {early} mL/h.
A: {early} mL per hour now
+ And in the later 16 hours? => the other half runs over 16 hours at {half} / 16 = {late} mL/h. => then {late} mL per
  hour
[long_qt; QT interval; common]
Q: {who} {taking|who has started} {drug} feels light-headed. The ECG shows sinus rhythm at {rate} per minute and a QT
  interval of {qt} ms. Correct the QT by Bazett and judge it.
- the RR interval is 60 / {rate} = {interval} s.
- its square root is {root}, so Bazett gives {qt} / {root} = {qtc} ms.
- against {limit} ms for a {sex} and the danger line of 500 ms this is {word}.
A: QTc {qtc} ms, {word}
+ What should be done? => {drug} can slow the repolarising current, so the right move is to {action}. => {action}
[probability; probability; common]
Q: {who} has a {prior}% chance of {ill} before testing. A test with {sens}% sensitivity and {spec}% specificity comes
  back {result}. What is the chance of {ill} now?
- the likelihood ratio of this result is {shown} = {ratio}.
- a prior of {prior}% means odds of {prior} / {rest} = {odds}.
- posterior odds are {odds} x {ratio} = {post}.
- as a probability this is {post} / (1 + {post}), or {chance}%.
A: about {chance}%
+ What does it mean? => at {chance}% the result {verdict}. => it {verdict}
[water_deficit; sodium; common]
Q: {who} of {weight} kg from a care home is dry and drowsy with a sodium of {na} mmol/L for several days. What is the
  free water deficit to 140 mmol/L, and how much should be replaced per day? Ignore ongoing losses.
- body water in an older {sex} is about {share} x {weight} = {water} L.
- the deficit is {water} x ({na} / 140 - 1) = {deficit} L.
- sodium may fall by about 10 mmol/L a day, so {over} mmol/L take {days} days.
- spread out, this is {deficit} / {days} = {daily} L a day.
A: deficit {deficit} L, about {daily} L per day
+ Why not faster? => brain cells have adapted, so a rapid fall lets water rush in and swell them. => risk of brain
  swelling
[iron; anaemia; common]
Q: A {21..45}-year-old woman with heavy periods is tired and craves ice. Haemoglobin is {8.2..10.4} g/dL, MCV {66..75}
  fL, ferritin {f=4..11} ng/mL and iron-binding capacity high. Which anaemia is this?
- small red cells narrow the list to lack of iron, thalassaemia and a few rarer causes.
- a ferritin of {f} with small cells and a high binding capacity means that the stores are empty.
A: iron deficiency anaemia
+ What next? => heavy periods explain the loss, so replace iron by mouth and treat the bleeding. => oral iron and
  control of the bleeding
[iron; anaemia; common]
Q: A {51..79}-year-old man with active rheumatoid arthritis has a haemoglobin of {9.2..10.6} g/dL, MCV {82..88} fL,
  ferritin {f=260..430} ng/mL, low serum iron and a low iron-binding capacity. Which anaemia is this?
- normal-sized cells with low serum iron in active joint disease suggest iron that is locked away.
- a ferritin as high as {f} means that hepcidin is holding iron inside macrophages.
A: anaemia of chronic inflammation
+ What next? => iron tablets are poorly absorbed while hepcidin is high, so calm the arthritis. => control the
  arthritis
[iron; anaemia; common]
Q: A {22..38}-year-old {man|woman} whose parents come from Cyprus feels well. Haemoglobin is {10.6..11.6} g/dL, MCV
  {m=61..66} fL, ferritin {f=80..140} ng/mL and the red cell count is high. Which anaemia is this?
- a ferritin of {f} is normal, so lack of iron cannot explain cells of {m} fL.
- many very small cells with full iron stores fit reduced making of a globin chain.
A: beta-thalassaemia trait
+ What next? => a raised HbA2 on electrophoresis would prove it. => measure HbA2
[thyroid; thyroid; common]
Q: A {31..67}-year-old {man|woman} reports tiredness, constipation and dry skin. TSH is {t=24..60} mIU/L (normal below
  4.5) and free T4 is low at {0.3..0.5} ng/dL. {How do you read these tests?|Which disorder is this?}
- low free T4 with these symptoms means that too little thyroid hormone reaches the tissues.
- a TSH of {t} beside a low free T4 shows a healthy pituitary calling on a failing gland.
A: primary hypothyroidism
+ What treatment follows? => the hormone is replaced by mouth, and TSH is repeated after six weeks. => levothyroxine,
  adjusted to the TSH
[thyroid; thyroid; common]
Q: A {23..48}-year-old woman has lost weight, trembles and has staring, gritty eyes. TSH is unmeasurable and free T4 is
  {f=3.1..4.8} ng/dL (normal 0.8 to 1.8). {How do you read these tests?|Which disorder is this?}
- free T4 of {f} with a suppressed TSH means that the thyroid ignores the pituitary.
- thyroid hormone excess together with eye disease points to antibodies that stimulate the TSH receptor.
A: Graves disease with overt hyperthyroidism
+ What treatment follows? => a beta blocker calms the tremor while methimazole lowers hormone making. => a beta blocker
  and methimazole
[thyroid; thyroid; common]
Q: A {34..62}-year-old {man|woman} without symptoms has a routine blood test. TSH is {t=5.6..8.8} mIU/L (normal below
  4.5) on two occasions, and free T4 is normal at {1.0..1.4} ng/dL. {How do you read these tests?|Which disorder is
  this?}
- free T4 is normal, so the tissues still receive enough hormone.
- a TSH of {t} means that the gland keeps pace only under extra stimulation.
A: subclinical hypothyroidism
+ What next? => below a TSH of 10 and without symptoms, most patients are only watched. => observation with a repeat
  TSH
[thyroid; pituitary; rare]
Q: A {33..65}-year-old {man|woman} has headaches, tiredness and loss of both outer visual fields. Free T4 is low at
  {f=0.3..0.5} ng/dL, yet TSH is only {t=0.9..1.8} mIU/L, a value within the normal range. {How do you read these
  tests?|Which disorder is this?}
- with free T4 down to {f}, a working pituitary would push TSH far above normal.
- an ordinary TSH of {t} with damage to the visual chiasm places the fault in the pituitary.
A: central hypothyroidism from a pituitary mass
+ What must come first? => thyroxine speeds up cortisol clearance, so cortisol must be replaced beforehand. => check
  and replace cortisol before levothyroxine
[hepatitis; hepatitis B; common]
Q: A {21..43}-year-old nursing student is screened before a placement. Surface antigen is negative, antibody to surface
  antigen is {90..400} IU/L and core antibody is negative. {How do you read this hepatitis B serology?|Which state of
  hepatitis B is this?}
- surface antigen is absent, so there is no current infection to explain.
- surface antibody without core antibody comes from vaccine, which holds surface antigen alone.
A: immune through vaccination
[hepatitis; hepatitis B; common]
Q: A {39..71}-year-old man born in a region where hepatitis B is frequent feels well. Surface antigen is negative,
  while antibody to surface antigen and total core antibody are both positive. {How do you read this hepatitis B
  serology?|Which state of hepatitis B is this?}
- surface antigen has gone, so the virus no longer circulates in measurable amounts.
- core antibody marks contact with the real virus, and surface antibody shows that it was cleared.
A: past infection with natural immunity
[hepatitis; hepatitis B; common]
Q: A {26..58}-year-old {man|woman} had a positive surface antigen eight months ago and again today. Core IgG is
  positive, core IgM and surface antibody are negative, and ALT is {70..160} U/L. {How do you read this hepatitis B
  serology?|Which state of hepatitis B is this?}
- IgG without IgM against the core says that the infection is not a recent one.
- surface antigen that persists beyond six months defines failure to clear the virus.
A: chronic hepatitis B
[shock; shock; common]
Q: A {52..78}-year-old {man|woman} with crushing chest pain is cold and clammy, pressure 78/50 mmHg. Wedge pressure is
  {w=23..30} mmHg, cardiac index {i=1.5..2.0} and vascular resistance high. Which type of shock is this?
- a wedge pressure of {w} means that the left heart is full, not short of volume.
- a full heart that delivers an index of only {i} is failing as a pump.
A: cardiogenic shock
+ What helps most? => the likely cause is a blocked coronary artery, so reopening it quickly matters more than fluid.
  => urgent revascularisation
[shock; shock; common]
Q: A {44..79}-year-old {man|woman} with fever and a painful flank has warm hands and a pressure of 80/35 mmHg. Wedge
  pressure is {7..10} mmHg, cardiac index {i=4.2..5.2} and vascular resistance low. Which type of shock is this?
- a cardiac index of {i} is high, so the pump works and the vessels have given way.
- warm skin and low resistance with an infected kidney show vessels dilated by sepsis.
A: septic (distributive) shock
+ What helps most? => antibiotics treat the cause while fluid and noradrenaline hold the pressure. => early
  antibiotics, fluid and noradrenaline
[shock; shock; common]
Q: A {24..61}-year-old {man|woman} falls from a ladder and becomes pale with a tense belly, pressure 75/55 mmHg. Wedge
  pressure is {w=2..5} mmHg, cardiac index {1.6..2.1} and vascular resistance high. Which type of shock is this?
- a wedge pressure of {w} means that little blood returns, so the pump is empty and not weak.
- low filling with tight vessels and a tense belly after a fall mean bleeding inside the abdomen.
A: hypovolaemic shock from haemorrhage
+ What helps most? => clear fluid would dilute clotting factors, so blood products and surgical control come first. =>
  blood products and surgical control
[porphyria; porphyria; rare]
Q: A {19..43}-year-old woman has three days of severe belly pain after {t=starting phenytoin|a sulfonamide antibiotic|a
  crash diet|taking a barbiturate}, with {s=weak arms|a seizure|hallucinations|burning feet}. Pulse is {112..134},
  sodium {120..129} mmol/L, abdomen soft, scans normal, skin clear, and the urine darkens in light. What is the
  diagnosis?
- severe pain with a soft abdomen and normal scans {leads away from surgery|speaks for nerves or metabolism}.
- pain with a fast pulse, low sodium and {s} {is the pattern of|fits} an acute hepatic porphyria.
- {t} is a known trigger, because it raises ALA synthase in the liver.
- urine that darkens suggests excess porphobilinogen, and clear skin favours the commonest type.
A: acute intermittent porphyria
+ Name the enzyme. => porphobilinogen piles up when the enzyme that uses it, its deaminase, is lacking. =>
  porphobilinogen deaminase
+ Name the treatment. => haem given into a vein represses ALA synthase, and glucose helps until then. => intravenous
  hemin
[wilson; Wilson disease; rare]
Q: A {19..31}-year-old {student|apprentice} develops {s=slurred speech|a wing-beating tremor|drooling|clumsy
  handwriting} and low mood. ALT is {80..150} U/L, ceruloplasmin {c=5..11} mg/dL (low), and a slit lamp shows brown
  rings at the corneal edge. What is the diagnosis?
- liver injury and a movement disorder {together|in one young person} suggest one substance that harms both.
- a ceruloplasmin of {c} mg/dL means that the liver does not load copper onto its carrier.
- brown corneal rings with {s} mean that copper has {spilled|spread} into eye and brain.
A: Wilson disease
+ Name the gene. => the transporter that drives copper into bile is ATP7B, with recessive inheritance. => ATP7B
+ Name the treatment. => copper must be bound and kept from being absorbed, for life. => a chelator such as trientine
[urea cycle; urea cycle; rare]
Q: A boy aged {2..5} days feeds poorly, then becomes drowsy and breathes fast. Ammonia is {a=640..1400} umol/L, pH
  {7.47|7.49|7.51|7.53}, glucose normal, ketones absent, citrulline very low and urinary orotic acid high. Which enzyme
  is deficient?
- an ammonia of {a} umol/L explains the drowsiness, and glucose and ketones are not the problem.
- alkalosis fits a urea cycle defect, because ammonia drives breathing; organic acids would give acidosis.
- very low citrulline places the block at or before the step that makes it.
- high orotic acid comes from unused carbamoyl phosphate, so the very next step is blocked.
A: ornithine transcarbamylase
+ How is it inherited? => the gene lies on the X chromosome, which is why boys fall ill in the first days. => X-linked
+ What is the treatment? => stopping protein cuts the supply, scavengers bind nitrogen and dialysis is fastest. => no
  protein, scavengers and dialysis
[urea cycle; urea cycle; rare]
Q: A {23..36}-year-old woman who has always avoided meat becomes confused {five days after giving birth|after a steroid
  course|while fasting with influenza|on a crash diet}. Ammonia is {a=170..320} umol/L, liver tests normal, citrulline
  low and urinary orotic acid high. Her brother died as a newborn. Which enzyme is deficient?
- an ammonia of {a} umol/L with normal liver tests suggests a metabolic cause and not cirrhosis.
- trouble with meat and with protein breakdown suggests nitrogen that cannot be cleared.
- low citrulline places the block at or before the step that makes citrulline.
- high orotic acid shows unused carbamoyl phosphate, so the next enzyme in the cycle is the weak one.
A: ornithine transcarbamylase
+ How is it inherited? => a brother lost as a newborn fits an X-linked gene with a carrier sister. => X-linked
+ What is the treatment? => glucose stops protein breakdown while benzoate and phenylacetate bind nitrogen. => glucose
  and nitrogen scavengers
[whipple; Whipple disease; rare]
Q: A {45..63}-year-old man has had {three|four|six} years of wandering joint pain and now loses {9..16} kg with fatty
  stools, swollen nodes and {slow eye movements|memory loss|low-grade fever}. The small bowel biopsy shows foamy
  macrophages that stain with PAS and are negative for acid-fast bacilli. What is the diagnosis?
- joint pain years before malabsorption, with other organs involved, {suggests a|fits a} slow infection.
- PAS-positive macrophages in the bowel wall {contain remains of|have swallowed} bacteria.
- absent acid-fast bacilli exclude mycobacteria, which leaves Tropheryma whipplei, to be proved by PCR.
A: Whipple disease
+ What is the treatment? => a drug that enters the brain is needed, then a year of maintenance. => ceftriaxone, then
  co-trimoxazole
[encephalitis; autoimmune encephalitis; rare]
Q: A {19..31}-year-old woman with no past illness becomes {p=paranoid|mute|agitated|sleepless} over two weeks, then has
  chewing movements of the face, a seizure and swings of pulse and pressure. MRI is normal, spinal fluid has {c=18..60}
  lymphocytes, herpes PCR is negative. What is the diagnosis?
- a first psychosis with seizures and unstable pulse is {brain disease|not psychiatry alone}.
- {c} lymphocytes with a negative herpes PCR {favour|speak for} an autoimmune encephalitis.
- a young woman who turns {p} and makes chewing movements {is typical of|suggests} NMDA receptor antibodies.
A: anti-NMDA receptor encephalitis
+ What must be searched for? => an ovarian teratoma can carry neural tissue that starts the immune response. => pelvic
  imaging for an ovarian teratoma
+ What is the treatment? => the antibodies must be lowered early, and any teratoma must be removed. => steroids with
  immunoglobulin, and tumour removal
[neoplasia; MEN2; rare]
Q: A {26..49}-year-old {man|woman} has a thyroid nodule with a calcitonin of {k=240..900} pg/mL, spells of headache and
  sweating, plasma metanephrines {m=4..8} times normal, and a calcium of {c=10.9..11.8} mg/dL with a high PTH. What
  unites these findings?
- a thyroid nodule with a calcitonin of {k} is {medullary carcinoma|a medullary carcinoma}.
- {spells|attacks} with metanephrines {m} times normal mean a phaeochromocytoma.
- calcium of {c} mg/dL with a high PTH adds overactive parathyroid glands.
- these three together {are no coincidence but|make up} one inherited syndrome.
A: multiple endocrine neoplasia type 2A
+ Which gene is it? => the syndrome comes from an activating germline change in RET. => RET
+ What is operated first? => neck surgery with an untreated phaeochromocytoma risks a pressure crisis. => the adrenal
  tumour first, after alpha blockade
[purpura; microangiopathy; rare]
Q: A {27..53}-year-old woman is confused and has small skin bleeds. Platelets are {p=8..19} x 10^9/L, haemoglobin
  {7.2..8.8} g/dL with fragmented red cells, LDH {1100..1900} U/L, creatinine {1.1..1.5} mg/dL, PT normal. What is the
  diagnosis?
- fragmented red cells with a high LDH mean that red cells are torn in small vessels.
- platelets of only {p} show that clots in these vessels are using platelets up.
- a normal PT speaks against disseminated coagulation, which uses up clotting factors too.
- confusion with nearly intact kidneys points to missing ADAMTS13.
A: thrombotic thrombocytopenic purpura
+ What is the treatment? => plasma exchange removes the antibody and supplies the enzyme. => urgent plasma exchange
  with steroids
[angioedema; angioedema; rare]
Q: A {19..35}-year-old {man|woman} has had {5..11} attacks of swelling of face or hands without hives, plus belly
  cramps. Adrenaline and antihistamines never helped, the mother has the same, and C4 is {c=3..8} mg/dL (low). What is
  the diagnosis?
- swelling without hives that ignores antihistamines is driven by bradykinin and not by histamine.
- belly cramps fit the same swelling in the wall of the gut.
- an affected mother suggests dominant inheritance and argues against a drug reaction.
- a C4 of {c} mg/dL between attacks shows complement used up for want of C1 inhibitor.
A: hereditary angioedema from C1 inhibitor deficiency
+ What treats an attack? => the missing inhibitor can be given, or the bradykinin receptor can be blocked. => C1
  inhibitor concentrate or icatibant
[adrenal; adrenal; rare]
Q: A {29..55}-year-old {man|woman} with months of weight loss and darkening skin collapses with a stomach upset.
  Pressure is {72..84}/45, sodium {s=119..127} and potassium {k=5.7..6.5} mmol/L, glucose {52..64} mg/dL. What is the
  diagnosis?
- sodium of {s} with potassium of {k} mmol/L suggests that aldosterone is missing.
- low glucose and collapse during a minor illness suggest that cortisol is missing too.
- dark skin shows a high ACTH, so the pituitary works and the adrenal glands have failed.
- low pressure under such stress is an adrenal crisis, to be treated before results return.
A: adrenal crisis in primary adrenal insufficiency
+ What is given first? => cortisol has to be replaced at once, and salt and water must be refilled. => intravenous
  hydrocortisone and saline
""")

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

HANDWRITTEN = parse("""
[hand; cardiology; common]
Q: A 61-year-old man with an inferior infarction is pain-free until a nitrate spray drops his pressure to 70/40. His
  neck veins stand out and his lungs are clear. Why did this happen, and what is the next step?
- an inferior infarction usually means a blocked right coronary artery, which also feeds the right ventricle.
- full neck veins over clear lungs say that the right ventricle fails while the left is not congested.
- such a ventricle depends on venous return, and the nitrate took that away.
- the way back is volume, so a saline bolus under close watch is right while the artery is opened.
A: right ventricular infarction; stop nitrates and give a saline bolus
[hand; early pregnancy; common]
Q: A 27-year-old woman, seven weeks after her last period, has left-sided pelvic pain, slight bleeding and shoulder-tip
  pain. The pregnancy test is positive and the ultrasound shows an empty uterus. What is the diagnosis?
- a positive test with an empty uterus at seven weeks means that the pregnancy lies elsewhere or has ended.
- shoulder-tip pain comes from blood under the diaphragm.
- pain on one side with blood in the abdomen makes a bleeding tube the leading cause.
A: ruptured ectopic pregnancy, for emergency surgery
[hand; neuromuscular; rare]
Q: A 64-year-old smoker finds it hard to rise from a chair and has a dry mouth. His reflexes are absent but return
  after he squeezes his fists for ten seconds. What is the diagnosis, and what must be looked for?
- proximal weakness with a dry mouth joins a motor and an autonomic fault.
- reflexes that return after brief effort mean that repeated firing lets more transmitter out.
- this places the fault before the synapse, at the calcium channel, and not at the receptor as in myasthenia.
- in a smoker the antibodies are most often raised by a small cell lung cancer.
A: Lambert-Eaton syndrome; search for small cell lung cancer
[hand; coagulation; rare]
Q: On day seven of heparin after a hip replacement, a 70-year-old woman's platelets fall from 260 to 95 and her calf
  swells with a new clot. She does not bleed. What is going on, and what should be changed?
- the platelet count has fallen by more than half, which is too much for dilution or the operation alone.
- the fall began between days five and ten of heparin, when antibodies have had time to form.
- a new clot during a low count shows that platelets are being activated and not simply lost.
- this is caused by antibodies against heparin bound to platelet factor 4.
- all heparin must stop, and since the clotting drive goes on, another anticoagulant is needed.
A: heparin-induced thrombocytopenia; switch to argatroban
[hand; geriatrics; common]
Q: An 84-year-old woman grows confused and sees insects on the wall three days after starting oxybutynin. Her mouth is
  dry, her pupils are wide and her bladder is palpable. What should be done?
- acute confusion with visions in an old person is delirium until shown otherwise.
- dry mouth, wide pupils and a full bladder are signs of blocked muscarinic receptors.
- oxybutynin blocks them and was started just before, so it is the cause to remove.
A: anticholinergic delirium; stop oxybutynin and drain the bladder
[hand; sodium; common]
Q: A 66-year-old smoker with a mass near the lung hilum is drowsy. Sodium is 118 mmol/L, plasma osmolality 246, urine
  osmolality 520 mOsm/kg, urine sodium 62 mmol/L. He looks neither dry nor swollen; cortisol and TSH are normal. What
  is the cause?
- a plasma osmolality of 246 shows that the low sodium is real and not an effect of glucose.
- urine of 520 is far too concentrated for such dilute blood, so vasopressin is acting.
- normal volume and a urine sodium of 62 say that this vasopressin is not a reply to volume loss.
- normal cortisol and TSH leave inappropriate secretion as the explanation.
- a central lung mass in a smoker suggests small cell cancer as its source.
A: SIADH, most likely from small cell lung cancer
[hand; toxicology; rare]
Q: A 35-year-old woman on sertraline is given linezolid. Six hours later she is agitated and sweating with 39.4 C, wide
  pupils, diarrhoea and jerking ankles with clonus. Which syndrome is this, and how is it treated?
- linezolid also inhibits monoamine oxidase, so serotonin from sertraline cannot be broken down.
- clonus, diarrhoea and wide pupils within hours of a new drug fit an excess of serotonin.
- neuroleptic malignant syndrome would build up over days with stiff muscles and slow reflexes.
- both drugs must stop, benzodiazepines calm the muscles, and cyproheptadine blocks the receptor.
A: serotonin syndrome; stop both drugs, give a benzodiazepine and cyproheptadine
[hand; vasculitis; common]
Q: A 74-year-old woman has a new temple headache, pain in the jaw when chewing and a minute of lost vision in one eye.
  ESR is 96 mm/h. A biopsy can be done in four days. Treat now or wait?
- a new headache over 50 with jaw pain and a high ESR makes giant cell arteritis very likely.
- a brief loss of vision warns that lasting blindness may follow within days.
- the biopsy stays readable for a week or more on steroids, so waiting gains nothing.
A: start high-dose steroids at once and biopsy later
[hand; infant surgery; common]
Q: A five-week-old boy vomits milk forcefully after each feed and is hungry again. Chloride is 84, potassium 3.0 and
  bicarbonate 36 mmol/L. Ultrasound shows a thick pylorus. Should he go straight to theatre?
- forceful vomiting without bile in a hungry infant with a thick pylorus is pyloric stenosis.
- loss of stomach acid explains the low chloride and the high bicarbonate.
- alkalosis weakens the drive to breathe, so anaesthesia now could lead to apnoea.
- saline with glucose and potassium corrects this within a day or two, and the operation can wait.
A: no, correct fluid and electrolytes first, then do the pyloromyotomy
[hand; nutrition; common]
Q: A 52-year-old man who drinks heavily is confused, staggers and has jerky eyes that do not move fully outwards.
  Glucose is 58 mg/dL. In which order should treatment be given?
- confusion, unsteady gait and eye signs in a heavy drinker mean that thiamine is lacking.
- glucose is burned with the help of thiamine, so sugar alone could use up the last stores.
- thiamine into a vein therefore goes first or together with glucose, without waiting for tests.
A: intravenous thiamine first or with the glucose, for Wernicke encephalopathy
[hand; endocrine tumours; rare]
Q: A 58-year-old woman flushes several times a day, has watery stools and a murmur that grows on breathing in. CT shows
  many liver lesions. Which test supports the diagnosis, and why is the heart affected?
- flushing with watery stools suggests a tumour that releases serotonin and related substances.
- liver lesions matter, because a healthy liver would clear these before they reach the circulation.
- serotonin scars the valves of the right heart, and a murmur that grows on breathing in is tricuspid.
- the lung breaks serotonin down, so the left side is spared, and its product appears in urine.
A: carcinoid syndrome with tricuspid disease; measure urinary 5-HIAA
[hand; infection; rare]
Q: A 33-year-old sewer worker has fever, sore calves and red eyes without pus for six days. Now he is yellow,
  creatinine is 3.4 mg/dL, bilirubin 14 mg/dL but ALT only 95 U/L. What is the diagnosis?
- work in sewers brings contact with rat urine, which carries spirochaetes.
- sore calves and red eyes without pus are typical of the first phase.
- deep jaundice with a modest ALT means poor excretion and not death of liver cells, unlike viral hepatitis.
- jaundice with kidney failure is the severe form, treated with intravenous penicillin or ceftriaxone.
A: severe leptospirosis (Weil disease)
[hand; drug interactions; common]
Q: A 79-year-old woman on digoxin for atrial fibrillation took clarithromycin for a week. She now feels sick, sees
  yellow rings and has a regular pulse of 42. Potassium is 5.9 mmol/L. What happened, and what is the antidote?
- clarithromycin blocks P-glycoprotein, so less digoxin leaves through kidney and gut.
- nausea and yellow vision are early signs that the level has become toxic.
- a slow, regular pulse in atrial fibrillation means that the AV node is blocked and an escape rhythm beats.
- potassium of 5.9 shows a blocked sodium pump, and with the slow pulse it calls for antibody fragments.
A: digoxin toxicity from clarithromycin; give digoxin-specific antibody fragments
[hand; oncology; rare]
Q: A 19-year-old man from Sardinia begins chemotherapy for Burkitt lymphoma. Next day uric acid, potassium and
  phosphate are high, calcium low. After rasburicase he turns dusky with saturation 85%, normal PaO2 and falling
  haemoglobin. What explains both events, and what must be avoided?
- a fast tumour under chemotherapy bursts its cells, which frees potassium, phosphate and nucleic acids.
- phosphate binds calcium and nucleic acids become uric acid, so this is tumour lysis syndrome.
- rasburicase breaks uric acid down and produces hydrogen peroxide on the way.
- red cells without G6PD, a frequent trait in Sardinia, cannot neutralise peroxide and haemolyse.
- low saturation with a normal PaO2 means that haemoglobin was oxidised to methaemoglobin.
- methylene blue needs G6PD to work and would worsen haemolysis, so it must be avoided.
A: tumour lysis, then haemolysis in G6PD deficiency; avoid rasburicase and methylene blue
[hand; spine; common]
Q: A 45-year-old man with back pain for years now has numbness where a saddle would touch, weak ankles on both sides
  and has not passed urine since last night. What should be arranged?
- saddle numbness with retention and weakness on both sides means that the nerve roots of the cauda equina are
  squeezed.
- bladder function is lost for good within a day or two, so imaging cannot wait.
A: emergency MRI and surgical decompression for cauda equina syndrome
[hand; airway; common]
Q: An unvaccinated four-year-old sits bent forward, drooling, with a high fever and a soft harsh noise on breathing in.
  A student wants to look at the throat with a spatula. Is that wise?
- drooling, fever and leaning forward with stridor point to a swollen epiglottis.
- touching the throat may close the airway fully, so the child stays calm until the airway team is ready.
A: no, leave the throat alone and call for a controlled intubation
[hand; haemolysis; rare]
Q: A 36-year-old man has dark morning urine, tiredness and now a clot in the hepatic veins. Haemoglobin is 8.1 g/dL,
  LDH 1400 U/L, haptoglobin undetectable, Coombs negative, platelets 98. Which test proves the diagnosis, and which
  drug helps?
- high LDH with absent haptoglobin means that red cells break, and dark urine places this inside vessels.
- a negative Coombs test argues against antibodies on the red cells.
- a clot in an unusual vein together with haemolysis suggests a defect shared by several blood cells.
- low platelets support a stem cell disorder that reaches beyond red cells.
- cells that lack the GPI anchor lose CD55 and CD59, so complement destroys them, which flow cytometry shows.
- an antibody against C5 stops this attack, after vaccination against meningococci.
A: paroxysmal nocturnal haemoglobinuria; flow cytometry for CD55 and CD59, then eculizumab
[hand; potassium; common]
Q: A 68-year-old man on ramipril and spironolactone has had diarrhoea for a week. Potassium is 7.2 mmol/L, creatinine
  3.1 mg/dL, and the ECG shows broad complexes with tall, pointed T waves. List the order of treatment.
- broad complexes mean that the heart is in danger, so treatment starts before any further test.
- calcium into a vein steadies the heart muscle within minutes but leaves potassium unchanged.
- insulin with glucose, helped by salbutamol, moves potassium into cells for a few hours.
- dry kidneys and two drugs that hold potassium back explain the rise, so both stop and fluid is given.
- if urine does not follow, only dialysis takes potassium out of the body.
A: calcium, then insulin with glucose, then fluid, stopping both drugs, and dialysis if needed
""")

TRIVIAL = [
    ("What does BP stand for?", "BP stands for blood pressure."),
    ("How many chambers does the human heart have?", "The heart has four chambers."),
    ("Which organ makes insulin?", "Insulin is made by the pancreas."),
    ("What does ECG stand for?", "ECG stands for electrocardiogram."),
    ("Is 37 C a normal body temperature?", "Yes, 37 C is normal."),
    ("Which gas do we need to breathe in?", "We need to breathe in oxygen."),
    ("What is the usual unit of blood pressure?", "Blood pressure is given in mmHg."),
    ("Which organ pumps blood?", "The heart pumps blood."),
    ("What does IV mean in a drug order?", "IV means into a vein, or intravenous."),
    ("How many kidneys do most people have?", "Most people have two kidneys."),
    ("Which bone breaks in a hip fracture?", "The upper part of the femur breaks."),
    ("What does a thermometer measure?", "A thermometer measures temperature."),
]

# --- Rows ---


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


def clinical_pool(seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    draw = Draw(rng, half=0)
    rows = generated_rows(draw, TEMPLATES)
    rows += [case_row(draw, "handwritten", case, len(case.steps)) for case in HANDWRITTEN]
    chosen = rng.sample(range(len(rows)), len(rows))
    copied, reasoned = chosen[:12], [i for i in chosen[12:] if rows[i]["steps"] > 1][:12]
    real = rows[:]
    rows += [make_row("trivial", question, answer, 1, "common", "basics") for question, answer in TRIVIAL]
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


def clinical_validation(seed: int = 1) -> list[dict]:
    rng = random.Random(seed)
    rows = generated_rows(Draw(rng, half=1), VALIDATION)
    rng.shuffle(rows)
    for i, row in enumerate(rows):
        row["id"] = f"v{i:03d}"
        del row["kind"]
    return rows
