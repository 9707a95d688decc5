"""`DIQScorer`: difficulty and influence as columns, through `datasets.map`."""

import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from datasets.formatting.formatting import LazyBatch

from ..difficulty.sources import DifficultySource, difficulty_source
from ..engine.influence import Direction, InfluenceEngine
from ..engine.loading import load_model
from ..engine.projections import Projection
from ..recipe import Recipe
from ..rows.formats import RowEncoder
from ..rows.validation import encode_group, validation_groups
from .columns import count_unscored, progress, reusable_difficulties, score_rows
from .examples import as_rows, is_batched, read_columns
from .landmarks import Audit
from .mismatch import NULL_SIZE, MismatchNull, calibrate
from .recipe import (
    Meter,
    WeightsDigest,
    difficulty_recipe,
    direction_recipes,
    fingerprint,
    halves_recipes,
    projection_column,
    scorer_recipe,
)
from .reliability import Reliability, half_gradients, report, whole_difference


EXTRA_COLUMNS = ("loss", "num_tokens", "num_trained", "mismatch")

# Scorers by fingerprint, for forked workers of `map(num_proc=...)`, which share this process's memory.
_LIVE: weakref.WeakValueDictionary = weakref.WeakValueDictionary()


class DIQScorer:
    """Adds `difficulty` and `influence` to the rows of a dataset, by `ds.map(scorer, batched=True)`.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model that is to be fine-tuned: Hub id, folder, or loaded. It comes back as it was.
        validation ([`~datasets.Dataset`], `list[dict]` or `dict`):
            Rows that stand for what the model should become good at, in any format `SFTTrainer` takes. 20 a task in
            the paper; 300 and more make ranks stable. A `dict` of several, by name, adds a column `influence_<name>`
            for each, from the same pass; `influence` is then on all their rows together.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Tokenizer; by default the model's own.
        difficulty (`str` or [`~diq_hf.difficulty.sources.DifficultySource`], *optional*, defaults to `"ifd"`):
            `"ifd"`, `"loss"` or `"num_tokens"` (under the model itself, no set-up), `"column:NAME"`, a
            sequence-classification checkpoint (Hub id or folder), a source such as [`ClassifierDifficulty`], or `None`
            for influence alone.
        target_modules (`str` or `list[str]`, *optional*):
            Linear modules whose weights are scored, named as in [`~peft.LoraConfig`]; by default the attention's q, k
            and v. A PEFT model is scored by its trainable parameters instead.
        max_length (`int` or `None`, *optional*, defaults to `1024`):
            As in [`~trl.SFTConfig`], like the next four.
        truncation_mode (`str`, *optional*, defaults to `"keep_start"`):
            See [`~trl.SFTConfig`].
        completion_only_loss (`bool`, *optional*):
            See [`~trl.SFTConfig`].
        assistant_only_loss (`bool`, *optional*, defaults to `False`):
            See [`~trl.SFTConfig`].
        dataset_text_field (`str`, *optional*, defaults to `"text"`):
            See [`~trl.SFTConfig`].
        group_column (`str`, *optional*):
            Column of the validation rows that names each row's group (a task, say): the same as a `dict` of them.
        projection_dim (`int`, *optional*):
            Also stores each row's gradient, projected to so many numbers (4096 in the paper; 16 KiB a row), as column
            `projected_gradient_<digest>`, from which [`~diq_hf.projected_influence`] estimates the influence on other
            validation sets without the model.
        projection_seed (`int`, *optional*, defaults to `0`):
            Seed of the projection.
        extra_columns (`Sequence[str]`, *optional*):
            Further columns to add: `"loss"` (the row's mean loss, nats), `"num_tokens"` (its tokens), `"num_trained"`
            (those that are trained), `"mismatch"` (near 0 where the answer belongs to its prompt, anywhere in [0, 1]
            where it belongs to another: see [`~DIQScorer.calibrate`]; a forward pass without the prompt beside any
            difficulty but IFD) and, of a classifier, `"difficulty_knowledge"`, `"difficulty_reasoning"` and
            `"difficulty_overall"`.
        source_column (`str`, *optional*, defaults to `"source"`):
            Column that says where a row is from, if the dataset has it: `mismatch` compares rows of one source.
        max_tokens_per_batch (`int`, *optional*):
            Tokens in a forward pass, padding counted; halved by itself when memory runs out. By default 2048 on a CPU
            and 16384 elsewhere. Scores do not depend on it.
        on_bad_row (`str`, *optional*, defaults to `"raise"`):
            `"raise"` stops at a row that cannot be scored; `"null"` gives it NaN scores, which no rule ever selects,
            and logs it.
        overwrite (`bool`, *optional*, defaults to `False`):
            Replace columns of the same names instead of refusing.
        batched (`bool`, *optional*):
            Says whether a call gets a batch or a row. Only needed where `map` gives plain values that could be both.
        model_init_kwargs (`dict`, *optional*):
            Arguments for `from_pretrained` when `model` is a string. `dtype` is bf16 where the hardware computes in it
            and fp32 elsewhere, unless given.

    `ds.map(scorer, batched=True)` keeps to one process; [`~DIQScorer.score`] shares long jobs between processes and
    resumes them.

    Columns: `difficulty` (float32; larger is harder) and `influence` (float32; one SGD step of size η on the row
    lowers the mean validation loss by η·influence to first order), as in https://huggingface.co/papers/2508.01450.

    Raises:
        `ValueError`: There are no validation rows, one of them cannot be trained on, or tokenizer and model do not
            belong together.

    Example:

    ```python
    from datasets import load_dataset
    from diq_hf import DIQScorer, QuadrantRule, select_subset

    diq_score = DIQScorer("HuggingFaceTB/SmolLM2-135M-Instruct", validation=validation_rows)
    scored = ds.map(diq_score, batched=True)
    subset = select_subset(scored, ratio=0.01)
    ```
    """

    def __init__(
        self,
        model: Any,
        validation: Iterable[Mapping] | Mapping[str, Iterable[Mapping]],
        processing_class: Any = None,
        *,
        difficulty: str | DifficultySource | None = "ifd",
        target_modules: str | Sequence[str] | None = None,
        max_length: int | None = 1024,
        truncation_mode: str = "keep_start",
        completion_only_loss: bool | None = None,
        assistant_only_loss: bool = False,
        dataset_text_field: str = "text",
        group_column: str | None = None,
        projection_dim: int | None = None,
        projection_seed: int = 0,
        extra_columns: Sequence[str] = (),
        source_column: str = "source",
        max_tokens_per_batch: int | None = None,
        on_bad_row: str = "raise",
        overwrite: bool = False,
        batched: bool | None = None,
        model_init_kwargs: dict | None = None,
    ):
        if on_bad_row not in ("raise", "null"):
            raise ValueError(f"`on_bad_row` is {on_bad_row!r}; use 'raise' or 'null'.")
        groups = validation_groups(validation, group_column)
        self.difficulty = difficulty_source(difficulty)
        known = [*EXTRA_COLUMNS, *(self.difficulty.extra_columns if self.difficulty else ())]
        if unknown := sorted(set(extra_columns) - set(known)):
            raise ValueError(f"`extra_columns` {unknown} are unknown; choose from {known}.")
        self.model, self.processing_class = load_model(model, processing_class, model_init_kwargs)
        self.engine = InfluenceEngine(self.model, target_modules, max_tokens_per_batch)
        self.encoder = RowEncoder(
            self.processing_class,
            max_length=max_length,
            truncation_mode=truncation_mode,
            completion_only_loss=completion_only_loss,
            assistant_only_loss=assistant_only_loss,
            dataset_text_field=dataset_text_field,
            vocab_size=self.model.get_input_embeddings().weight.shape[0],
        )
        self.extra_columns = tuple(extra_columns)
        self.source_column = source_column
        self.on_bad_row = on_bad_row
        self.overwrite = overwrite
        self.batched = batched
        self.projection = (
            None if projection_dim is None else Projection(projection_dim, list(self.engine.modules), projection_seed)
        )
        self.validation = {name: encode_group(rows, name, self.encoder) for name, rows in groups.items()}
        self._name = str(model) if isinstance(model, str | Path) else None
        self.weights_digest = WeightsDigest(self.model)
        self.meter = Meter()
        self._process = os.getpid()
        self._directions: dict[str, Direction] = {}
        self._difference: tuple[list[str], Direction | None] | None = None
        self.calibration: MismatchNull | None = None  # by `calibrate`
        self.used_null: MismatchNull | None = None  # by the last `score`
        self.reliability: Reliability | None = None  # of the last `score`
        self.audit: Audit | None = None  # of the last `select`

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it adds."""
        kept = self.difficulty is not None and "difficulty" in self.difficulty.columns
        names = [] if self.difficulty is None or kept else ["difficulty"]
        names += ["influence", *(f"influence_{name}" for name in self.groups), *self.extra_columns]
        return (*names, projection_column(self)) if self.projection else tuple(names)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the validation groups, if there are several."""
        return tuple(name for name in self.validation if name is not None)

    @property
    def fingerprint(self) -> str:
        """Names everything that decides the scores: weights, tokenizer, template, validation rows and settings."""
        return fingerprint(self)

    def recipe(self) -> Recipe:
        """What decided the scores and what they cost, naming no local path: for [`~diq_hf.push_subset`].

        `cost` counts what this process has computed itself; it is `None` where everything came from a cache.

        Example:

        ```python
        scored = diq_score.score(ds)
        push_subset(select_subset(scored, ratio=0.01), "me/medical-diq", scored=scored, recipe=diq_score.recipe())
        ```
        """
        return scorer_recipe(self, self._name)

    def direction_recipes(self) -> list[str]:
        """Name what decides each group's validation gradient; whatever is scored by it plays no part."""
        return direction_recipes(self)

    def validation_gradients(self) -> list[Direction]:
        """Each group's mean validation gradient at the model's present weights, computed when first needed."""
        self._fill()
        return [self._directions[recipe] for recipe in self.direction_recipes()]

    def half_difference(self) -> Direction | None:
        """The validation gradient of one random half of the validation rows less that of the other, from the same
        pass; `None` where they are too few."""
        means, recipes = self.validation_gradients(), halves_recipes(self)
        if self._difference is None or self._difference[0] != recipes:
            self._difference = recipes, whole_difference(means, [self._directions[recipe] for recipe in recipes])
        return self._difference[1]

    def direction(self, recipe: str) -> Direction:
        """A direction that is known, by what it was made by."""
        return self._directions[recipe]

    def _fill(self) -> None:
        pairs = list(zip(self.direction_recipes(), halves_recipes(self), self.validation.values(), strict=True))
        current = {recipe for *recipes, _ in pairs for recipe in recipes}
        self._directions = {recipe: found for recipe, found in self._directions.items() if recipe in current}
        missing = {pair[:2]: pair[2] for pair in pairs if not self._directions.keys() >= set(pair[:2])}
        if not missing:
            return
        rows_of_all = [row for rows in missing.values() for row in rows]
        with self.meter.validation(), progress("Validation gradient", rows_of_all) as bar:
            gradient = lambda rows: self.engine.validation_gradient(rows, bar.update)  # noqa: E731
            for recipes, rows in missing.items():
                self._directions |= dict(zip(recipes, half_gradients(rows, gradient), strict=True))

    def use_direction(self, recipe: str, direction: Direction) -> None:
        """Takes a validation gradient that was computed elsewhere, under one of [`~DIQScorer.direction_recipes`]."""
        self._directions[recipe] = direction

    def calibrate(self, dataset: Any, size: int = NULL_SIZE, seed: int = 0) -> MismatchNull:
        """Measures how much prompts of other rows help answers, which is what `mismatch` holds a row's own against.

        [`~DIQScorer.score`] does so by itself, on the dataset that it scores. `map` sees a batch at a time, so that
        `extra_columns=["mismatch"]` needs this first.

        Args:
            dataset ([`~datasets.Dataset`] or `list[dict]`):
                The rows that will be scored, or others of the same kind; a few hundred of them are looked at.
            size (`int`, *optional*, defaults to 384):
                Answers that get the prompt of another row, a forward pass each.
            seed (`int`, *optional*, defaults to `0`):
                Of the draw.

        Returns:
            [`~diq_hf.scoring.mismatch.MismatchNull`]: What was measured. The scorer uses it from now on.

        Example:

        ```python
        diq_score = DIQScorer(model, validation, extra_columns=["mismatch"])
        diq_score.calibrate(ds)
        scored = ds.map(diq_score, batched=True)
        ```
        """
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")) or isinstance(dataset, Mapping):
            raise TypeError(
                f"A {type(dataset).__name__} has no rows by position. Pass a split, or some rows of a stream: "
                "`diq_score.calibrate(list(stream.shuffle(seed=0).take(3000)))`."
            )
        self.calibration = calibrate(self, dataset, size, seed)
        return self.calibration

    def score(
        self,
        dataset: Any,
        chunk_size: int = 512,
        cache_dir: str | Path | None = None,
        accelerator: Any = None,
    ) -> Any:
        """Scores a dataset chunk by chunk, on all processes of a launcher, and goes on where a killed run stopped.

        Chunks are written to disk as they are done and found again by what decides their scores: the scorer's
        fingerprint, the dataset and `chunk_size`. Under `torchrun` or `accelerate launch` every process calls this and
        returns the same dataset, in the original order. Chunks are shared out by position, so the number of processes
        may change between runs; it changes no score.

        Args:
            dataset ([`~datasets.Dataset`] or [`~datasets.DatasetDict`]):
                Rows to score.
            chunk_size (`int`, *optional*, defaults to `512`):
                Rows in a chunk: what is lost at most, by each process, when a run is killed.
            cache_dir (`str` or `Path`, *optional*):
                Folder for the chunks, seen by every process; by default `diq_hf` in the cache of `datasets`.
            accelerator ([`~accelerate.Accelerator`] or [`~accelerate.PartialState`], *optional*):
                The processes to share the work with; by default the launcher's.

        Returns:
            The dataset with the new columns.
        """
        if isinstance(dataset, DatasetDict):
            parts = {name: self.score(part, chunk_size, cache_dir, accelerator) for name, part in dataset.items()}
            return DatasetDict(parts)
        if not isinstance(dataset, Dataset):
            raise TypeError(
                f"A {type(dataset).__name__} has no chunks. Use `dataset.map(scorer, batched=True)`, or make it a "
                "`Dataset` first."
            )
        from .chunks import score_in_chunks

        dataset = dataset.with_format(None)
        self.weights_digest(again=True)
        self._check_columns(dataset.column_names)
        if not len(dataset):
            raise ValueError("The dataset has no rows.")
        self.audit = None
        columns = score_in_chunks(self, dataset, chunk_size, cache_dir, accelerator)
        count_unscored(columns["influence"])
        report(self.reliability)
        dataset = dataset.remove_columns([name for name in columns if name in dataset.column_names])
        for name, values in columns.items():
            dataset = dataset.add_column(name, values if values.ndim == 1 else list(values))
        return dataset

    def select(
        self,
        dataset: Dataset,
        ratio: float | None = None,
        num_rows: int | None = None,
        max_scored: float = 0.45,
        max_mismatch: float = 0.2,
        seed: int = 0,
        chunk_size: int = 512,
        cache_dir: str | Path | None = None,
        accelerator: Any = None,
    ) -> tuple[Dataset, Audit]:
        """Chooses a subset without scoring every row, and says how much of the exact selection it found.

        Landmarks are scored exactly; a predictor learns from them; the rows it thinks most likely to be chosen are
        scored exactly, and so on. The choice is made from exact scores. Rows that are there twice are scored and
        chosen once. Resumed and shared out like [`~DIQScorer.score`].

        Args:
            dataset ([`~datasets.Dataset`]):
                The pool.
            ratio (`float`, *optional*):
                Share of its rows to choose.
            num_rows (`int`, *optional*):
                Number of rows, instead of `ratio`.
            max_scored (`float`, *optional*, defaults to `0.45`):
                Share of the pool that may be scored. Where the dataset has a difficulty, 0.2 will do for 5 %.
            max_mismatch (`float`, *optional*, defaults to `0.2`):
                With `extra_columns=["mismatch"]`, rows above it are passed over.
            seed (`int`, *optional*, defaults to `0`):
                Of everything that is drawn.
            chunk_size (`int`, *optional*, defaults to `512`):
                As in [`~DIQScorer.score`], like the next two.
            cache_dir (`str` or `Path`, *optional*):
                See [`~DIQScorer.score`].
            accelerator ([`~accelerate.Accelerator`] or [`~accelerate.PartialState`], *optional*):
                See [`~DIQScorer.score`].

        Returns:
            `tuple`: the subset, the first choice first, and the [`~diq_hf.scoring.landmarks.Audit`].

        Raises:
            `ImportError`: scikit-learn is not there.
            `ValueError`: There is no difficulty, or so few rows may be scored that nothing can be learned from them.

        Example:

        ```python
        subset, audit = diq_score.select(ds, ratio=0.01)
        print(audit)
        ```
        """
        if not isinstance(dataset, Dataset):
            raise TypeError(f"`select` takes a `Dataset`, not a {type(dataset).__name__}: pass one split of it.")
        from .selecting import select_audited

        if not 0 < max_scored <= 1:
            raise ValueError(f"`max_scored` must be in (0, 1], got {max_scored!r}.")
        settings = max_scored, max_mismatch, seed, chunk_size, cache_dir, accelerator
        self.audit = None
        subset, self.audit = select_audited(self, dataset.with_format(None), ratio, num_rows, *settings)
        return subset, self.audit

    def share_null(self, dataset: Dataset, cache_dir: str | Path | None = None, accelerator: Any = None) -> None:
        """Calibrates `mismatch` on a dataset as [`~DIQScorer.score`] does, for scoring parts of it."""
        from .chunks import null_of

        if self.calibration is None:
            self.calibration = null_of(self, dataset, cache_dir, accelerator)

    def __call__(self, examples: Mapping, indices: Any = None) -> dict[str, np.ndarray]:
        """Scores a batch or a row, in whatever form `map` gives it.

        Raises:
            [`RowError`]: A row cannot be scored (with `on_bad_row="raise"`).
            `ValueError`: The dataset has a column of the same name, or the rows are of no known form.
        """
        if not isinstance(examples, Mapping):
            raise TypeError(
                f"A scorer needs rows as dicts, got {type(examples).__name__}. Call `map` without `input_columns` and "
                "on a dataset that is not in arrow, pandas or polars format (`ds.with_format(None)`)."
            )
        if "mismatch" in self.columns and self.calibration is None:
            raise ValueError(
                "`mismatch` is held against prompts of other rows, and `map` sees a batch at a time. Call "
                "`diq_score.calibrate(ds)` first, or use `diq_score.score(ds)`, which does."
            )
        values = self._read(examples)
        batched = is_batched(examples, self.encoder.dataset_text_field) if self.batched is None else self.batched
        if not batched:
            found = score_rows(self, [values], [indices], null=self.calibration)
            return {name: column[0] for name, column in found.items()}
        if not isinstance(examples, LazyBatch):
            # A stream's `map` takes no fingerprint, so its batches look themselves whether the weights have changed.
            self.weights_digest(again=True)
        return score_rows(self, as_rows(values), indices, null=self.calibration)

    def score_batch(
        self,
        examples: Mapping[str, Sequence],
        indices: Sequence[int] | None = None,
        difficulties: Mapping[str, np.ndarray] | None = None,
        null: MismatchNull | None = None,
        halves: bool = False,
    ) -> dict:
        """Scores columns of rows, as a call does where a batch cannot be mistaken for a row.

        `difficulties` are the rows' [`~DIQScorer.difficulties`] where they are known already, and `null` is what
        `mismatch` is held against; `halves` adds [`HALVES`], from which the ranks' reliability is taken.
        """
        return score_rows(self, as_rows(self._read(examples)), indices, difficulties, null, halves)

    def difficulty_recipe(self, column_names: Iterable[str]) -> str | None:
        """Names what decides the difficulty of rows, whatever model scores them; `None` if the model does."""
        return difficulty_recipe(self, column_names)

    def difficulties(self, examples: Mapping[str, Sequence]) -> dict[str, np.ndarray]:
        """A reusable source's columns on rows. One that it cannot read gets NaN here and is refused when scored."""
        return reusable_difficulties(self, as_rows(self._read(examples)))

    def _read(self, examples: Mapping) -> dict:
        self._check_columns(examples)
        own = self.difficulty.columns if self.difficulty else ()
        own = (*own, self.source_column) if "mismatch" in self.columns else own
        return read_columns(examples, [*self.encoder.columns, "image", "images", *own])

    def _check_columns(self, present: Iterable[str]) -> None:
        if not self.overwrite and (clash := [name for name in self.columns if name in present]):
            raise ValueError(
                f"The dataset already has {clash}. Remove the columns, pass `overwrite=True`, or keep an existing "
                "difficulty with `difficulty='column:difficulty'`."
            )

    def __reduce__(self):
        # `datasets` hashes a function by its pickle, and sends it to its workers that way.
        fingerprint = self.fingerprint
        _LIVE[fingerprint] = self
        return _revive, (fingerprint,)


def _revive(fingerprint: str) -> DIQScorer:
    scorer = _LIVE.get(fingerprint)
    if scorer is None:
        raise RuntimeError(
            "A DIQScorer holds a model and lives in the process that made it; only forked workers can share it. Use "
            "`num_proc=None`, or start several processes with `torchrun`."
        )
    if os.getpid() != scorer._process:
        if scorer.engine.device.type != "cpu":
            raise RuntimeError("`num_proc` forks, and a fork cannot use the accelerator. Use `num_proc=None`.")
        # The forked copy of the thread pool has no threads; waiting for one would never end.
        torch.set_num_threads(1)
    return scorer
