"""How rows are scored, for all commands that score: the options declared once, and the scorer they make."""

import functools
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from .inputs import load_rows, source_of
from .leaks import warn_of_leaks
from .options import (
    DatasetRevision,
    Name,
    OverwriteColumns,
    OwnColumns,
    OwnCompletion,
    OwnMessages,
    OwnPrompt,
    Split,
    TextField,
    command_line,
    or_none,
)
from .outputs import is_first_process
from .reading import Reading
from .tokenizer import load_tokenizer


PANEL = "How rows are scored"
option = functools.partial(typer.Option, rich_help_panel=PANEL)


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """How rows are scored. A command with a parameter of this type takes an option for each field."""

    validation_split: Split = None
    validation_name: Name = None
    validation_revision: DatasetRevision = None
    validation_columns: OwnColumns = None
    validation_prompt: OwnPrompt = None
    validation_completion: OwnCompletion = None
    validation_messages: OwnMessages = None
    revision: Annotated[str | None, option(help="Branch, tag or commit of the model.")] = None
    dtype: Annotated[
        str | None, option(help="Of the model's weights, 'float32' for instance; bf16 where it is fast.")
    ] = None
    attn_implementation: Annotated[
        str | None, option(help="'sdpa', 'eager', 'flash_attention_2' or another of transformers.")
    ] = None
    chat_template: Annotated[
        Path | None, option(help="Jinja file of the training's chat template; by default the tokenizer's.")
    ] = None
    difficulty: Annotated[
        str, option(help="'ifd', 'loss', 'num_tokens', 'column:NAME', or a classifier's Hub id or folder.")
    ] = "ifd"
    perspective: Annotated[
        str | None, option(help="Of a classifier: knowledge, reasoning or overall (the default).")
    ] = None
    difficulty_label: Annotated[
        list[str] | None,
        option(help="Class of a classifier, from the easiest to the hardest (repeatable), if names do not say."),
    ] = None
    lower_is_harder: Annotated[
        bool, option("--lower-is-harder", help="The difficulty's column counts down, as a pass rate does.")
    ] = False
    target_modules: Annotated[
        list[str] | None, option(help="Linear modules to score (repeatable); q, k and v by default.")
    ] = None
    mismatch: Annotated[
        bool | None, option(help="Also test whether answers belong to their prompts; by default with IFD.")
    ] = None
    group_column: Annotated[
        str | None, option(help="Column that groups the validation rows: an influence for each.")
    ] = None
    max_length: Annotated[
        int | None, option(help="Rows are cut to this many tokens; 'none' keeps them whole.", **or_none(int))
    ] = 1024
    truncation_mode: Annotated[str, option(help="Which end of a long row stays: keep_start, keep_end.")] = "keep_start"
    completion_only_loss: Annotated[
        bool | None, option(help="Train on completions only, or on prompts too; by default as SFTTrainer does.")
    ] = None
    assistant_only_loss: Annotated[
        bool, option("--assistant-only-loss", help="Train on the assistant's turns only.")
    ] = False
    dataset_text_field: TextField = "text"
    max_tokens_per_batch: Annotated[int | None, option(help="Tokens in a forward pass.")] = None
    on_bad_row: Annotated[str, option(help="'raise', or 'skip' to leave bad rows unscored.")] = "raise"
    overwrite_columns: OverwriteColumns = False
    chunk_size: Annotated[int, option(help="Rows in a chunk, the unit of resuming.")] = 512
    cache_dir: Annotated[
        str | None,
        option(help="Folder for finished chunks, seen by every process; or a Storage Bucket, 'hf://buckets/me/name'."),
    ] = None

    def both(self, pool: str, reading: Reading, validation: str, streaming: bool = False) -> tuple[Any, Any]:
        """The pool's and the validation rows, by the names that a command line gives them; says what is in both."""
        if streaming:
            rows = reading.stream(pool, self.on_bad_row)
        else:
            rows = reading.rows(pool, self.on_bad_row, self.dataset_text_field)
        validation_rows = load_rows(validation, self.validation_split, self.validation_name, self.validation_revision)
        names = ("columns", "prompt", "completion", "messages")
        own = [getattr(self, f"validation_{name}") for name in names]
        validation_rows = reading.beside(validation_rows, "Validation", own, self.dataset_text_field)
        if is_first_process() and not streaming:
            warn_of_leaks(rows, validation_rows, text_field=self.dataset_text_field)
        return rows, validation_rows

    def scorer(
        self, model: str, validation_rows: Any, rows: Any, tested: bool, aligned: bool = False, **arguments: Any
    ) -> Any:
        """A [`~diq_hf.DIQScorer`].

        Args:
            model (`str`):
                Name of the model.
            validation_rows ([`~datasets.Dataset`]):
                The validation rows.
            rows ([`~datasets.Dataset`]):
                The rows it is for.
            tested (`bool`):
                Whether `mismatch` is wanted unless the options say so themselves; rows that give too few pairs to
                calibrate it are scored without, then.
            aligned (`bool`, *optional*, defaults to `False`):
                Whether `alignment` is wanted.
            arguments:
                Further arguments of the scorer.
        """
        from ..difficulty.sources import ColumnDifficulty, difficulty_source
        from ..scoring.mismatch import can_calibrate
        from ..scoring.scorer import DIQScorer

        labels = self.difficulty_label or None
        source = difficulty_source(self.difficulty, self.perspective, labels, self.lower_is_harder)
        if isinstance(source, ColumnDifficulty):
            source.missing(rows)  # before the model is loaded
        tests = tested if self.mismatch is None else self.mismatch
        given = {name: getattr(self, name) for name in ("revision", "dtype", "attn_implementation")}
        scorer = DIQScorer(
            model,
            validation_rows,
            None if self.chat_template is None else load_tokenizer(model, self.revision, self.chat_template),
            difficulty=source,
            target_modules=self.target_modules,
            group_column=self.group_column,
            max_length=self.max_length,
            truncation_mode=self.truncation_mode,
            completion_only_loss=self.completion_only_loss,
            assistant_only_loss=self.assistant_only_loss,
            dataset_text_field=self.dataset_text_field,
            extra_columns=(
                *("loss", "num_tokens", "num_trained"),
                *(("mismatch",) if tests else ()),
                *(("alignment",) if aligned else ()),
                *source.extra_columns,
            ),
            max_tokens_per_batch=self.max_tokens_per_batch,
            on_bad_row=self.on_bad_row,
            overwrite=self.overwrite_columns,
            model_init_kwargs={key: value for key, value in given.items() if value is not None},
            **arguments,
        )
        if tests and self.mismatch is None and not can_calibrate(scorer, rows):
            scorer.extra_columns = tuple(name for name in scorer.extra_columns if name != "mismatch")
            if is_first_process():
                typer.secho(
                    "Without `mismatch`: there are too few answers with other prompts to hold rows against.", err=True
                )
        return scorer

    def recipe(
        self,
        context: typer.Context,
        scorer: Any,
        pool: str,
        rows: Any,
        reading: Reading,
        validation: str,
        validation_rows: Any,
    ) -> Any:
        """The scorer's recipe with where its rows are from, by the command that is running."""
        recipe = replace(
            scorer.recipe(),
            pool=reading.source(pool, rows),
            validation_source=source_of(validation, validation_rows, self.validation_name, self.validation_revision),
            commands=(command_line(context),),
        )
        return reading.recorded(recipe)


SCORING_OPTIONS = tuple(part.name for part in fields(ScoringOptions))
AS_USUAL = ScoringOptions()
