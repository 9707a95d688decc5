"""Options that several commands share, and a command line as it is published."""

import inspect
import os
import shlex
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Annotated, Any

import typer


Split = Annotated[str | None, typer.Option(help="Split, or a slice of one such as 'train[:100]'; 'train' by default.")]
Name = Annotated[str | None, typer.Option(help="Configuration of a dataset that has several.")]
DatasetRevision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a dataset on the Hub.")]
TextField = Annotated[str, typer.Option(help="Column of plain text rows.")]
MaxMismatch = Annotated[
    str, typer.Option(help="Pass over rows with a larger mismatch: a share, none, or auto (0.2 where it is known).")
]
MaxSimilarity = Annotated[
    str, typer.Option(help="Pass over rows this similar to one taken: a share, none, or auto (0.7).")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run left at --output.")]
OverwriteColumns = Annotated[bool, typer.Option("--overwrite-columns", help="Replace columns of the same name.")]
HubToken = Annotated[
    str | None, typer.Option(help="Environment variable with the access token; by default that of `hf auth login`.")
]
OwnColumns = Annotated[
    str | None, typer.Option(help="As --columns, of these rows; by default as the dataset's, if they fit.")
]
OwnPrompt = Annotated[str | None, typer.Option(help="As --prompt, of these rows.")]
OwnCompletion = Annotated[str | None, typer.Option(help="As --completion, of these rows.")]
OwnMessages = Annotated[str | None, typer.Option(help="As --messages, of these rows.")]
PushToSpace = Annotated[
    str | None, typer.Option(help="Static Space that shows the page; made if it is not there. It can be read there.")
]
Private = Annotated[bool, typer.Option("--private", help="Make a new repository private.")]


def or_none(kind: Callable[[str], Any]) -> Any:
    """The rest of an option whose value may be `none` (in a `--config` file: null), as arguments of `typer.Option`."""

    def parse(value: Any) -> Any:
        return None if str(value).lower() == "none" else kind(value)

    parse.__name__ = kind.__name__  # typer's errors say which type was expected
    return {"parser": parse, "metavar": f"{'INTEGER' if kind is int else 'FLOAT'}|none"}


def takes_none(option: Any) -> bool:
    """Whether an option was made with [`or_none`]."""
    return (option.metavar or "").endswith("|none")


def share_of(option: str, text: str) -> float | str | None:
    """What `auto`, `none` or a number stands for."""
    if text.lower() in ("auto", "none"):
        return "auto" if text.lower() == "auto" else None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{option} is {text!r}; it is a share between 0 and 1, auto or none.") from None


def token_of(variable: str | None) -> str | None:
    """The token in an environment variable. On a command line every user of the machine could read it."""
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise ValueError(f"The environment variable {variable!r} of --token-env is not set.")
    return os.environ[variable]


# What says where a command read and wrote, and nothing about its result.
_UNPUBLISHED = ("config", "debug", "overwrite")


def command_line(context: typer.Context) -> str:
    """The command that is running, as others may read it: without defaults, and without this machine's folders."""
    from ..names import public_name

    words = ["diq", context.info_name]
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name)
        if given is None or given.name == "DEFAULT" or parameter.name in _UNPUBLISHED:
            continue
        value = context.params[parameter.name]
        if isinstance(value, bool):
            words += parameter.opts[:1] if value else parameter.secondary_opts[:1]
            continue
        for item in value if isinstance(value, list | tuple) else [value]:
            words += [parameter.opts[0]] if parameter.param_type_name == "option" else []
            item = "none" if item is None else str(item)
            words.append(public_name(item)["name"] if os.sep in item else item)
    return shlex.join(words)


def spread_groups(signature: inspect.Signature) -> inspect.Signature:
    """A command's signature with an option for each field in place of a parameter whose type is a dataclass."""
    parameters = []
    for parameter in signature.parameters.values():
        if not is_dataclass(parameter.annotation):
            parameters.append(parameter)
            continue
        for field in fields(parameter.annotation):
            parameters.append(parameter.replace(name=field.name, annotation=field.type, default=field.default))
    return signature.replace(parameters=parameters)


def gather_groups(signature: inspect.Signature, options: dict[str, Any]) -> dict[str, Any]:
    """A command's arguments with such fields' options gathered."""
    gathered = dict(options)
    for name, parameter in signature.parameters.items():
        if is_dataclass(kind := parameter.annotation):
            gathered[name] = kind(**{field.name: gathered.pop(field.name) for field in fields(kind)})
    return gathered
