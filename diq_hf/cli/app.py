"""`App`: a Typer whose every command takes `--config` and `--debug` and fails in one line."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer


class App(typer.Typer):
    """Commands are registered as with Typer, by `@app.command()`. Exit codes: 0 done, 1 error, 2 wrong usage."""

    def command(self, *args: Any, **kwargs: Any) -> Callable:
        register = super().command(*args, **kwargs)

        def decorate(function: Callable) -> Callable:
            register(_with_common_options(function))
            return function

        return decorate


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Makes a file's values the command's defaults. Typer calls it before it looks at any other option."""
    if path is None:
        return None
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}  # JSON is YAML as well
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise typer.BadParameter(f"{path} holds a {type(values).__name__}. It must hold `option: value` pairs.")
    options = {option.name: option for option in context.command.params}
    options = {name: option for name, option in options.items() if name not in ("config", "help")}
    given, values = values, {}
    for key, value in given.items():
        name = str(key).replace("-", "_")
        if name not in options:
            raise typer.BadParameter(
                f"{path} has {key!r}, which `{context.info_name}` does not take. It takes {', '.join(options)}."
            )
        repeatable = getattr(options[name], "multiple", False)
        if isinstance(value, dict) or (isinstance(value, list) and not repeatable):
            raise typer.BadParameter(f"{path} has a {type(value).__name__} as {key!r}, which takes one value.")
        values[name] = [value] if repeatable and value is not None and not isinstance(value, list) else value
    context.default_map = values
    return path


def _with_common_options(function: Callable) -> Callable:
    config = Annotated[
        Path | None,
        typer.Option(
            help="YAML or JSON file of option names and values; the command line wins.",
            is_eager=True,
            callback=_read_config,
            show_default=False,
        ),
    ]
    debug = Annotated[bool, typer.Option("--debug", help="Show an error's traceback.")]

    @functools.wraps(function)
    def run(*args: Any, config: Path | None, debug: bool, **options: Any) -> None:
        try:
            function(*args, **options)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            if debug:
                raise
            kind = "" if isinstance(error, ValueError | TypeError | OSError) else f"{type(error).__name__}: "
            typer.secho(f"diq: {kind}{' '.join(str(error).split())}", fg="red", err=True)
            raise typer.Exit(1) from error

    named = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter("config", named, default=None, annotation=config),
        inspect.Parameter("debug", named, default=False, annotation=debug),
    ]
    signature = inspect.signature(function)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])
    run.__annotations__ = function.__annotations__ | {"config": config, "debug": debug}
    return run
