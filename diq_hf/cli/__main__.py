"""`diq`: the library from the command line. Parses, calls, prints."""

import json
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import App


app = App(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Find the few rows of a fine-tuning set worth training on.",
)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show:
        from diq_hf import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command(epilog="Example: diq score pool.jsonl --model ./model --validation val.jsonl --output scored")
def score(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Hub id, folder, or a .jsonl, .json or .parquet file.")],
    model: Annotated[str, typer.Option(help="Model to be fine-tuned: Hub id or folder.")],
    validation: Annotated[str, typer.Option(help="Validation rows, named like the dataset.")],
    output: Annotated[Path, typer.Option(help="Folder for the scored dataset.")],
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "train",
    validation_split: Annotated[str, typer.Option(help="Split of the validation rows.")] = "train",
    difficulty: Annotated[
        str, typer.Option(help="'ifd', 'loss', 'num_tokens', 'column:NAME', or a classifier's Hub id or folder.")
    ] = "ifd",
    perspective: Annotated[
        str | None, typer.Option(help="Of a classifier: knowledge, reasoning or overall (the default).")
    ] = None,
    target_modules: Annotated[
        list[str] | None, typer.Option(help="Linear modules to score (repeatable); q, k and v by default.")
    ] = None,
    group_column: Annotated[
        str | None, typer.Option(help="Column that groups the validation rows: an influence for each.")
    ] = None,
    projection_dim: Annotated[
        int | None, typer.Option(help="Also store gradients projected to so many numbers, for later validation sets.")
    ] = None,
    max_length: Annotated[int, typer.Option(help="Rows are cut to this many tokens.")] = 1024,
    max_tokens_per_batch: Annotated[int | None, typer.Option(help="Tokens in a forward pass.")] = None,
    on_bad_row: Annotated[str, typer.Option(help="'raise', or 'null' to leave bad rows unscored.")] = "raise",
    chunk_size: Annotated[int, typer.Option(help="Rows in a chunk, the unit of resuming.")] = 512,
    cache_dir: Annotated[Path | None, typer.Option(help="Folder for finished chunks, seen by every process.")] = None,
) -> None:
    """Add difficulty and influence to a dataset and save it. A killed run goes on where it stopped."""
    from ..difficulty.sources import ClassifierDifficulty, difficulty_source
    from ..names import public_name
    from ..recipe import Source
    from ..scoring.scorer import DIQScorer

    rows = load_rows(dataset, split)
    source = difficulty_source(difficulty) if perspective is None else ClassifierDifficulty(difficulty, perspective)
    scorer = DIQScorer(
        model,
        load_rows(validation, validation_split),
        difficulty=source,
        target_modules=target_modules,
        group_column=group_column,
        projection_dim=projection_dim,
        max_length=max_length,
        extra_columns=("loss", "num_tokens", *source.extra_columns),
        max_tokens_per_batch=max_tokens_per_batch,
        on_bad_row=on_bad_row,
    )
    scored = scorer.score(rows, chunk_size=chunk_size, cache_dir=cache_dir)
    if int(os.environ.get("RANK", 0)) == 0:
        recipe = replace(
            scorer.recipe(),
            pool=Source(**public_name(dataset), split=split, rows=len(rows)),
            validation_source=Source(**public_name(validation), split=validation_split),
            commands=(command_line(context),),
        )
        save(scored, output, recipe)
        typer.echo(f"{len(scored)} scored rows in {output}")


