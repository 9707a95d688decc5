"""`DIQScorer`: difficulty and influence as columns, through `datasets.map`."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets.formatting.formatting import LazyBatch

from ..difficulty.sources import DifficultySource, difficulty_source
from ..engine.influence import Direction, InfluenceEngine
from ..engine.loading import load_model
from ..engine.projections import Projection
from ..engine.zero import shape_of
from ..recipe import Recipe, SelectionFacts
from ..rows.encoded import EncodedRow
from ..rows.formats import RowEncoder
from ..rows.presets import column_template
from ..rows.templates import ColumnTemplate
from ..rows.validation import bad_row_mode, encode_group, validation_groups
from ..selection.turns import ALIGNMENT
from .alignment import LEAST_DIM, alignment_projection
from .audit import Audit
from .columns import count_unscored, reusable_difficulties, score_rows
from .examples import as_rows, is_batched, read_columns
from .gradients import ValidationGradients
from .mismatch import MismatchNull
from .recipe import (
    Meter,
    WeightsDigest,
    difficulty_recipe,
    fingerprint,
    projection_column,
    scorer_recipe,
)
from .reliability import Reliability
from .whole import WholeDatasets
from .workers import shared


EXTRA_COLUMNS = ("loss", "num_tokens", "num_trained", "mismatch", ALIGNMENT)


class DIQScorer(ValidationGradients, WholeDatasets):
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
        columns (`str` or [`~diq_hf.rows.templates.ColumnTemplate`], *optional*):
            For rows of no known format: a preset such as `"alpaca"` or `"medical-o1"`, or format strings over columns.
            Validation rows without these columns are read by their own format. Train on `ds.map(template)`.
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
            difficulty but IFD), `"alignment"` (cosines of the row's gradient with that of each validation row, which
            choose in turn by `select_subset(order="alignment")`) and, of a classifier, `"difficulty_knowledge"`,
            `"difficulty_reasoning"` and `"difficulty_overall"`.
        source_column (`str`, *optional*, defaults to `"source"`):
            Column that says where a row is from, if the dataset has it: `mismatch` compares rows of one source.
        max_tokens_per_batch (`int`, *optional*):
            Tokens in a forward pass, padding counted; halved by itself when memory runs out. By default 2048 on a CPU
            and 16384 elsewhere. Scores do not depend on it.
        on_bad_row (`str`, *optional*, defaults to `"raise"`):
            `"raise"` stops at a row that cannot be scored; `"skip"` gives it NaN scores, which no rule ever selects,
            and logs it.
        overwrite (`bool`, *optional*, defaults to `False`):
            Replace columns of the same names instead of refusing.
        batched (`bool`, *optional*):
            Says whether a call gets a batch or a row. Only needed where `map` gives plain values that could be both.
        model_init_kwargs (`dict`, *optional*):
            Arguments for `from_pretrained` when `model` is a string. `dtype` is bf16 where the hardware computes in it
            and fp32 elsewhere, unless given.

    Should the weights change, rows that come after are scored by the new ones: every `map` and `score` of a dataset
    looks at all of them. A stream (`IterableDataset.map`) looks at a sample of every weight with each batch and at all
    of them again and again, in a twentieth of its time, so it may score some batches more by the old ones if single
    values were written through `.data`.

    `ds.map(scorer, batched=True)` keeps to one process; [`~DIQScorer.score`] shares long jobs between processes and
    resumes them. Under `accelerate launch --use_fsdp --fsdp_version 2` a model given by name is loaded in shards, and
    `score` runs on all of them; so it does with a model that FSDP2 has sharded.

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
        columns: str | Mapping | ColumnTemplate | None = None,
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
        on_bad_row = bad_row_mode(on_bad_row)
        template = column_template(columns)
        groups = validation_groups(validation, group_column, template.columns if template else ())
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
            vocab_size=shape_of(self.model.get_input_embeddings().weight)[0],
            template=template,
        )
        self.extra_columns = tuple(extra_columns)
        self.source_column = source_column
        self.on_bad_row = on_bad_row
        self.overwrite = overwrite
        self.batched = batched
        self.projection = (
            None if projection_dim is None else Projection(projection_dim, list(self.engine.modules), projection_seed)
        )
        # What gradients are compared by, where they are: as they are stored, if they are.
        self.compared_by = self.projection
        if ALIGNMENT in extra_columns and projection_dim is not None and projection_dim < LEAST_DIM:
            raise ValueError(
                f"`alignment` compares gradients as they are stored, and `projection_dim={projection_dim}` is too "
                f"coarse for that. Take at least {LEAST_DIM}, or leave it out."
            )
        if ALIGNMENT in extra_columns and self.compared_by is None:
            self.compared_by = alignment_projection(list(self.engine.modules), projection_seed)
        self.validation = {name: encode_group(rows, name, self.encode) for name, rows in groups.items()}
        self._name = str(model) if isinstance(model, str | Path) else None
        self.weights_digest = WeightsDigest(self.model)
        self.meter = Meter()
        self.process = os.getpid()
        self._directions: dict[str, Direction] = {}
        self._joint: tuple[list[str], Direction | None] | None = None  # of all groups' halves
        self._projected: tuple[list[str], np.ndarray] | None = None  # the validation rows
        self.calibration: MismatchNull | None = None  # by `calibrate`
        self.used_null: MismatchNull | None = None  # by the last `score`
        self.reliability: Reliability | None = None  # of the last `score`
        self.audit: Audit | None = None  # of the last `select`
        self.selection: SelectionFacts | None = None  # likewise

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it adds."""
        kept = self.difficulty is not None and "difficulty" in self.difficulty.columns
        names = [] if self.difficulty is None or kept else ["difficulty"]
        names += ["influence", *(f"influence_{name}" for name in self.groups), *self.extra_columns]
        return (*names, projection_column(self)) if self.projection else tuple(names)

    @property
    def tests_mismatch(self) -> bool:
        """Whether `mismatch` is one of the columns."""
        return "mismatch" in self.extra_columns

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

        The weights are looked at anew: what has been written to them since is noticed here at the latest.

        `cost` counts what this process has computed itself; it is `None` where everything came from a cache.

        Example:

        ```python
        scored = diq_score.score(ds)
        push_subset(select_subset(scored, ratio=0.01), "me/medical-diq", scored=scored, recipe=diq_score.recipe())
        ```
        """
        return scorer_recipe(self, self._name)

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
        if self.engine.lockstep.size > 1:
            raise ValueError(
                "The model is in shards, so its processes must score the same rows at the same time, and `map` lets "
                "each find some of them in its own cache. Use `diq_score.score(ds)`."
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
            self.weights_digest.glance()
        found = score_rows(self, as_rows(values), indices, null=self.calibration)
        if len(found["influence"]) > 1:
            count_unscored(found["influence"], found.get("difficulty"))
        return found

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

    def encode(self, row: Mapping) -> EncodedRow:
        """One row as the model trains on it.

        Raises:
            [`RowError`]: The row cannot be trained on, or is longer than the model can take.
        """
        encoded = self.encoder(row)
        self.engine.check_row(encoded)
        return encoded

    def _read(self, examples: Mapping) -> dict:
        self._check_columns(examples)
        own = self.difficulty.columns if self.difficulty else ()
        names = [*self.encoder.columns, "image", "images"]
        names += [self.source_column] if "mismatch" in self.columns else []
        return read_columns(examples, names, own, self.encoder.of_template)

    def _check_columns(self, present: Iterable[str]) -> None:
        if self.encoder.template is not None:
            self.encoder.template.check_columns(present)
        if not self.overwrite and (clash := [name for name in self.columns if name in present]):
            raise ValueError(
                f"The dataset already has {clash}. Remove the columns, pass `overwrite=True`, or keep an existing "
                "difficulty with `difficulty='column:difficulty'`."
            )

    def __reduce__(self):
        # `datasets` hashes a function by its pickle, and sends it to its workers that way.
        return shared(self)
