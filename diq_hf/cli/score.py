"""`diq score`: a dataset and a model in, the dataset with its scores out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from .audited import leave_mismatch_out
from .inputs import load_rows, split_of
from .options import DatasetRevision, Name, Overwrite, OverwriteColumns, Split, TextField, command_line, or_none
from .outputs import check_folder, is_first_process, save_dataset


def score(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Hub id, folder, data file or pattern of files.")],
    model: Annotated[str, typer.Option(help="Model to be fine-tuned: Hub id or folder.")],
    validation: Annotated[str, typer.Option(help="Validation rows, named like the dataset.")],
    output: Annotated[Path, typer.Option(help="Folder for the scored dataset.")],
    overwrite: Overwrite = False,
    split: Split = None,
    name: Name = None,
    dataset_revision: DatasetRevision = None,
    validation_split: Split = None,
    validation_name: Name = None,
    validation_revision: DatasetRevision = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of the model's weights, 'float32' for instance; bf16 where it is fast.")
    ] = None,
    attn_implementation: Annotated[
        str | None, typer.Option(help="'sdpa', 'eager', 'flash_attention_2' or another of transformers.")
    ] = None,
    chat_template: Annotated[
        Path | None, typer.Option(help="Jinja file of the training's chat template; by default the tokenizer's.")
    ] = None,
    difficulty: Annotated[
        str, typer.Option(help="'ifd', 'loss', 'num_tokens', 'column:NAME', or a classifier's Hub id or folder.")
    ] = "ifd",
    perspective: Annotated[
        str | None, typer.Option(help="Of a classifier: knowledge, reasoning or overall (the default).")
    ] = None,
    target_modules: Annotated[
        list[str] | None, typer.Option(help="Linear modules to score (repeatable); q, k and v by default.")
    ] = None,
    mismatch: Annotated[
        bool | None,
        typer.Option(help="Also test whether answers belong to their prompts; by default with IFD."),
    ] = None,
    group_column: Annotated[
        str | None, typer.Option(help="Column that groups the validation rows: an influence for each.")
    ] = None,
    projection_dim: Annotated[
        int | None, typer.Option(help="Also store gradients projected to so many numbers, for later validation sets.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Rows are cut to this many tokens; 'none' keeps them whole.", **or_none(int))
    ] = 1024,
    truncation_mode: Annotated[str, typer.Option(help="Which end of a long row stays: keep_start, keep_end.")] = (
        "keep_start"
    ),
    completion_only_loss: Annotated[
        bool | None,
        typer.Option(help="Train on completions only, or on prompts too; by default as SFTTrainer does."),
    ] = None,
    assistant_only_loss: Annotated[
        bool, typer.Option("--assistant-only-loss", help="Train on the assistant's turns only.")
    ] = False,
    dataset_text_field: TextField = "text",
    max_tokens_per_batch: Annotated[int | None, typer.Option(help="Tokens in a forward pass.")] = None,
    on_bad_row: Annotated[str, typer.Option(help="'raise', or 'skip' to leave bad rows unscored.")] = "raise",
    overwrite_columns: OverwriteColumns = False,
    chunk_size: Annotated[int, typer.Option(help="Rows in a chunk, the unit of resuming.")] = 512,
    cache_dir: Annotated[Path | None, typer.Option(help="Folder for finished chunks, seen by every process.")] = None,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Read the dataset as a stream, past memory, and write Parquet shards.")
    ] = False,
) -> None:
    """Add difficulty and influence to a dataset and save it. A killed run goes on where it stopped."""
    check_folder(output, overwrite, [dataset, validation, model, difficulty])
    from ..difficulty.sources import ClassifierDifficulty, difficulty_source
    from ..names import public_name
    from ..recipe import Source
    from ..scoring.reliability import LOW
    from ..scoring.scorer import DIQScorer
    from ..scoring.streams import first_rows, score_stream

    rows = load_rows(dataset, split, name, dataset_revision, streaming)
    validation_rows = load_rows(validation, validation_split, validation_name, validation_revision)
    source = difficulty_source(difficulty) if perspective is None else ClassifierDifficulty(difficulty, perspective)
    tested = ("mismatch",) if (difficulty == "ifd" if mismatch is None else mismatch) else ()
    given = {"revision": revision, "dtype": dtype, "attn_implementation": attn_implementation}
    scorer = DIQScorer(
        model,
        validation_rows,
        None if chat_template is None else _tokenizer(model, revision, chat_template),
        difficulty=source,
        target_modules=target_modules,
        group_column=group_column,
        projection_dim=projection_dim,
        max_length=max_length,
        truncation_mode=truncation_mode,
        completion_only_loss=completion_only_loss,
        assistant_only_loss=assistant_only_loss,
        dataset_text_field=dataset_text_field,
        extra_columns=("loss", "num_tokens", "num_trained", *tested, *source.extra_columns),
        max_tokens_per_batch=max_tokens_per_batch,
        on_bad_row=on_bad_row,
        overwrite=overwrite_columns,
        model_init_kwargs={key: value for key, value in given.items() if value is not None},
    )
    if mismatch is None:
        leave_mismatch_out(scorer, first_rows(rows) if streaming else rows)
    if streaming:
        scored = rows = score_stream(scorer, rows, chunk_size, cache_dir)
    else:
        scored = scorer.score(rows, chunk_size=chunk_size, cache_dir=cache_dir)
    if is_first_process():
        recipe = replace(
            scorer.recipe(),
            pool=Source(
                **public_name(dataset), split=split_of(rows), config=name, revision=dataset_revision, rows=len(rows)
            ),
            validation_source=Source(
                **public_name(validation),
                split=split_of(validation_rows),
                config=validation_name,
                revision=validation_revision,
            ),
            commands=(command_line(context),),
        )
        save_dataset(scored, output, overwrite, recipe)
        if streaming:
            scored.remove()
        typer.echo(f"{len(scored)} scored rows in {output}")
        if scorer.reliability is not None and scorer.reliability.split_half >= LOW:  # else it was a warning
            typer.echo(str(scorer.reliability))


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
