"""`DIQScorer`: difficulty and influence as columns, through `datasets.map`."""

import contextlib
import importlib.metadata
import os
import platform
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from datasets.formatting.formatting import LazyBatch, LazyRow
from datasets.utils import tqdm
from transformers.utils import logging

from .. import __version__
from ..difficulty.sources import ClassifierDifficulty, DifficultySource, RowBatch, difficulty_source
from ..digest import digest, model_digest, sampled_digest, tokenizer_digest
from ..engine.influence import Direction, InfluenceEngine
from ..engine.loading import load_model
from ..engine.projections import COLUMN, Projection
from ..names import public_name
from ..rows.encoded import EncodedRow, RowError, rows_digest
from ..rows.formats import ACCEPTED, RowEncoder
from ..rows.validation import encode_group, row_name, validation_groups


logger = logging.get_logger(__name__)

# Part of every fingerprint: raise it whenever the same inputs would give other scores.
ALGORITHM = "diq-2"
EXTRA_COLUMNS = ("loss", "num_tokens")
# Libraries whose versions a recipe names.
LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets")

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
            Further columns to add: `"loss"` (the row's mean loss, nats), `"num_tokens"` (its tokens) and, of a
            classifier, `"difficulty_knowledge"`, `"difficulty_reasoning"` and `"difficulty_overall"`.
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

    Should the weights change, rows that come after are scored by the new ones: every `map` and `score` of a dataset
    looks at all of them. A stream (`IterableDataset.map`) looks at a sample of every weight with each batch and at all
    of them again and again, in a twentieth of its time, so it may score some batches more by the old ones if single
    values were written through `.data`.

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
        self.on_bad_row = on_bad_row
        self.overwrite = overwrite
        self.batched = batched
        self.projection = (
            None if projection_dim is None else Projection(projection_dim, list(self.engine.modules), projection_seed)
        )
        self._validation = {name: encode_group(rows, name, self._encode) for name, rows in groups.items()}
        self._name = str(model) if isinstance(model, str | Path) else None
        self._cost = {"rows": 0, "seconds": 0.0, "validation_seconds": 0.0}
        self._process = os.getpid()
        self._weights_digest: tuple[int, str] | None = None
        self._weights_sample, self._weights_due = "", 0.0
        self._directions: dict[str, Direction] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it adds."""
        kept = self.difficulty is not None and "difficulty" in self.difficulty.columns
        names = [] if self.difficulty is None or kept else ["difficulty"]
        names += ["influence", *(f"influence_{name}" for name in self.groups), *self.extra_columns]
        return (*names, self._projection_column) if self.projection else tuple(names)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the validation groups, if there are several."""
        return tuple(name for name in self._validation if name is not None)

    @property
    def fingerprint(self) -> str:
        """Names everything that decides the scores: weights, tokenizer, template, validation rows and settings."""
        weights = self._model_digest(again=True)  # first: the recipe holds it too
        return digest([ALGORITHM, self._recipe(), weights])

    def recipe(self) -> dict[str, Any]:
        """What decided the scores and what they cost, as plain JSON that names no local path: for
        [`~diq_hf.push_subset`].

        The weights are looked at anew: what has been written to them since is noticed here at the latest.

        `cost` counts what this process has computed itself; it is `None` where everything came from a cache.

        Example:

        ```python
        scored = diq_score.score(ds)
        push_subset(select_subset(scored, ratio=0.01), "me/medical-diq", scored=scored, recipe=diq_score.recipe())
        ```
        """
        config = self.model.config
        model = public_name(config._name_or_path) | {"revision": getattr(config, "_commit_hash", None)}
        if hasattr(self.model, "peft_config"):
            model["adapter"] = public_name(self._name)["name"]
        source = self.difficulty
        difficulty = source and {"source": type(source).__name__, "fingerprint": source.fingerprint}
        if isinstance(source, ClassifierDifficulty):
            difficulty["model"] = public_name(source.classifier.model.name_or_path)
        versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
        weights = self._model_digest(again=True)
        return {
            "algorithm": ALGORITHM,
            "model": model | {"digest": weights, "dtype": str(self.model.dtype).removeprefix("torch.")},
            "tokenizer": tokenizer_digest(self.processing_class),
            "validation": [
                {"group": name, "rows": len(rows), "digest": rows_digest(rows)}
                for name, rows in self._validation.items()
            ],
            "modules": sorted(self.engine.modules),
            "settings": self.encoder.settings | {"on_bad_row": self.on_bad_row},
            "difficulty": difficulty,
            "cost": self._cost | {"device": self.engine.device.type} if self._cost["rows"] else None,
            "versions": {"diq_hf": __version__, "python": platform.python_version(), **versions},
        }

    def direction_recipes(self) -> list[str]:
        """Name what decides each group's validation gradient; whatever is scored by it plays no part."""
        modules, weights = sorted(self.engine.modules), self._model_digest()
        return [digest([ALGORITHM, rows_digest(rows), modules, weights]) for rows in self._validation.values()]

    def validation_gradients(self) -> list[Direction]:
        """Each group's mean validation gradient at the model's present weights, computed when first needed."""
        recipes = self.direction_recipes()
        self._directions = {recipe: self._directions[recipe] for recipe in recipes if recipe in self._directions}
        missing = {
            r: rows for r, rows in zip(recipes, self._validation.values(), strict=True) if r not in self._directions
        }
        if missing:
            started = time.perf_counter()
            with _progress("Validation gradient", [row for rows in missing.values() for row in rows]) as bar:
                for recipe, rows in missing.items():
                    self._directions[recipe] = self.engine.validation_gradient(rows, bar.update)
            self._cost["validation_seconds"] += time.perf_counter() - started
        return [self._directions[recipe] for recipe in recipes]

    def use_direction(self, recipe: str, direction: Direction) -> None:
        """Takes a validation gradient that was computed elsewhere, under one of [`~DIQScorer.direction_recipes`]."""
        self._directions[recipe] = direction

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
        self._model_digest(again=True)
        self._check_columns(dataset.column_names)
        if not len(dataset):
            raise ValueError("The dataset has no rows.")
        columns = score_in_chunks(self, dataset, chunk_size, cache_dir, accelerator)
        _count_unscored(columns["influence"])
        dataset = dataset.remove_columns([name for name in columns if name in dataset.column_names])
        for name, values in columns.items():
            dataset = dataset.add_column(name, values if values.ndim == 1 else list(values))
        return dataset

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
        values = self._read(examples)
        batched = _is_batched(examples, self.encoder.dataset_text_field) if self.batched is None else self.batched
        if not batched:
            return {name: column[0] for name, column in self._score([values], [indices]).items()}
        if not isinstance(examples, LazyBatch):
            # A stream's `map` takes no fingerprint, so its batches look themselves whether the weights have changed.
            self._look_at_weights()
        return self._score_batch(values, indices)

    def score_batch(
        self,
        examples: Mapping[str, Sequence],
        indices: Sequence[int] | None = None,
        difficulties: Mapping[str, np.ndarray] | None = None,
    ) -> dict:
        """Scores columns of rows, as a call does where a batch cannot be mistaken for a row.

        `difficulties` are the rows' [`~DIQScorer.difficulties`] where they are known already.
        """
        return self._score_batch(self._read(examples), indices, difficulties)

    def difficulty_recipe(self, column_names: Iterable[str]) -> str | None:
        """Names what decides the difficulty of rows, whatever model scores them; `None` if the model does."""
        if self.difficulty is None or not self.difficulty.reusable:
            return None
        recipe = ["difficulty-1", self.difficulty.fingerprint, self.encoder.dataset_text_field]
        if "input_ids" in column_names:  # the text of token ids is the tokenizer's
            recipe += [self.encoder.settings, tokenizer_digest(self.processing_class)]
        return digest(recipe)

    def difficulties(self, examples: Mapping[str, Sequence]) -> dict[str, np.ndarray]:
        """A reusable source's columns on rows. One that it cannot read gets NaN here and is refused when scored."""
        rows = _rows(self._read(examples))
        prepared = {}
        for i, row in enumerate(rows):
            with contextlib.suppress(RowError):
                prepared[i] = self.difficulty.prepare(row, self.encoder)
        found = self.difficulty(RowBatch(list(prepared.values()), None, None, self.encoder, None))
        columns = {name: np.full(len(rows), np.nan) for name in found}
        for name, values in found.items():
            columns[name][list(prepared)] = values
        return columns

    def _encode(self, row: Mapping) -> EncodedRow:
        encoded = self.encoder(row)
        self.engine.check_row(encoded)
        return encoded

    def _score_batch(
        self, values: dict, indices: Sequence[int] | None, difficulties: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        rows = _rows(values)
        return self._score(rows, [None] * len(rows) if indices is None else list(indices), difficulties)

    def _read(self, examples: Mapping) -> dict:
        """The columns that scores depend on; no other is decoded."""
        self._check_columns(examples)
        names = [*self.encoder.columns, "image", "images", *(self.difficulty.columns if self.difficulty else ())]
        values = {name: examples[name] for name in dict.fromkeys(names) if name in examples}
        if not values:
            raise ValueError(f"The dataset's columns {sorted(examples)} are no known format. Use {ACCEPTED}.")
        return values

    def _check_columns(self, present: Iterable[str]) -> None:
        if not self.overwrite and (clash := [name for name in self.columns if name in present]):
            raise ValueError(
                f"The dataset already has {clash}. Remove the columns, pass `overwrite=True`, or keep an existing "
                "difficulty with `difficulty='column:difficulty'`."
            )

    def _score(
        self, rows: list[dict], indices: list[int | None], difficulties: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        started, validation_before = time.perf_counter(), self._cost["validation_seconds"]
        encoded: list[EncodedRow] = []
        prepared: list[Any] = []
        kept: list[int] = []
        for i, row in enumerate(rows):
            try:
                ready = self._encode(row)
                prepared.append(self.difficulty.prepare(row, self.encoder) if self.difficulty else None)
            except RowError as error:
                self._refuse(RowError(f"{row_name(i, indices[i], row)}: {error}"), error)
            else:
                encoded.append(ready)
                kept.append(i)
        scores = {name: np.full(len(rows), np.nan) for name in self.columns}
        scores["num_tokens"] = np.zeros(len(rows))
        if self.projection:
            scores[self._projection_column] = np.full((len(rows), self.projection.dim), np.nan)
        if encoded:
            found = self._influences(encoded)
            for i, influence, loss in zip(kept, found["influence"], found["loss"], strict=True):
                if not (np.isfinite(influence) and np.isfinite(loss)):
                    name = row_name(i, indices[i], rows[i])
                    self._refuse(
                        RowError(
                            f"{name}: its loss is {loss} and its influence {influence}. Check the row and the model's "
                            "dtype (fp16 overflows where bf16 and fp32 do not)."
                        )
                    )
            if difficulties is not None:
                found |= {name: values[kept] for name, values in difficulties.items()}
            elif self.difficulty is not None:
                batch = RowBatch(prepared, encoded, found["loss"], self.encoder, self._forward)
                found |= self.difficulty(batch)
            unscored = ~(np.isfinite(found["influence"]) & np.isfinite(found["loss"]))
            for name, values in found.items():
                values = np.array(values, dtype=float)
                values[unscored] = np.nan
                scores[name] = np.full((len(rows), *values.shape[1:]), np.nan)
                scores[name][kept] = values
            scores["num_tokens"][kept] = [len(row) for row in encoded]
        self._cost["rows"] += len(rows)
        self._cost["seconds"] += time.perf_counter() - started
        self._cost["seconds"] -= self._cost["validation_seconds"] - validation_before  # counted by itself
        if len(rows) > 1:
            _count_unscored(scores["influence"])
        types = dict.fromkeys(self.columns, np.float32) | {"num_tokens": np.int32}
        return {name: scores[name].astype(types[name]) for name in self.columns}

    def _influences(self, rows: Sequence[EncodedRow]) -> dict[str, np.ndarray]:
        """What one pass over the model gives."""
        directions = self.validation_gradients()
        with _progress("Scoring", rows) as bar:
            if self.projection:
                projected, influences, loss = self.engine.project(rows, directions, self.projection, bar.update)
            elif len(directions) > 1:
                influences, loss = self.engine.score(rows, directions, bar.update)
            else:
                influence, loss = self.engine.score(rows, directions[0], bar.update)
                influences = influence[:, None]
        # The mean over all rows: its gradient is the groups', weighted by their rows.
        weights = np.array([direction.num_rows for direction in directions], dtype=float)
        found = {"influence": influences @ (weights / weights.sum()), "loss": loss}
        found |= {f"influence_{name}": influences[:, k] for k, name in enumerate(self.groups)}
        return found | ({self._projection_column: projected} if self.projection else {})

    @property
    def _projection_column(self) -> str:
        made_by = [ALGORITHM, sorted(self.engine.modules), self.projection.dim, self.projection.seed]
        return COLUMN + digest([*made_by, self._model_digest()])[:8]

    def _forward(self, rows: Sequence[EncodedRow]) -> np.ndarray:
        with _progress("Difficulty", rows) as bar:
            return self.engine.losses(rows, bar.update)

    def _refuse(self, error: RowError, cause: Exception | None = None) -> None:
        if self.on_bad_row == "raise":
            raise RowError(f"{error} Or pass `on_bad_row='null'` to leave such rows unscored.") from cause
        logger.warning(f"Not scored: {error}")

    def _recipe(self) -> dict:
        return {
            "tokenizer": tokenizer_digest(self.processing_class),
            "validation": [[name, rows_digest(rows)] for name, rows in self._validation.items()],
            "settings": self.encoder.settings,
            "modules": sorted(self.engine.modules),
            "difficulty": self.difficulty.fingerprint if self.difficulty else None,
            "columns": self.columns,
            "on_bad_row": self.on_bad_row,
            "overwrite": self.overwrite,
            "batched": self.batched,
        }

    def _model_digest(self, again: bool = False) -> str:
        # In-place changes such as optimizer steps count up a parameter's version. Writes through `.data` do not, so
        # every `map` and every `score` take the digest again; batches of a stream look by themselves.
        version = sum(parameter._version for parameter in self.model.parameters())
        if again or self._weights_digest is None or self._weights_digest[0] != version:
            started = time.perf_counter()
            self._weights_digest = version, model_digest(self.model)
            ended = time.perf_counter()
            # Whatever its size, a model that is streamed through is hashed in 5 % of the time at most.
            self._weights_sample, self._weights_due = sampled_digest(self.model), ended + 20 * (ended - started)
        return self._weights_digest[1]

    def _look_at_weights(self) -> None:
        """Takes the model's digest again if a few values of each weight have changed, and from time to time anyway."""
        changed = self._weights_digest is None or self._weights_sample != sampled_digest(self.model)
        self._model_digest(again=changed or time.perf_counter() >= self._weights_due)

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


def _rows(values: dict) -> list[dict]:
    size = len(next(iter(values.values())))
    return [{name: column[i] for name, column in values.items()} for i in range(size)]


def _is_batched(examples: Mapping, text_field: str) -> bool:
    """Whether `map` gave a batch or a row: by its type, else by the depth of a column whose depth is known."""
    if isinstance(examples, LazyBatch):
        return True
    if isinstance(examples, LazyRow):
        return False
    for name in ("input_ids", "messages", "conversations", "prompt", text_field):
        value = examples.get(name)
        if value is None:
            continue
        if isinstance(value, str):
            return False
        if name == "input_ids" and hasattr(value, "ndim"):
            return value.ndim == 2 or value.dtype == object
        if len(value):
            # A row's messages are dicts and its ids numbers; a batch has lists of them, or strings.
            return not isinstance(value[0], dict | int)
    raise ValueError(
        f"Cannot tell a batch from a row by the columns {sorted(examples)}. Pass `batched=True` or `batched=False` to "
        "the scorer, or use `scorer.score(ds)`."
    )


def _count_unscored(influence: np.ndarray) -> None:
    if unscored := int(np.isnan(influence).sum()):
        logger.warning(f"{unscored} of {len(influence)} rows were not scored.")


def _progress(phase: str, rows: Sequence[EncodedRow]) -> Any:
    # One row is a call of `map` without `batched=True`, whose own bar counts the rows; of a launcher's processes one
    # shows its bars.
    hidden = len(rows) < 2 or int(os.environ.get("RANK", 0)) > 0
    return tqdm(total=len(rows), desc=phase, unit=" rows", leave=False, disable=hidden)
