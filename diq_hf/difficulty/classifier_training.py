"""Training a [`DifficultyClassifier`] on rows with levels, and judging it on rows it has not seen."""

import importlib.util
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from ..columns import class_label_numbers, label_values, labels_as_names
from ..digest import digest
from ..engine.loading import preferred_device, preferred_dtype
from ..rows.encoded import IGNORE_INDEX, RowError
from ..rows.formats import RowEncoder
from ..rows.presets import column_template
from ..rows.templates import ColumnTemplate
from ..rows.validation import row_name
from .agreement import calibration, confusion_matrix, prediction_figures
from .classifier import DEFAULT_ENCODER, DifficultyClassifier
from .classifier_card import write_card
from .heads import PERSPECTIVES
from .holdout import hold_out
from .levels import NUM_LEVELS, as_level


logger = logging.get_logger(__name__)

DEFAULTS = {
    "num_train_epochs": 5,
    "learning_rate": 1e-4,
    "per_device_train_batch_size": 16,
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "logging_steps": 50,
    "report_to": "none",
    "seed": 0,
}


def train_classifier(
    dataset: Dataset,
    output: str | Path,
    *,
    encoder: str | Path = DEFAULT_ENCODER,
    labels: Mapping[str, str] | None = None,
    dataset_text_field: str = "text",
    columns: str | Mapping | ColumnTemplate | None = None,
    group_column: str | None = None,
    holdout: float = 0.2,
    max_length: int | None = 512,
    compute_loss_func: Callable | None = None,
    **training_arguments,
) -> tuple[DifficultyClassifier, dict[str, dict]]:
    """Fine-tunes an encoder on the prompts of rows with levels 1 to 5, judges it and writes its card.

    Nothing about the held-out rows decides the training: the number of epochs is fixed and the last one is kept. A run
    that was killed goes on at its last epoch when it is started again on the same rows and settings.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows in any format [`DIQScorer`] takes, with levels in columns: 3, 3.0 or "3", or a ClassLabel whose names
            are such numbers. A null level is left out of training.
        output (`str` or `Path`):
            Folder for checkpoint, card and pictures.
        encoder (`str` or `Path`, *optional*, defaults to BiomedBERT):
            Hub id or folder of an encoder.
        labels (`Mapping[str, str]`, *optional*):
            The column of each perspective (`"knowledge"`, `"reasoning"`, `"overall"`); by default the columns of these
            names that the dataset has.
        dataset_text_field (`str`, *optional*, defaults to `"text"`):
            Column of plain text rows, as in [`~trl.SFTConfig`].
        columns (`str` or [`~diq_hf.rows.templates.ColumnTemplate`], *optional*):
            For rows of no known format: a preset such as `"alpaca"`, or format strings over columns.
        group_column (`str`, *optional*):
            Column that names each row's group (a template, a source, a patient). Whole groups are held out as well,
            which shows what the classifier is worth on rows unlike those it learned from.
        holdout (`float`, *optional*, defaults to `0.2`):
            Share of the rows, and of the groups' rows, to hold out.
        max_length (`int`, *optional*, defaults to `512`):
            Tokens that are read of a prompt.
        compute_loss_func (`Callable`, *optional*, defaults to [`ordinal_loss`]):
            The loss, as [`~transformers.Trainer`] takes it.
        training_arguments (`dict`, *optional*):
            Arguments of [`~transformers.TrainingArguments`], `learning_rate`, `num_train_epochs` or `seed` for
            instance.

    Returns:
        The classifier, loaded from `output`, and its figures: for `"rows"` and, with groups, `"groups"` a dict of
        perspectives, each with [`~diq_hf.difficulty.agreement.prediction_figures`], `confusion` and `calibration`.

    Raises:
        `ValueError`: A column is missing, a label is no level from 1 to 5, a text is empty, or a level has too few
            rows to be held out.
        `ImportError`: What the card needs is not installed.

    Example:

    ```python
    from diq_hf.difficulty.classifier_training import train_classifier

    classifier, figures = train_classifier(labelled, "classifier", group_column="template", learning_rate=5e-5)
    figures["groups"]["overall"]["kappa"]
    ```
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("The classifier's card needs matplotlib: `pip install 'diq-hf[report]'`.")
    output, levels, template = Path(output), read_levels(dataset, labels), column_template(columns)
    if template is not None:
        template.check_columns(dataset.column_names)
    groups = _groups(dataset, group_column)
    machine = {"bf16": preferred_dtype() is torch.bfloat16, "use_cpu": preferred_device().type == "cpu"}
    settings = DEFAULTS | machine | training_arguments
    parts = split(levels, groups, holdout, settings["seed"])
    set_seed(settings["seed"])
    classifier = DifficultyClassifier.from_encoder(encoder, list(levels), max_length)
    reader = RowEncoder(classifier.tokenizer, dataset_text_field=dataset_text_field, template=template)
    texts = read_texts(dataset, reader)

    labelled = np.any(list(levels.values()), axis=0)
    train = np.flatnonzero(labelled & ~np.any(list(parts.values()), axis=0))
    ids, truncated = classifier.encode([texts[i] for i in train])
    targets = np.stack([levels[name][train] for name in levels], axis=1) - 1
    features = Dataset.from_dict({"input_ids": ids, "labels": np.where(targets < 0, IGNORE_INDEX, targets).tolist()})
    recipe = digest([ids, targets.tolist(), classifier.fingerprint, {k: str(v) for k, v in settings.items()}])
    checkpoints = output / f"checkpoints-{recipe}"
    trainer = Trainer(
        classifier.model.train(),
        TrainingArguments(output_dir=str(checkpoints), **settings),
        data_collator=DataCollatorWithPadding(classifier.tokenizer),
        train_dataset=features,
        processing_class=classifier.tokenizer,
        compute_loss_func=ordinal_loss if compute_loss_func is None else compute_loss_func,
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(checkpoints) if checkpoints.is_dir() else None)
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(output)
        classifier.tokenizer.save_pretrained(output)
    trainer.accelerator.wait_for_everyone()

    # Judged as it will be used: from disk, in the dtype it scores in.
    classifier = DifficultyClassifier.from_pretrained(output, device=trainer.args.device)
    figures = {part: judge(classifier, texts, levels, rows) for part, rows in parts.items()}
    if trainer.is_world_process_zero():
        facts = {
            "levels": {name: Counter(column[train][column[train] > 0].tolist()) for name, column in levels.items()},
            "num_train_rows": len(train),
            "num_held_out": {part: int(rows.sum()) for part, rows in parts.items()},
            "num_truncated": int(truncated.sum()),
            "group_column": group_column,
            "max_length": classifier.max_length,
            "settings": {name: settings[name] for name in sorted({"bf16", *training_arguments, *list(DEFAULTS)[:5]})},
        }
        write_card(output, encoder, figures, facts)
        shutil.rmtree(checkpoints, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    # Once more, with its card.
    return DifficultyClassifier.from_pretrained(output, device=trainer.args.device), figures


def ordinal_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Cross-entropy plus ranked probability score, averaged over the labels of a batch.

    The ranked probability score Σ_k (P(level ≤ k) - [truth ≤ k])² is small for levels near the true one, where
    cross-entropy takes any wrong level for as bad as any other. Both are proper scores, so the probabilities stay
    honest.

    Args:
        outputs ([`~transformers.modeling_outputs.SequenceClassifierOutput`]):
            With `logits` of shape `(rows, 5 * perspectives)`.
        labels (`torch.Tensor` of shape `(rows, perspectives)`):
            Levels from 0; -100 where a row has none.
        num_items_in_batch (`int`, *optional*):
            Labels in all batches of the step; by default those of this one.
    """
    log_p, truth = _of_labels(outputs, labels)
    reached = log_p.exp().cumsum(dim=-1) - F.one_hot(truth, NUM_LEVELS).cumsum(dim=-1)
    total = F.nll_loss(log_p, truth, reduction="sum") + reached.square().sum()
    return total / (len(truth) if num_items_in_batch is None else num_items_in_batch)