@app.command(epilog="Example: diq select scored --ratio 0.1 --output subset")
def select(
    context: typer.Context,
    scored: Annotated[str, typer.Argument(help="A scored dataset, as `diq score` writes it.")],
    output: Annotated[Path, typer.Option(help="Folder for the subset.")],
    ratio: Annotated[float | None, typer.Option(help="Share of the rows, in (0, 1].")] = None,
    num_rows: Annotated[int | None, typer.Option(help="Number of rows, instead of --ratio.")] = None,
    strategy: Annotated[str, typer.Option(help="diq, random, influence, difficulty, loss or length.")] = "diq",
    difficulty_percentile: Annotated[float, typer.Option(help="Percentile above which a row is difficult.")] = 50,
    max_difficulty_percentile: Annotated[
        float | None, typer.Option(help="Percentile above which a row is too difficult to be taken.")
    ] = None,
    num_tokens: Annotated[int | None, typer.Option(help="Number of trained tokens, instead of --ratio.")] = None,
    per: Annotated[
        str,
        typer.Option(help="What an influence counts for: paper, token (batches of equal tokens) or row (equal rows)."),
    ] = "paper",
    max_mismatch: Annotated[
        str,
        typer.Option(help="Pass over rows with a larger mismatch: a share, none, or auto (0.2 where it is known)."),
    ] = "auto",
    max_similarity: Annotated[
        str, typer.Option(help="Pass over rows this similar to one taken: a share, none, or auto (0.7).")
    ] = "auto",
    text_column: Annotated[
        list[str] | None, typer.Option(help="Column of a row's text, the answer last (repeatable); by its format.")
    ] = None,
    balance: Annotated[str | None, typer.Option(help="Column whose values get equal shares of the budget.")] = None,
    quota: Annotated[
        list[str] | None, typer.Option(help="Share of a value of --balance: medquad=0.3 (repeatable).")
    ] = None,
    turns: Annotated[
        list[str] | None, typer.Option(help="Columns of influences that choose in turn (repeatable).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of --strategy random.")] = 0,
) -> None:
    """Pick rows by quadrant (Q1, Q2, Q3, Q4) until the budget is met, and save them."""
    from ..recipe import Recipe
    from ..selection.proof import derive_selection
    from ..selection.quadrants import QUADRANTS, REASONS
    from ..selection.settings import settings_for

    if quota and balance is None:
        raise ValueError("--quota needs the column of its values: --balance source --quota medquad=0.3.")
    rows = load_rows(scored, "train")
    settings = settings_for(
        rows,
        strategy=strategy,
        ratio=ratio,
        num_rows=num_rows,
        num_tokens=num_tokens,
        per=per,
        seed=seed,
        difficulty_percentile=difficulty_percentile,
        max_difficulty_percentile=max_difficulty_percentile,
        max_mismatch=_share("--max-mismatch", max_mismatch),
        max_similarity=_share("--max-similarity", max_similarity),
        text_columns=text_column or None,
        balance={balance: dict(map(_quota, quota))} if quota else balance,
        turns=turns or None,
    )
    _, subset, selection = derive_selection(rows, settings)
    recipe = load_recipe(scored) or Recipe()
    commands = (*(recipe.commands or ()), command_line(context))
    save(subset, output, replace(recipe, commands=commands, selection=selection))
    counts = ", ".join(f"{name} {getattr(selection.subset, name)}" for name in QUADRANTS)
    typer.echo(f"{len(subset)} of {len(rows)} rows ({counts}) in {output}")
    if passed_over := [
        f"{count} {reason}" for reason, count in selection.reasons.items() if reason not in REASONS[:2]
    ]:
        typer.echo(f"Passed over: {', '.join(passed_over)}")


def _share(option: str, text: str) -> float | str | None:
    """What `auto`, `none` or a number stands for."""
    if text.lower() in ("auto", "none"):
        return "auto" if text.lower() == "auto" else None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{option} is {text!r}; it is a share between 0 and 1, auto or none.") from None


def _quota(text: str) -> tuple[str, float]:
    name, _, share = text.rpartition("=")
    try:
        return name, float(share)
    except ValueError:
        raise ValueError(f"--quota is {text!r}; it is a value and its share: medquad=0.3.") from None


