"""`compare`: is it worth it? Equal budgets, equal steps, and intervals, on one's own rows."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from datasets.utils import tqdm
from filelock import FileLock

from ..difficulty.sources import difficulty_source
from ..digest import digest, model_digest, tokenizer_digest
from ..files import replacing
from ..names import public_name
from ..recipe import ModelFacts, Source
from ..rows.encoded import rows_digest
from ..rows.formats import RowEncoder
from ..rows.validation import validation_groups
from ..scoring.recipe import versions
from ..selection.leakage import find_leaks
from ..selection.settings import MAX_SIMILARITY
from .heldout import HeldOut, plain_texts
from .page import markdown_table, write_page
from .plan import Plan, make_plan
from .pool import Scoring, check_leaks, score_pool
from .rankings import add_rankings
from .results import Comparison, HeldoutFacts, RunFacts, Work
from .runs import Run, RunFolder, dumped, run_digest
from .strategies import Strategy
from .training import LORA, Training


DEFAULT_STRATEGIES = ("diq", "diq-paper", "random", "influence", "difficulty", "length")
# What `quick` looks at.
QUICK_POOL, QUICK_HELDOUT = 400, 100


def compare(
    pool: Dataset,
    model: str,
    validation: Any,
    heldout: Any,
    output: str | Path,
    strategies: Sequence[str] = DEFAULT_STRATEGIES,
    ratio: float | Sequence[float] = 0.1,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    budget: str = "tokens",
    training: Mapping[str, Any] | None = None,
    lora: Mapping[str, Any] | str | None = "auto",
    model_init_kwargs: Mapping[str, Any] | None = None,
    difficulty: Any = "ifd",
    group_column: str | None = None,
    source_column: str = "source",
    on_leak: str = "raise",
    tasks: Sequence[str] = (),
    quick: bool = False,
    finished_only: bool = False,
    sources: Mapping[str, Source] | None = None,
    commands: Sequence[str] = (),
) -> Comparison:
    """Trains on what each strategy chooses, at equal budgets and in equally many steps, and measures on held-out rows.

    Every run is a file in `output` once it is done: a killed comparison goes on where it stopped, further strategies,
    seeds and budgets are added to what is there, and several processes with the same arguments share the runs.

    Args:
        pool ([`~datasets.Dataset`]):
            Rows to choose from, scored or not.
        model (`str`):
            The model to fine-tune: Hub id or folder.
        validation ([`~datasets.Dataset`], `list[dict]` or `dict`):
            See [`DIQScorer`].
        heldout ([`~datasets.Dataset`] or `list[dict]`):
            Rows that no strategy sees, by which trained models are measured: see
            [`~diq_hf.comparison.heldout.HeldOut`].
        output (`str` or `Path`):
            Folder for results: `comparison.json`, `index.html`, `table.md` and `runs/`.
        strategies (`Sequence[str]`, *optional*, defaults to `"diq"`, `"diq-paper"` and four baselines):
            Who chooses: names of [`~diq_hf.comparison.strategies.STRATEGIES`], with options of [`select_subset`] after
            a colon (`"diq:per=token"`), or `"column:NAME"`. `"random"` is always among them, as the mark to beat.
        ratio (`float` or `Sequence[float]`, *optional*, defaults to `0.1`):
            Budgets: shares of the pool's trained tokens.
        seeds (`Sequence[int]`, *optional*, defaults to `(0, 1, 2)`):
            Seeds of training, one run each.
        budget (`str`, *optional*, defaults to `"tokens"`):
            `"tokens"`, or `"rows"` for as many rows, whatever their lengths; steps are equally many in either case.
        training (`dict`, *optional*):
            Fields of [`~trl.SFTConfig`]. `per_device_train_batch_size` says how many tokens a step has: those of so
            many average rows.
        lora (`dict`, *optional*, defaults to `"auto"`):
            Fields of [`~peft.LoraConfig`]; `"auto"` is the paper's (r = 8 on q, k, v), `None` trains all weights.
        model_init_kwargs (`dict`, *optional*):
            Arguments of `from_pretrained`.
        difficulty (`str` or [`~diq_hf.difficulty.sources.DifficultySource`], *optional*, defaults to `"ifd"`):
            See [`DIQScorer`].
        group_column (`str`, *optional*):
            Column that names the groups of validation and held-out rows.
        source_column (`str`, *optional*, defaults to `"source"`):
            Column that says where a row of the pool is from, for the page.
        on_leak (`str`, *optional*, defaults to `"raise"`):
            What to do with held-out rows that stand in the pool: `"raise"`, or `"drop"` to measure by the others.
        tasks (`Sequence[str]`, *optional*):
            Tasks of `lm-eval`, where that is installed.
        quick (`bool`, *optional*, defaults to `False`):
            An early answer on 400 rows of the pool and 100 held-out ones.
        finished_only (`bool`, *optional*, defaults to `False`):
            Train nothing: what is done so far, with a warning that names what is missing.
        sources (`dict`, *optional*):
            Where rows are from, by `"pool"`, `"validation"` and `"heldout"`, for the page.
        commands (`Sequence[str]`, *optional*):
            Commands that repeat this, for the page.

    Returns:
        [`~diq_hf.comparison.results.Comparison`]: Everything that was run.

    Raises:
        `ValueError`: The comparison would be unfair: held-out rows stand in the pool, a strategy cannot meet the
            budget, or there are fewer rows than steps.

    Example:

    ```python
    from diq_hf import compare

    compare(pool, "HuggingFaceTB/SmolLM2-135M-Instruct", validation, heldout, "compared", ["diq", "random"], ratio=0.1)
    ```
    """
    output = Path(output)
    ratios = tuple(dict.fromkeys([ratio] if isinstance(ratio, float | int) else ratio))
    asked = [Strategy.parse(text) for text in dict.fromkeys([*strategies, "random"])]
    _check(asked, ratios, seeds, budget, on_leak)
    trained = Training(model, training or {}, dict(LORA) if lora == "auto" else lora, model_init_kwargs or {})
    heldout = heldout if isinstance(heldout, Dataset) else Dataset.from_list(list(heldout))
    if quick:
        pool, heldout = _some(pool, QUICK_POOL), _some(heldout, QUICK_HELDOUT)
    warnings = []
    if on_leak == "raise":
        check_leaks(pool, plain_texts(heldout))
    else:
        heldout, dropped = _without_leaks(pool, heldout)
        warnings += [f"{dropped} held-out rows that stand in the pool were left out."] if dropped else []
    groups = {name: list(rows) for name, rows in validation_groups(validation, group_column).items()}
    if isinstance(difficulty, str) and difficulty.startswith("column:") and "influence" not in pool.column_names:
        difficulty_source(difficulty).missing(pool)  # refused before the model is loaded
    loaded_model, tokenizer = trained.load()
    encoder = _encoder(trained, loaded_model, tokenizer)
    measured = HeldOut(heldout, encoder, group_column)
    scoring = Scoring(groups, difficulty, encoder)
    output.mkdir(parents=True, exist_ok=True)
    with FileLock(output / "scores.lock"):  # others wait for the first, and find its scores
        scored = score_pool(pool, loaded_model, scoring, asked, output / "chunks")
        scored = add_rankings(scored, asked, trained, (loaded_model, tokenizer), output / "rankings")
    warnings += _seen_by_choosers(groups, heldout)
    if unusable := len(scored.scored) - len(scored.usable):
        warnings.append(f"{unusable} rows of the pool have no scores or no trained token, and none takes them.")
    weights = model_digest(loaded_model)
    decisive = {
        "model": weights,
        "tokenizer": tokenizer_digest(tokenizer),
        "training": trained.settings,
        "encoding": encoder.settings,
        "heldout": rows_digest(measured.rows),
        "questions": [[rows_digest(question.replies), question.right] for question in measured.questions],
        "tasks": list(tasks),
    }
    plan = make_plan(scored, trained, asked, ratios, seeds, budget, decisive)
    folder = RunFolder(output / "runs")
    before = _untrained(measured, loaded_model, folder, decisive)
    del loaded_model
    if not finished_only:
        with tqdm(total=sum(map(plan.tokens_of, plan.runs)), unit=" tokens", unit_scale=True) as bar:
            work = _Work(plan, measured, tokenizer, tasks, bar)
            folder.finish(plan.runs, work.do, work.done)
    runs = tuple(found for run in plan.runs if (found := folder.result(run)) is not None)
    result = Comparison(
        digest=digest([decisive, scored.digest(scored.usable), budget]),
        budget=budget,
        ratios=ratios,
        seeds=tuple(seeds),
        strategies=tuple(strategy.text for strategy in asked),
        pool=scored.facts(source_column),
        heldout=HeldoutFacts(
            groups=measured.groups,
            tokens=measured.tokens,
            before=before.losses,
            question_groups=measured.question_groups,
            correct_before=before.correct,
        ),
        choices=plan.choices,
        runs=runs,
        epoch=_epoch(trained, int(scored.num_tokens.sum()), runs),
        training=trained.settings,
        model=ModelFacts(**public_name(model), digest=weights),
        sources=sources,
        commands=tuple(commands) or None,
        versions=versions(),
        warnings=tuple(warnings),
        quick=quick,
    )
    save(result, output)
    return result


def save(comparison: Comparison, output: Path) -> None:
    """Writes what a person and a program read of a comparison."""
    with replacing(output / "comparison.json") as unfinished:
        unfinished.write_text(dumped(comparison))
    with replacing(output / "table.md") as unfinished:
        unfinished.write_text(markdown_table(comparison) + "\n")
    write_page(comparison, output / "index.html")


class _Work:
    """The runs that this process does, and a bar that says which and how long it will take."""

    def __init__(self, plan: Plan, heldout: HeldOut, tokenizer: Any, tasks: Sequence[str], bar: Any):
        self.plan, self.heldout, self.tokenizer, self.names, self.bar = plan, heldout, tokenizer, tasks, bar
        self.shown = 0  # tokens of the present run that the bar has already
        self.own: set[str] = set()

    def do(self, run: Run) -> RunFacts:
        """Does a run."""
        self.bar.set_description(run.name)
        tokens = self.plan.tokens_of(run)

        def progress(step: int) -> None:
            now = tokens * step // run.num_steps
            self.bar.update(now - self.shown)
            self.shown = now

        self.shown = 0
        self.own.add(run.digest)
        try:
            return self.plan.do(run, self.heldout, progress, self._tasks if self.names else None)
        except Exception as error:
            error.add_note(f"This was run {run.name}.")
            raise

    def done(self, run: Run) -> None:
        """Takes note of a run that is done, by whomever."""
        tokens = self.plan.tokens_of(run)
        if run.digest not in self.own:  # of no pace of ours
            self.bar.total -= tokens
            self.bar.refresh()

    def _tasks(self, model: Any) -> dict[str, float]:
        from .lm_eval_tasks import lm_eval_tasks

        return lm_eval_tasks(model, self.tokenizer, self.names)


def _check(
    strategies: Sequence[Strategy], ratios: Sequence[float], seeds: Sequence[int], budget: str, on_leak: str
) -> None:
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            "One process does a run. Start the same command several times without a launcher, each with "
            "a device of its own (`CUDA_VISIBLE_DEVICES`): they share the runs."
        )
    wanted = ["scipy", "matplotlib", *(["bm25s"] if any(one.column == "bm25" for one in strategies) else [])]
    if missing := [name for name in wanted if importlib.util.find_spec(name) is None]:
        raise ImportError(f"A comparison needs {', '.join(missing)}: `pip install 'diq-hf[compare]'`.")
    if budget not in ("tokens", "rows"):
        raise ValueError(f"`budget` is {budget!r}; use 'tokens' or 'rows'.")
    if on_leak not in ("raise", "drop"):
        raise ValueError(f"`on_leak` is {on_leak!r}; use 'raise' or 'drop'.")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"`seeds` are {list(seeds)}; pass one at least, and none twice.")
    for ratio in ratios:
        if isinstance(ratio, bool) or not 0 < ratio < 1:
            raise ValueError(f"`ratio` must be between 0 and 1, got {ratio!r}; strategy 'full' takes all rows.")
    if not ratios:
        raise ValueError("Pass a `ratio`.")
    if budget == "rows" and any(strategy.name == "diq-online" for strategy in strategies):
        raise ValueError("'diq-online' chooses by tokens. Leave it out, or pass `budget='tokens'`.")


def _some(rows: Dataset, most: int) -> Dataset:
    return rows if len(rows) <= most else rows.shuffle(seed=0).select(range(most))


def _without_leaks(pool: Dataset, heldout: Dataset) -> tuple[Dataset, int]:
    leaking = {leak.other_row for leak in find_leaks(pool, plain_texts(heldout), MAX_SIMILARITY)}
    if len(leaking) == len(heldout):
        raise ValueError("Every held-out row stands in the pool, so that nothing is left to measure by.")
    return heldout.select([i for i in range(len(heldout)) if i not in leaking]), len(leaking)


def _seen_by_choosers(groups: Mapping[str | None, Any], heldout: Dataset) -> list[str]:
    """A warning where held-out rows are validation rows as well: those who choose by them would know them."""
    texts = plain_texts(heldout)
    found = [find_leaks(Dataset.from_list(list(rows)), texts, MAX_SIMILARITY) for rows in groups.values()]
    leaking = {leak.other_row for leaks in found for leak in leaks}
    if not leaking:
        return []
    return [f"{len(leaking)} held-out rows stand among the validation rows, by which most strategies choose."]


def _encoder(training: Training, model: Any, tokenizer: Any) -> RowEncoder:
    """Encodes rows as the trainer will."""
    arguments = training.arguments
    return RowEncoder(
        tokenizer,
        max_length=arguments.max_length,
        truncation_mode=arguments.truncation_mode,
        completion_only_loss=arguments.completion_only_loss,
        assistant_only_loss=arguments.assistant_only_loss,
        dataset_text_field=arguments.dataset_text_field,
        vocab_size=model.get_input_embeddings().weight.shape[0],
    )


def _untrained(heldout: HeldOut, model: Any, folder: RunFolder, decisive: Any) -> RunFacts:
    """The held-out rows under the model before any training, measured once."""
    run = Run("untrained", None, 0, (), 0, run_digest(decisive, "", 0, 0))

    def measure(run: Run) -> RunFacts:
        losses, correct = heldout.measure(model)
        return RunFacts(
            strategy=run.strategy,
            seed=run.seed,
            steps=0,
            rows=0,
            tokens=0,
            losses=tuple(map(float, losses)),
            correct=None if correct is None else tuple(map(float, correct)),
            training=Work(),
        )

    folder.finish([run], measure, lambda run: None)
    return folder.result(run)


def _epoch(training: Training, num_tokens: int, runs: Sequence[RunFacts]) -> Work:
    """One pass of training over the pool; its seconds at the pace of the runs."""
    work = training.work(num_tokens)
    paces = [run.training.seconds / run.training.passes for run in runs if run.training.passes]
    return replace(work, seconds=float(np.median(paces)) * work.passes if paces else 0.0)
