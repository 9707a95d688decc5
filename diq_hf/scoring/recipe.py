"""What decides a scorer's scores, under names: fingerprints for caches, a recipe for people, and what it all cost."""

import importlib.metadata
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from .. import __version__
from ..difficulty.sources import ClassifierDifficulty
from ..digest import digest, model_digest, sampled_digest, tokenizer_digest
from ..engine.projections import COLUMN
from ..names import public_name
from ..recipe import (
    AuditFacts,
    Cost,
    DifficultyFacts,
    MismatchFacts,
    ModelFacts,
    Recipe,
    ReliabilityFacts,
    ValidationFacts,
)
from ..rows.encoded import rows_digest


# Part of every fingerprint: raise it whenever the same inputs would give other scores.
ALGORITHM = "diq-3"
# Libraries whose versions a recipe names.
LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets")


class WeightsDigest:
    """The digest of a model that may be trained between two looks."""

    def __init__(self, model: Any):
        self.model = model
        self._known: tuple[int, str] | None = None
        self._sample, self._due = "", 0.0

    def __call__(self, again: bool = False) -> str:
        # In-place changes such as optimizer steps count up a parameter's version. Writes through `.data` do not, so
        # every `map` and every `score` take the digest `again`; batches of a stream [`glance`].
        version = sum(parameter._version for parameter in self.model.parameters())
        if again or self._known is None or self._known[0] != version:
            started = time.perf_counter()
            self._known = version, model_digest(self.model)
            ended = time.perf_counter()
            # Whatever its size, a model that is streamed through is hashed in 5 % of the time at most.
            self._sample, self._due = sampled_digest(self.model), ended + 20 * (ended - started)
        return self._known[1]

    def glance(self) -> None:
        """Takes the digest again if a few values of each weight have changed, and from time to time anyway."""
        changed = self._known is None or self._sample != sampled_digest(self.model)
        self(again=changed or time.perf_counter() >= self._due)


class Meter:
    """Rows and seconds that this process has spent on scoring; the validation gradient is counted by itself."""

    def __init__(self):
        self.rows, self.seconds, self.validation_seconds = 0, 0.0, 0.0

    @contextmanager
    def scoring(self, rows: int) -> Iterator[None]:
        started, validation_before = time.perf_counter(), self.validation_seconds
        yield
        self.rows += rows
        self.seconds += time.perf_counter() - started - (self.validation_seconds - validation_before)

    @contextmanager
    def validation(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.validation_seconds += time.perf_counter() - started

    def cost(self, device: str) -> Cost | None:
        """`None` where everything came from a cache."""
        if not self.rows:
            return None
        return Cost(rows=self.rows, seconds=self.seconds, validation_seconds=self.validation_seconds, device=device)


def fingerprint(scorer: Any) -> str:
    """Names everything that decides the scores: weights, tokenizer, template, validation rows and settings."""
    weights = scorer.weights_digest(again=True)  # first: the projection's column holds it too
    settings = {
        "tokenizer": tokenizer_digest(scorer.processing_class),
        "validation": [[name, rows_digest(rows)] for name, rows in scorer.validation.items()],
        "settings": scorer.encoder.settings,
        "modules": sorted(scorer.engine.modules),
        "difficulty": scorer.difficulty.fingerprint if scorer.difficulty else None,
        "columns": scorer.columns,
        "on_bad_row": scorer.on_bad_row,
        "overwrite": scorer.overwrite,
        "batched": scorer.batched,
    }
    if scorer.compared_by is not None:
        settings |= {"projection": [scorer.compared_by.dim, scorer.compared_by.seed]}
    if "mismatch" in scorer.columns:
        settings |= {"source_column": scorer.source_column}
        settings |= {"mismatch": scorer.calibration and scorer.calibration.digest}
    return digest([ALGORITHM, settings, weights])


def direction_recipes(scorer: Any) -> list[str]:
    """Name what decides each group's validation gradient; whatever is scored by it plays no part."""
    modules, weights = sorted(scorer.engine.modules), scorer.weights_digest()
    return [digest([ALGORITHM, rows_digest(rows), modules, weights]) for rows in scorer.validation.values()]


def half_recipe(direction: str) -> str:
    """Names what decides the difference of a group's halves, as `direction` names what decides their mean."""
    return digest(["half-1", direction])


def difficulty_recipe(scorer: Any, column_names: Iterable[str]) -> str | None:
    """Names what decides the difficulty of rows, whatever model scores them; `None` if the model does."""
    if scorer.difficulty is None or not scorer.difficulty.reusable:
        return None
    recipe = ["difficulty-1", scorer.difficulty.fingerprint, scorer.encoder.dataset_text_field]
    if scorer.encoder.template is not None:
        recipe += [scorer.encoder.template.settings]
    if "input_ids" in column_names:  # the text of token ids is the tokenizer's
        recipe += [scorer.encoder.settings, tokenizer_digest(scorer.processing_class)]
    return digest(recipe)


def projection_column(scorer: Any) -> str:
    """The column of projected gradients, named by the model and the projection: no two may be mixed."""
    made_by = [ALGORITHM, sorted(scorer.engine.modules), scorer.projection.dim, scorer.projection.seed]
    return COLUMN + digest([*made_by, scorer.weights_digest()])[:8]


def scorer_recipe(scorer: Any, name: str | None) -> Recipe:
    """The recipe of a scorer whose model was loaded by `name`: see [`DIQScorer.recipe`]."""
    config, source = scorer.model.config, scorer.difficulty
    null, sure, audit = scorer.calibration or scorer.used_null, scorer.reliability, scorer.audit
    model = ModelFacts(
        **public_name(config._name_or_path),
        digest=scorer.weights_digest(again=True),
        dtype=str(scorer.model.dtype).removeprefix("torch."),
        revision=getattr(config, "_commit_hash", None),
        adapter=(public_name(name)["name"] or "") if hasattr(scorer.model, "peft_config") else None,
        parameters=sum(parameter.numel() for parameter in scorer.model.parameters()),
    )
    classifier = None
    if isinstance(source, ClassifierDifficulty):
        classifier = ModelFacts(**public_name(source.classifier.model.name_or_path))
    return Recipe(
        algorithm=ALGORITHM,
        model=model,
        tokenizer=tokenizer_digest(scorer.processing_class),
        validation=tuple(
            ValidationFacts(group=group, rows=len(rows), digest=rows_digest(rows))
            for group, rows in scorer.validation.items()
        ),
        modules=tuple(sorted(scorer.engine.modules)),
        settings=scorer.encoder.settings | {"on_bad_row": scorer.on_bad_row},
        difficulty=source
        and DifficultyFacts(source=type(source).__name__, fingerprint=source.fingerprint, model=classifier),
        mismatch=null
        and MismatchFacts(
            size=len(null.gains), seed=null.seed, quantiles=null.quantiles(), source_column=scorer.source_column
        ),
        reliability=sure
        and ReliabilityFacts(
            split_half=sure.split_half, validation=sure.num_validation, rows=sure.num_rows, wanted=sure.rows_wanted
        ),
        audit=audit
        and AuditFacts(
            found=audit.found,
            low=audit.low,
            high=audit.high,
            pool=audit.num_rows,
            scored=audit.num_scored,
            audited=audit.num_audited,
            missed=audit.num_missed,
        ),
        selection=scorer.selection,
        cost=scorer.meter.cost(scorer.engine.device.type),
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """Of what computes the scores, as a recipe records it."""
    libraries = {library: importlib.metadata.version(library) for library in LIBRARIES}
    return {"diq_hf": __version__, "python": platform.python_version(), **libraries}