def _of_labels(outputs: Any, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the levels, and the true level, of every label there is."""
    given = labels != IGNORE_INDEX
    logits = outputs.logits.float().unflatten(-1, (-1, NUM_LEVELS))
    return logits[given].log_softmax(dim=-1), labels[given]


def read_levels(dataset: Dataset, labels: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
    """Each perspective's levels of all rows, 0 for a null."""
    if labels is None:
        labels = {name: name for name in PERSPECTIVES if name in dataset.column_names}
        if not labels:
            raise ValueError(
                f"None of the columns {dataset.column_names} holds levels: name them 'knowledge', 'reasoning' or "
                "'overall', or say which column is which with `labels=` (`--overall COLUMN`)."
            )
    if unknown := [name for name in labels if name not in PERSPECTIVES]:
        raise ValueError(f"Perspectives are some of {list(PERSPECTIVES)}, not {unknown}.")
    levels = {}
    for perspective in (name for name in PERSPECTIVES if name in labels):
        column = labels[perspective]
        if column not in dataset.column_names:
            raise ValueError(f"There is no column {column!r} for {perspective!r}; there are {dataset.column_names}.")
        values = dataset.with_format(None)[column][:]
        # A ClassLabel's ids follow the alphabet from 0: what it names counts.
        numbers = class_label_numbers(dataset.features[column], column)
        values = values if numbers is None else label_values(values, numbers)
        for i, value in enumerate(values):
            if value is not None and as_level(value) is None:
                raise ValueError(
                    f"Row {i} has {value!r} as {column!r}, which is no level. Levels are whole numbers from 1 "
                    f"(easiest) to {NUM_LEVELS}, or null; bring yours to that scale first."
                )
        column_levels = [0 if value is None else as_level(value) for value in values]
        found = sorted({*column_levels} - {0})
        if len(found) < 2:
            raise ValueError(
                f"Column {column!r} holds the levels {found}; label rows of two at least, or leave it out."
            )
        levels[perspective] = np.array(column_levels, dtype=int)
    return levels


def read_texts(dataset: Dataset, encoder: RowEncoder) -> list[str]:
    """The prompt of every row, as [`ClassifierDifficulty`] reads it when it scores."""
    names = [name for name in encoder.columns if name in dataset.column_names]
    texts = []
    for i, row in enumerate(labels_as_names(dataset.select_columns(names), encoder.of_template)):
        try:
            text, _ = encoder.rated_texts(row)
        except RowError as error:
            raise RowError(f"{row_name(i, i, row)}: {error}") from error
        texts.append(text)
    return texts


def split(levels: Mapping[str, np.ndarray], groups: Sequence | None, share: float, seed: int) -> dict[str, np.ndarray]:
    """Which rows are held out: `"rows"`, and whole `"groups"` before that if there are any."""
    parts = {}
    rest = np.flatnonzero(np.any(list(levels.values()), axis=0))
    for part, names in ([("groups", groups)] if groups is not None else []) + [("rows", None)]:
        of_rest = None if names is None else [names[i] for i in rest]
        held = hold_out({name: column[rest].tolist() for name, column in levels.items()}, share, of_rest, seed)
        parts[part] = np.isin(np.arange(len(next(iter(levels.values())))), rest[held])
        rest = rest[~held]
    return parts


def _groups(dataset: Dataset, column: str | None) -> list[str] | None:
    if column is None:
        return None
    if column not in dataset.column_names:
        raise ValueError(f"There is no column {column!r} to group by; there are {dataset.column_names}.")
    groups = dataset[column][:]
    if None in groups:
        raise ValueError(f"Row {groups.index(None)} has no group: its {column!r} is null. Give it one, or remove it.")
    return [str(group) for group in groups]


def judge(
    classifier: DifficultyClassifier, texts: Sequence[str], levels: Mapping[str, np.ndarray], rows: np.ndarray
) -> dict[str, dict]:
    """Figures of each perspective on some rows."""
    held = np.flatnonzero(rows)
    found = classifier([texts[i] for i in held])
    figures = {}
    for name, column in levels.items():
        given = column[held] > 0
        observed, predicted, expected = column[held][given], found[name].level[given], found[name].expected[given]
        figures[name] = prediction_figures(observed, predicted, expected) | {
            "confusion": confusion_matrix(observed, predicted),
            "calibration": calibration(expected, observed),
        }
    return figures
