"""The file behind `--config`: a command's options by name, as its defaults."""

from pathlib import Path
from typing import Any

import typer

from .options import takes_none


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Makes a file's values the command's defaults. Typer calls it before it looks at any other option."""
    if path is None:
        return None
    values = read_values(path)
    options = {option.name: option for option in context.command.params}
    options = {name: option for name, option in options.items() if name not in ("config", "help")}
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in options:
            raise typer.BadParameter(
                f"{path} has {key!r}, which `{context.info_name}` does not take. It takes {', '.join(options)}."
            )
        if name in found:
            raise typer.BadParameter(f"{path} has {key!r} twice, once with '-' and once with '_'. Keep one.")
        found[name] = _value(path, str(key), value, options[name])
    context.default_map = found
    return path


def read_values(path: Path) -> dict:
    """What a YAML or JSON file of names and values holds.

    Raises:
        `typer.BadParameter`: It cannot be read, is neither, or has a key twice.
    """
    import yaml

    class Once(yaml.SafeLoader):
        """YAML takes the last of several equal keys; here they are refused."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            if twice := [key for i, key in enumerate(keys) if key in keys[:i]]:
                raise typer.BadParameter(f"{path} has {twice[0]!r} twice. Keep one.")
            return super().construct_mapping(node, deep)

    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Once) or {}  # JSON is YAML as well
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise typer.BadParameter(f"{path} holds a {type(values).__name__}. It must hold `option: value` pairs.")
    return values


def _value(path: Path, key: str, value: Any, option: Any) -> Any:
    repeatable = getattr(option, "multiple", False)
    if isinstance(value, dict) or (isinstance(value, list) and not repeatable):
        raise typer.BadParameter(f"{path} has a {type(value).__name__} as {key!r}, which takes one value.")
    if value is None:
        if takes_none(option):
            return "none"
        if not option.required and option.default not in (None, [], ()):
            raise typer.BadParameter(
                f"{path} has null as {key!r}, which must have a value. Leave the line out for the default, "
                f"{option.default!r}."
            )
        return None
    return [value] if repeatable and not isinstance(value, list) else value