@app.command(
    epilog="Example: diq annotate pool.jsonl --model judge --base-url http://localhost:8000/v1 --output labels"
)
def annotate(
    dataset: Annotated[str, typer.Argument(help="Hub id, folder, or a .jsonl, .json or .parquet file.")],
    model: Annotated[str, typer.Option(help="The judge: its name on the endpoint or on the Hub.")],
    output: Annotated[Path, typer.Option(help="Folder for the labelled dataset and its annotation.json.")],
    base_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint; by default an Inference Provider is used.")
    ] = None,
    provider: Annotated[str | None, typer.Option(help="Inference Provider; the Hub picks one by default.")] = None,
    token_env: Annotated[
        str | None, typer.Option(help="Environment variable with the endpoint's token; none is sent by default.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "train",
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
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 0,
    max_tokens: Annotated[int, typer.Option(help="Longest answer; a model that thinks first needs more.")] = 1024,
    seed: Annotated[int | None, typer.Option(help="Seed of the judge's sampling: another one is another run.")] = None,
    json_schema: Annotated[bool, typer.Option(help="Have the server hold the model to a JSON schema.")] = False,
    on_bad_row: Annotated[str, typer.Option(help="'raise', or 'null' to leave bad rows unlabelled.")] = "raise",
    overwrite: Annotated[bool, typer.Option(help="Replace columns of the same name.")] = False,
    cache_dir: Annotated[Path | None, typer.Option(help="Folder for the journals of answers.")] = None,
) -> None:
    """Have an LLM judge label every row's difficulty, 1 to 5. A killed run goes on where it stopped."""
    from ..annotation.annotate import annotate
    from ..annotation.rubric import RUBRIC

    if unknown := [name for name in perspective or () if name not in RUBRIC]:
        raise ValueError(f"There is no perspective {unknown[0]!r}; choose from {list(RUBRIC)}.")
    if token_env is not None and not os.environ.get(token_env):
        raise ValueError(f"The environment variable {token_env!r} of --token-env is not set.")
    processing_class = None
    if tokenizer is not None:
        from transformers import AutoTokenizer

        processing_class = AutoTokenizer.from_pretrained(tokenizer)
    annotation = annotate(
        load_rows(dataset, split),
        model,
        base_url=base_url,
        provider=provider,
        token=None if token_env is None else os.environ[token_env],
        rubric={name: RUBRIC[name] for name in perspective or RUBRIC},
        text=text,
        compare_with=None if compare_with is None else load_rows(compare_with, split),
        max_concurrency=max_concurrency,
        overwrite=overwrite,
        on_bad_row=on_bad_row,
        cache_dir=cache_dir,
        processing_class=processing_class,
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
        json_schema=json_schema,
        timeout=timeout,
        max_retries=max_retries,
        retry_delay=retry_delay,
    )
    annotation.save(output)
    typer.echo(annotation.summary())
    typer.echo(f"{len(annotation.dataset)} rows in {output}")


@app.command(epilog="Example: diq train-difficulty labelled.jsonl --group-column template --output classifier")
def train_difficulty(
    dataset: Annotated[str, typer.Argument(help="Rows with levels 1 to 5 in columns; named as for `diq score`.")],
    output: Annotated[Path, typer.Option(help="Folder for the classifier and its card.")],
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "train",
    encoder: Annotated[str | None, typer.Option(help="Encoder's Hub id or folder; BiomedBERT by default.")] = None,
    knowledge: Annotated[str | None, typer.Option(help="Column of the levels of knowledge.")] = None,
    reasoning: Annotated[str | None, typer.Option(help="Column of the levels of reasoning.")] = None,
    overall: Annotated[str | None, typer.Option(help="Column of the overall levels.")] = None,
    text_field: Annotated[str, typer.Option(help="Column of plain text rows.")] = "text",
    group_column: Annotated[
        str | None, typer.Option(help="Column of groups to hold out whole, as well as rows.")
    ] = None,
    holdout: Annotated[float, typer.Option(help="Share of the rows to hold out.")] = 0.2,
    max_length: Annotated[int, typer.Option(help="Prompts are cut to this many tokens.")] = 512,
    num_train_epochs: Annotated[float, typer.Option(help="Passes over the rows.")] = 5,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-4,
    seed: Annotated[int, typer.Option(help="Seed of heads, order and hold-out.")] = 0,
    push_to_hub: Annotated[str | None, typer.Option(help="Hub id to publish to.")] = None,
) -> None:
    """Train a difficulty classifier on rows with levels, judge it on held-out rows, and write its card.

    Without --knowledge, --reasoning and --overall the columns of these names are taken.
    """
    from ..difficulty.classifier import DEFAULT_ENCODER
    from ..difficulty.classifier_card import summary
    from ..difficulty.classifier_training import train_classifier

    named = {"knowledge": knowledge, "reasoning": reasoning, "overall": overall}
    classifier, figures = train_classifier(
        load_rows(dataset, split),
        output,
        encoder=encoder or DEFAULT_ENCODER,
        labels={name: column for name, column in named.items() if column} or None,
        dataset_text_field=text_field,
        group_column=group_column,
        holdout=holdout,
        max_length=max_length,
        num_train_epochs=num_train_epochs,
        learning_rate=learning_rate,
        seed=seed,
    )
    if int(os.environ.get("RANK", 0)) == 0:
        typer.echo(summary(figures))
        typer.echo(f"Classifier and card in {output}")
        if push_to_hub:
            typer.echo(f"Published: {classifier.push_to_hub(push_to_hub)}")


@app.command(epilog="Example: diq push subset me/medical-diq --config-name diq_1pct --scored scored")
def push(
    subset: Annotated[str, typer.Argument(help="A subset, as `diq select` writes it.")],
    repo_id: Annotated[str, typer.Argument(help="Dataset repository; made if it is not there.")],
    config_name: Annotated[
        str | None, typer.Option(help="Name of the configuration; 'scored' for the whole pool.")
    ] = None,
    scored: Annotated[
        str | None, typer.Option(help="The scored pool, to publish its scores (no texts) as the subset's proof.")
    ] = None,
    source_datasets: Annotated[
        list[str] | None, typer.Option(help="Hub id of a dataset the rows are from (repeatable).")
    ] = None,
    license: Annotated[str | None, typer.Option(help="License of the rows, if the source's card names none.")] = None,
    language: Annotated[list[str] | None, typer.Option(help="Language of the rows (repeatable).")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to.")] = None,
    token: Annotated[str | None, typer.Option(help="Access token; by default that of `hf auth login`.")] = None,
) -> None:
    """Publish a subset on the Hub with a card and what proves it: all in one commit, or nothing."""
    from ..publishing.hub import push_subset

    commit = push_subset(
        load_rows(subset, "train"),
        repo_id,
        config_name,
        scored=None if scored is None else load_rows(scored, "train"),
        recipe=load_recipe(subset),
        source_datasets=source_datasets,
        license=license,
        language=language,
        private=private or None,
        token=token,
        revision=revision,
        create_pr=create_pr,
    )
    typer.echo(commit.pr_url or commit.commit_url)


@app.command(epilog="Example: diq verify me/medical-diq")
def verify(
    repo_id: Annotated[str, typer.Argument(help="Dataset repository.")],
    config_name: Annotated[str | None, typer.Option(help="Configuration; by default every published subset.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    token: Annotated[str | None, typer.Option(help="Access token; by default that of `hf auth login`.")] = None,
) -> None:
    """Derive a published selection again from its scores and compare; exit code 1 if anything is not as stated."""
    from ..publishing.hub import verify_subset

    found = verify_subset(repo_id, config_name, revision=revision, token=token)
    for name, (problems, proven, contents) in found.items():
        for problem in problems:
            typer.echo(f"{name}: {problem}")
        if not problems and proven:
            rows = "rows" if contents else "scores of the rows"  # the first publications had no digests of contents
            typer.echo(f"{name}: thresholds, quadrants, ranks and {rows} follow from the published scores")
        elif not problems:
            typer.echo(f"{name}: files are as published; the pool's scores are not, so the selection is not proven")
    if any(result.problems for result in found.values()):
        raise typer.Exit(1)


def save(rows: Any, folder: Path, recipe: Any) -> None:
    """Saves rows with their recipe beside them; an earlier recipe is never left beside other rows."""
    from ..names import RECIPE

    (folder / RECIPE).unlink(missing_ok=True)
    rows.save_to_disk(folder)
    (folder / RECIPE).write_text(json.dumps(recipe.to_json(), indent=2) + "\n", encoding="utf-8")


def load_recipe(folder: str) -> Any:
    """The [`~diq_hf.recipe.Recipe`] that [`save`] left, if there is one."""
    from ..names import RECIPE
    from ..recipe import Recipe

    path = Path(folder) / RECIPE
    return Recipe.load(path) if path.is_file() else None


def command_line(context: typer.Context) -> str:
    """The command that is running, as others may read it: without defaults, and without this machine's folders."""
    from ..names import public_name

    words = ["diq", context.info_name]
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name)
        if given is None or given.name == "DEFAULT":
            continue
        value = context.params[parameter.name]
        for item in value if isinstance(value, list | tuple) else [value]:
            words += [parameter.opts[0]] if parameter.param_type_name == "option" else []
            words.append(public_name(item)["name"] if os.sep in str(item) else str(item))
    return shlex.join(words)


@app.command(epilog="Example: diq report scored --ratio 0.1 --output report.html")
def report(
    scored: Annotated[str, typer.Argument(help="A scored dataset, as `diq score` writes it.")],
    output: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    ratio: Annotated[float | None, typer.Option(help="Share of the rows that counts as selected; 0.1.")] = None,
    num_rows: Annotated[int | None, typer.Option(help="Number of selected rows, instead of --ratio.")] = None,
    difficulty_percentile: Annotated[float, typer.Option(help="Percentile above which a row is difficult.")] = 50,
    title: Annotated[str | None, typer.Option(help="Heading; the dataset's name by default.")] = None,
    max_rows: Annotated[int, typer.Option(help="Rows whose text the page holds for its search.")] = 2000,
) -> None:
    """Show a scored dataset on one page: quadrants, lengths, duplicates, rows to read and to search."""
    from ..reporting.report import write_report
    from ..selection.quadrants import QuadrantRule

    rows = load_rows(scored, "train")
    rule = QuadrantRule.fit(rows, difficulty_percentile=difficulty_percentile)
    write_report(rows, output, ratio, num_rows, rule, title or Path(scored).name, max_rows=max_rows)
    typer.echo(f"{len(rows)} rows in {output}")


def load_rows(name: str, split: str):
    """A dataset by Hub id, `save_to_disk` folder, or data file."""
    from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

    path = Path(name)
    builders = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
    if path.suffix in builders:
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {name}.")
        return load_dataset(builders[path.suffix], data_files=name, split="train")
    saved = path.is_dir() and any((path / file).exists() for file in ("state.json", "dataset_dict.json"))
    if not saved:
        return load_dataset(name, split=split)
    rows: Dataset | DatasetDict = load_from_disk(name)
    if isinstance(rows, DatasetDict) and split not in rows:
        raise ValueError(f"{name} has the splits {sorted(rows)}, not {split!r}.")
    return rows[split] if isinstance(rows, DatasetDict) else rows


def main() -> None:
    """Runs `diq`."""
    app()


if __name__ == "__main__":
    main()
