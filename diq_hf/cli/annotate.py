"""`diq annotate`: rows and a judge in, the rows with the judge's levels out."""

from pathlib import Path
from typing import Annotated

import typer

from ..files import replacing_folder
from .inputs import load_rows
from .options import Overwrite, OverwriteColumns, TextField, or_none, token_of
from .outputs import check_folder
from .reading import AS_IT_IS, Reading


def annotate(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Hub id, folder, data file or pattern of files.")],
    model: Annotated[str, typer.Option(help="The judge: its name on the endpoint or on the Hub.")],
    output: Annotated[Path, typer.Option(help="Folder for the labelled dataset and its annotation.json.")],
    overwrite: Overwrite = False,
    base_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint; by default an Inference Provider is used.")
    ] = None,
    provider: Annotated[str | None, typer.Option(help="Inference Provider; the Hub picks one by default.")] = None,
    token_env: Annotated[
        str | None, typer.Option(help="Environment variable with the endpoint's token; none is sent by default.")
    ] = None,
    reading: Reading = AS_IT_IS,
    dataset_text_field: TextField = "text",
    perspective: Annotated[
        list[str] | None, typer.Option(help="knowledge, reasoning or overall (repeatable); all by default.")
    ] = None,
    text: Annotated[str, typer.Option(help="What the judge reads: 'prompt' or 'prompt+completion'.")] = "prompt",
    compare_with: Annotated[
        str | None, typer.Option(help="The same rows annotated by another judge or with another --seed: agreement.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Hub id or folder; for pre-tokenized rows only.")] = None,
    max_concurrency: Annotated[int, typer.Option(help="Questions under way at once.")] = 8,
    max_retries: Annotated[int, typer.Option(help="How often a question is asked again.")] = 5,
    retry_delay: Annotated[float, typer.Option(help="Seconds before the second try; doubled with every further.")] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds the server may be silent.")] = 120,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature; 'none' sends none.", **or_none(float))
    ] = 0,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="Longest answer; a model that thinks first needs more. 'none' sends none.", **or_none(int)),
    ] = 1024,
    max_completion_tokens: Annotated[
        int | None, typer.Option(help="The same for judges that refuse max_tokens, which is then not sent.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the judge's sampling: another one is another run.")] = None,
    json_schema: Annotated[
        bool, typer.Option("--json-schema", help="Have the server hold the model to a JSON schema.")
    ] = False,
    on_bad_row: Annotated[str, typer.Option(help="'raise', or 'skip' to leave bad rows unlabelled.")] = "raise",
    overwrite_columns: OverwriteColumns = False,
    cache_dir: Annotated[Path | None, typer.Option(help="Folder for the journals of answers.")] = None,
) -> None:
    """Have an LLM judge label every row's difficulty, 1 to 5. A killed run goes on where it stopped.

    Exit code 1 if no row was labelled.
    """
    check_folder(output, overwrite, [dataset, compare_with])
    token = token_of(token_env)
    limits: dict = {"max_tokens": max_tokens}
    if max_completion_tokens is not None:
        if max_tokens is not None and context.get_parameter_source("max_tokens").name != "DEFAULT":
            raise typer.BadParameter("--max-tokens and --max-completion-tokens are two names of one limit. Keep one.")
        limits = {"max_tokens": None, "max_completion_tokens": max_completion_tokens}
    from ..annotation.annotate import annotate
    from ..annotation.rubric import RUBRIC

    if unknown := [perspective for perspective in perspective or () if perspective not in RUBRIC]:
        raise ValueError(f"There is no perspective {unknown[0]!r}; choose from {list(RUBRIC)}.")
    processing_class = None
    if tokenizer is not None:
        from transformers import AutoTokenizer

        processing_class = AutoTokenizer.from_pretrained(tokenizer)
    annotation = annotate(
        reading.load(dataset),
        model,
        base_url=base_url,
        provider=provider,
        token=token,
        rubric={name: RUBRIC[name] for name in perspective or RUBRIC},
        text=text,
        compare_with=None if compare_with is None else _compared(compare_with, reading.split),
        max_concurrency=max_concurrency,
        overwrite=overwrite_columns,
        on_bad_row=on_bad_row,
        cache_dir=cache_dir,
        processing_class=processing_class,
        dataset_text_field=dataset_text_field,
        columns=reading.template,
        temperature=temperature,
        **limits,
        seed=seed,
        json_schema=json_schema,
        timeout=timeout,
        max_retries=max_retries,
        retry_delay=retry_delay,
    )
    check_folder(output, overwrite)  # again: another run may have been faster
    with replacing_folder(output) as folder:
        annotation.save(folder)
    typer.echo(annotation.summary())
    typer.echo(f"{len(annotation.dataset)} rows in {output}")
    if not annotation.report["labelled"]:
        typer.secho(f"diq: No row was labelled; {output}/annotation.json has the reasons.", fg="red", err=True)
        raise typer.Exit(1)


def _compared(name: str, split: str | None):
    """Rows that were annotated before: a folder of `diq annotate` is one split already."""
    return load_rows(name, None if Path(name).is_dir() else split)
