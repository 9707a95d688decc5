"""How rows are scored, for all commands that score: the options declared once, and the scorer they make."""

import functools
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from .inputs import load_rows, split_of
from .options import DatasetRevision, Name, OverwriteColumns, Split, TextField, command_line, or_none
from .outputs import is_first_process


PANEL = "How rows are scored"
option = functools.partial(typer.Option, rich_help_panel=PANEL)


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """Options of a command, under these names; see [`with_scoring_options`]."""

    validation_split: Split = None
    validation_name: Name = None
    validation_revision: DatasetRevision = None
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
    cache_dir: Annotated[Path | None, option(help="Folder for finished chunks, seen by every process.")] = None

    def validation_rows(self, validation: str) -> Any:
        """The validation rows by the name that a command line gives them."""
        return load_rows(validation, self.validation_split, self.validation_name, self.validation_revision)

    def scorer(self, model: str, validation_rows: Any, rows: Any, tested: bool, **arguments: Any) -> Any:
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
            arguments:
                Further arguments of the scorer.
        """
        from ..difficulty.sources import ClassifierDifficulty, difficulty_source
        from ..scoring.mismatch import can_calibrate
        from ..scoring.scorer import DIQScorer

        source = difficulty_source(self.difficulty)
        if self.perspective is not None:
            source = ClassifierDifficulty(self.difficulty, self.perspective)
        tests = tested if self.mismatch is None else self.mismatch
        given = {name: getattr(self, name) for name in ("revision", "dtype", "attn_implementation")}
        scorer = DIQScorer(
            model,
            validation_rows,
            None if self.chat_template is None else _tokenizer(model, self.revision, self.chat_template),
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
        self, context: typer.Context, scorer: Any, pool: str, rows: Any, validation: str, validation_rows: Any
    ) -> Any:
        """The scorer's recipe with where its rows are from, by the command that is running."""
        from ..names import public_name
        from ..recipe import Source

        given = context.params
        return replace(
            scorer.recipe(),
            pool=Source(
                **public_name(pool),
                split=split_of(rows),
                config=given["name"],
                revision=given["dataset_revision"],
                rows=len(rows),
            ),
            validation_source=Source(
                **public_name(validation),
                split=split_of(validation_rows),
                config=self.validation_name,
                revision=self.validation_revision,
            ),
            commands=(command_line(context),),
        )


SCORING_OPTIONS = tuple(part.name for part in fields(ScoringOptions))


def with_scoring_options(function: Callable) -> Callable:
    """A command whose argument `scoring` stands for the options of [`ScoringOptions`]."""
    hints, signature = get_type_hints(ScoringOptions, include_extras=True), inspect.signature(function)
    parameters = {name: part.replace(kind=part.KEYWORD_ONLY) for name, part in signature.parameters.items()}
    del parameters["scoring"]
    for part in fields(ScoringOptions):
        parameters[part.name] = inspect.Parameter(
            part.name, inspect.Parameter.KEYWORD_ONLY, default=part.default, annotation=hints[part.name]
        )

    @functools.wraps(function)
    def run(**given: Any) -> None:
        scoring = ScoringOptions(**{name: given.pop(name) for name in SCORING_OPTIONS})
        function(**given, scoring=scoring)

    run.__signature__ = signature.replace(parameters=parameters.values())
    run.__annotations__ = {name: part.annotation for name, part in parameters.items()}
    return run


def _tokenizer(model: str, revision: str | None, chat_template: Path):
    """The model's tokenizer with a template from a file."""
    from transformers import AutoTokenizer
    from transformers.utils import find_adapter_config_file

    template = chat_template.read_text(encoding="utf-8")
    adapter = find_adapter_config_file(model, revision=revision)
    if adapter is not None and not (Path(adapter).parent / "tokenizer_config.json").is_file():
        # An adapter saved without a tokenizer has its base model's.
        model, revision = json.loads(Path(adapter).read_text(encoding="utf-8"))["base_model_name_or_path"], None
    tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
    tokenizer.chat_template = template
    return tokenizer
