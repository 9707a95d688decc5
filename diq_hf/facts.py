"""Types that are JSON objects: a fact is a field, and its JSON key is the field's name.

To add one, add a field whose default is `None`: what was written before it has no such key and reads as `None`, and a
`None` that is the default is not written. Keys that no field is named after are kept in `more` and written again, so
that what a newer version wrote loses nothing on its way through an older one. Only a `CLOSED` type refuses them.
"""

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, get_args, get_origin, get_type_hints


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A JSON object of known keys.

    Args:
        more (`dict`, *optional*):
            Keys that no field is named after, as they are.
    """

    more: Mapping[str, Any] = field(default_factory=dict)

    CLOSED: ClassVar[bool] = False

    @classmethod
    def from_json(cls, value: Any, where: str = "recipe") -> Any:
        """Reads parsed JSON.

        Args:
            value (`dict`):
                The JSON object; one of this class is returned as it is.
            where (`str`, *optional*, defaults to `"recipe"`):
                What an error calls it.

        Raises:
            `ValueError`: A key is missing, unknown where none may be, or its value is of another type.
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be an object (a dict), not {_shown(value)}.")
        if odd := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"{where} has the key {odd[0]!r}; keys are strings.")
        known = [part for part in fields(cls) if part.name != "more"]
        more = {name: part for name, part in value.items() if name not in {part.name for part in known}}
        if more and cls.CLOSED:
            raise ValueError(
                f"{where} has {sorted(more)}, which this version does not know and which may decide what is selected. "
                f"It knows {[part.name for part in known]}. Mend the name, or upgrade diq_hf."
            )
        hints = get_type_hints(cls)
        read = {}
        for part in known:
            if part.name in value:
                read[part.name] = _read(value[part.name], hints[part.name], f"{where}[{part.name!r}]")
            elif part.default is MISSING and part.default_factory is MISSING:
                raise ValueError(f"{where} has no {part.name!r}; it has {sorted(value)}.")
        return cls(**read, more=more)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, from which `from_json` makes the same again."""
        stated = {}
        for part in fields(self):
            value = getattr(self, part.name)
            if part.name != "more" and not (value is None and part.default is None):
                stated[part.name] = _plain(value)
        return stated | _plain(self.more)


def _read(value: Any, kind: Any, where: str) -> Any:
    """A JSON value as the type that a field asks for."""
    if get_origin(kind) is types.UnionType:
        if value is None:
            return None
        kind = get_args(kind)[0]  # all unions are `X | None`
    origin, parts = get_origin(kind), get_args(kind)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} must be a list, not {_shown(value)}.")
        return tuple(_read(part, parts[0], f"{where}[{i}]") for i, part in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be an object (a dict), not {_shown(value)}.")
        return {name: _read(part, parts[1], f"{where}[{name!r}]") for name, part in value.items()}
    if kind is Any:
        return value
    if issubclass(kind, Facts):
        return kind.from_json(value, where)
    names = {str: "a string", bool: "true or false", int: "a whole number", float: "a finite number"}
    fits = isinstance(value, int | float if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if isinstance(value, int | float):
        fits = fits and -(2**63) <= value < 2**63 if isinstance(value, int) else fits and math.isfinite(value)
    if not fits:
        raise ValueError(f"{where} must be {names[kind]}, not {_shown(value)}.")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Facts):
        return value.to_json()
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
