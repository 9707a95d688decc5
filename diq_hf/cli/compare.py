"""`diq compare`: a pool, validation and held-out rows in; whether selecting is worth it out."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from .inputs import load_rows, source_of
from .options import (
    HubToken,
    Name,
    OwnColumns,
    OwnCompletion,
    OwnMessages,
    OwnPrompt,
    Private,
    PushToSpace,
    Split,
    command_line,
    token_of,
)
from .reading import AS_IT_IS, Reading


# Options of `diq compare` that are followed by several words.
_SEVERAL = ("--strategies", "--seeds", "--ratio", "--task")


class SeveralWords(TyperCommand):
    """A command that takes `--strategies diq random less` for `--strategies diq --strategies random …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeats such an option before each of its words."""
        repeatable = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        words, option = [], None
        for word in args:
            if word.startswith("--"):
                option = word if word in _SEVERAL and word in repeatable else None
            elif option is not None and words[-1] != option:
                words.append(option)
            words.append(word)
        return super().parse_args(ctx, words)


def compare(
    context: typer.Context,
    pool: Annotated[str, typer.Argument(help="Rows to choose from, scored or not: Hub id, folder or data file.")],
    model: Annotated[str, typer.Option(help="Model to fine-tune: Hub id or folder.")],
    validation: Annotated[str, typer.Option(help="Validation rows, by which strategies choose.")],
    heldout: Annotated[str, typer.Option(help="Held-out rows, by which trained models are measured.")],
    output: Annotated[Path, typer.Option(help="Folder for results; what is done there is not done again.")],
    strategies: Annotated[
        list[str] | None,
        typer.Option(
            help="Who chooses: less, 'diq:per=token', …; by default diq, diq-paper, random, influence, difficulty, "
            "length."
        ),
    ] = None,
    ratio: Annotated[list[str] | None, typer.Option(help="Share of the trained tokens, or several; 0.1.")] = None,
    seeds: Annotated[list[str] | None, typer.Option(help="Seeds of training; 0 1 2.")] = None,
    budget: Annotated[str, typer.Option(help="What is equal: tokens, or rows.")] = "tokens",
    training: Annotated[
        Path | None, typer.Option(help="YAML or JSON file of SFTConfig fields, and of LoraConfig's under 'lora'.")
    ] = None,
    full_finetuning: Annotated[
        bool, typer.Option("--full-finetuning", help="Train all weights instead of LoRA.")
    ] = False,
    difficulty: Annotated[str, typer.Option(help="As in `diq score`.")] = "ifd",
    group_column: Annotated[str | None, typer.Option(help="Column that groups validation and held-out rows.")] = None,
    source_column: Annotated[str, typer.Option(help="Column that says where rows are from.")] = "source",
    reading: Reading = AS_IT_IS,
    validation_split: Split = None,
    validation_name: Name = None,
    validation_columns: OwnColumns = None,
    validation_prompt: OwnPrompt = None,
    validation_completion: OwnCompletion = None,
    validation_messages: OwnMessages = None,
    heldout_split: Split = None,
    heldout_name: Name = None,
    heldout_columns: OwnColumns = None,
    heldout_prompt: OwnPrompt = None,
    heldout_completion: OwnCompletion = None,
    heldout_messages: OwnMessages = None,
    on_leak: Annotated[
        str, typer.Option(help="Held-out rows that stand in the pool: 'raise', or 'drop' to measure by the others.")
    ] = "raise",
    task: Annotated[list[str] | None, typer.Option(help="Tasks of lm-eval, where it is installed.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the model's weights, 'float32' for instance.")] = None,
    attn_implementation: Annotated[str | None, typer.Option(help="As in `diq score`.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="An early answer: 400 rows of the pool, 100 held-out ones.")
    ] = False,
    finished_only: Annotated[
        bool, typer.Option("--finished-only", help="Train nothing: show what is done so far.")
    ] = False,
    push_to_hub: Annotated[
        str | None, typer.Option(help="Dataset repository that gets the results: beside the card of a subset.")
    ] = None,
    push_to_space: PushToSpace = None,
    private: Private = False,
    token_env: HubToken = None,
) -> None:
    """Train on what each strategy chooses, at equal tokens and steps, and tell real differences from chance.

    Finished runs are kept in --output: a killed comparison goes on, strategies and seeds can be added, and several
    processes with the same command share the work.
    """
    if push_to_hub is None and push_to_space is None:
        for option, is_given in (("--private", private), ("--token-env", token_env is not None)):
            if is_given:
                raise ValueError(f"{option} goes with --push-to-hub or --push-to-space.")
    token = token_of(token_env)
    if push_to_hub is not None:
        from ..comparison.hub import check_repository, push_comparison

        push_to_hub = check_repository(push_to_hub, token, private=private or None)
    if push_to_space is not None:
        from ..publishing.space import ReportSpace

        space = ReportSpace(push_to_space, private=private or None, token=token)
    chosen = {
        "strategies": strategies,
        "ratio": [_number(float, "--ratio", text) for text in ratio or ()],
        "seeds": [_number(int, "--seeds", text) for text in seeds or ()],
    }
    training_config, lora = _training(training)
    if full_finetuning and lora != "auto":
        raise ValueError(f"{training} has 'lora', and `full_finetuning=True` has none. Leave one of them out.")
    from ..comparison.compare import compare
    from ..comparison.page import markdown_table

    own = {
        "validation": (validation_columns, validation_prompt, validation_completion, validation_messages),
        "heldout": (heldout_columns, heldout_prompt, heldout_completion, heldout_messages),
    }
    rows = {
        "pool": reading.rows(pool, "skip"),  # what cannot be read is passed over
        "validation": reading.beside(
            load_rows(validation, validation_split, validation_name), "Validation", own["validation"]
        ),
        "heldout": reading.beside(load_rows(heldout, heldout_split, heldout_name), "Held-out", own["heldout"]),
    }
    names = {"validation": (validation, validation_name), "heldout": (heldout, heldout_name)}
    given = {"revision": revision, "dtype": dtype, "attn_implementation": attn_implementation}
    result = compare(
        rows["pool"],
        model,
        rows["validation"],
        rows["heldout"],
        output,
        **{name: value for name, value in chosen.items() if value},
        budget=budget,
        training=training_config,
        lora=None if full_finetuning else lora,
        model_init_kwargs={name: value for name, value in given.items() if value is not None},
        difficulty=difficulty,
        group_column=group_column,
        source_column=source_column,
        on_leak=on_leak,
        tasks=task or (),
        quick=quick,
        finished_only=finished_only,
        sources={
            "pool": reading.source(pool, rows["pool"]),
            **{name: source_of(given, rows[name], config) for name, (given, config) in names.items()},
        },
        commands=(command_line(context),),
    )
    typer.echo(markdown_table(result))
    for warning in result.warnings:
        typer.secho(warning, err=True)
    typer.echo(f"{output / 'index.html'} shows it, {output / 'comparison.json'} holds it.")
    if push_to_hub is not None:
        typer.echo(push_comparison(output, push_to_hub, token, private=private or None))
    if push_to_space is not None:
        typer.echo(space.push(output / "index.html"))


def _number(kind: Any, option: str, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{option} is {text!r}, which is no {'whole ' if kind is int else ''}number.") from None


def _training(path: Path | None) -> tuple[dict, Any]:
    """Fields of SFTConfig, and of LoraConfig (`"auto"` where there are none)."""
    if path is None:
        return {}, "auto"
    from .config import read_values

    values = read_values(path)
    lora = values.pop("lora", "auto")
    if lora is not None and lora != "auto" and not isinstance(lora, dict):
        raise ValueError(f"{path} has a {type(lora).__name__} as 'lora', which holds fields of LoraConfig.")
    return values, lora
