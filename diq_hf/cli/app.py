"""`App`: a Typer whose every command takes `--config` and `--debug` and fails in one line."""

import functools
import inspect
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from .config import read_config
from .options import gather_groups, spread_groups


class App(typer.Typer):
    """Commands are registered as with Typer, by `@app.command()`. Exit codes: 0 done, 1 error, 2 wrong usage."""

    def command(self, *args: Any, **kwargs: Any) -> Callable:
        register = super().command(*args, **kwargs)

        def decorate(function: Callable) -> Callable:
            register(_with_common_options(function))
            return function

        return decorate


def _with_common_options(function: Callable) -> Callable:
    config = Annotated[
        Path | None,
        typer.Option(
            help="YAML or JSON file of option names and values; the command line wins.",
            is_eager=True,
            callback=read_config,
            show_default=False,
        ),
    ]
    debug = Annotated[bool, typer.Option("--debug", help="Show an error's traceback.")]
    own = inspect.signature(function)
    signature = spread_groups(own)

    @functools.wraps(function)
    def run(*args: Any, config: Path | None, debug: bool, **options: Any) -> None:
        try:
            function(*args, **gather_groups(own, options))
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            if debug:
                raise
            kind = "" if isinstance(error, ValueError | TypeError | OSError) else f"{type(error).__name__}: "
            message = in_options(" ".join(str(error).split()), signature.parameters)
            typer.secho(f"diq: {kind}{message}", fg="red", err=True)
            raise typer.Exit(1) from error

    named = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter("config", named, default=None, annotation=config),
        inspect.Parameter("debug", named, default=False, annotation=debug),
    ]
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])
    run.__annotations__ = {name: parameter.annotation for name, parameter in run.__signature__.parameters.items()}
    return run


# What the library's arguments are called on the command line, where it is something else.
_OPTIONS = {
    "labels": "difficulty_label",
    "overwrite": "overwrite_columns",
    "processing_class": "tokenizer",
    "processing_class.chat_template": "chat_template",
    "token": "token_env",
}
# Calls that errors advise, what to write for each on a command line, and the option it takes.
_CALLS = (
    (re.compile(r"`ds\.map\(DIQScorer\([^`]*`"), "`diq score`", None),
    (
        re.compile(r"`columns=ColumnTemplate\('([^']*)', '([^']*)'\)`"),
        r"`--{}prompt '\1' --{}completion '\2'`",
        "prompt",
    ),
    (re.compile(r"`columns=ColumnTemplate\(messages='([^']*)'\)`"), r"`--{}messages '\1'`", "messages"),
    (re.compile(r"`select_subset\(diq_score\.score\([^`]*`"), "`diq score`, then `diq select`", None),
)
# Of rows beside the pool, as their errors begin, what the options begin with that say what their columns are.
_BESIDE = {"Validation ": "validation", "Held-out ": "heldout"}
# Options whose names are those of columns, too: a bare one is taken for the column.
_COLUMNS = ("difficulty", "mismatch", "prompt", "completion", "system", "messages")
_ARGUMENT = re.compile(r"`([a-z_.]+)(=[^`]*)?`")


def in_options(message: str, options: Collection[str]) -> str:
    """A message of the library with the command's options in place of Python's arguments.

    Args:
        message (`str`):
            Names an argument as `` `name=value` ``, `` `name=` `` or `` `name` ``.
        options (`Collection[str]`):
            Names of the command's parameters. Other arguments stay as they are.

    Example:

    ```python
    >>> in_options("Raise `max_length`, or pass `on_bad_row='skip'`.", ["max_length", "on_bad_row"])
    'Raise `--max-length`, or pass `--on-bad-row skip`.'
    >>> in_options("Score it first: `ds.map(DIQScorer(...))`.", [])
    'Score it first: `diq score`.'

    ```
    """

    def replace(found: re.Match) -> str:
        argument, value = found[1], (found[2] or "").removeprefix("=").strip("'\"")
        name = _OPTIONS.get(argument, argument)
        name = name if name in options else argument
        if name not in options or (argument in _COLUMNS and not found[2]):
            return found[0]
        option = f"--{name.replace('_', '-')}"
        if value in ("True", "False"):
            return f"`{option}`" if value == "True" else f"`{option.replace('--', '--no-', 1)}`"
        return f"`{option} {'none' if value == 'None' else value}`" if value else f"`{option}`"

    beside = next((f"{name}_" for rows, name in _BESIDE.items() if message.startswith(rows)), "")
    beside = beside if f"{beside}columns" in options else ""
    message = message.replace("`columns='", f"`{beside}columns='")
    for call, command, option in _CALLS:
        if option is None or f"{beside}{option}" in options:
            message = call.sub(command.replace("{}", beside.replace("_", "-")), message)
    return _ARGUMENT.sub(replace, message)
