"""Which line of a text file is at fault, once reading the file has failed."""

import json
from pathlib import Path
from typing import Any, NamedTuple


class Fault(NamedTuple):
    """A line that cannot be read.

    Args:
        line (`int`):
            Its number, from 1.
        what (`str`):
            What is wrong with it.
    """

    line: int
    what: str


def find_fault(path: str) -> Fault | None:
    """The first line of a JSON, CSV or text file (compressed or not) that is at fault; `None` if none can be named."""
    import fsspec

    name = Path(path).name.lower()
    is_json = any(suffix in name for suffix in (".json", ".ndjson"))
    if not is_json and not any(suffix in name for suffix in (".csv", ".tsv", ".txt")):
        return None
    try:
        with fsspec.open(path, "rb", compression="infer") as file:
            head = file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n")
            file.seek(0)
            if is_json and (head.startswith(b"[") or (".json" in name and ".jsonl" not in name)):
                fault = _in_document(file.read())
                if fault is None or head.startswith(b"["):
                    return fault
                file.seek(0)  # lines of JSON in a `.json` file
            for number, line in enumerate(file, 1):
                if what := _wrong(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, is_json):
                    return Fault(number, what)
    except (OSError, EOFError, ValueError, ImportError):
        return None  # the file is torn as a whole, which the reader's own error says
    return None


def _in_document(content: bytes) -> Fault | None:
    try:
        rows = json.loads(content)
    except json.JSONDecodeError as error:
        return Fault(error.lineno, f"{error.msg} (column {error.colno}).")
    except UnicodeDecodeError as error:
        return Fault(content.count(b"\n", 0, error.start) + 1, _not_text(error))
    wrong = [i for i, row in enumerate(rows) if not isinstance(row, dict)] if isinstance(rows, list) else []
    return Fault(1, f"item {wrong[0]} of the list is no object, and a row is one: {{...}}.") if wrong else None


def _wrong(line: bytes, is_json: bool) -> str | None:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return _not_text(error)
    if not is_json or not text.strip():
        return None
    try:
        row = json.loads(text.rstrip("\r\n"), object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        return f"{error.msg} (column {error.colno})."
    except ValueError as error:
        return str(error)
    return None if isinstance(row, dict) else f"it holds a {type(row).__name__}, and a row is an object, {{...}}."


def _once(pairs: list[tuple[str, Any]]) -> dict:
    names = [name for name, _ in pairs]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ValueError(f"it has the key {twice[0]!r} twice.")
    return dict(pairs)


def _not_text(error: UnicodeDecodeError) -> str:
    return f"byte 0x{error.object[error.start]:02x} is no UTF-8. Save the file as UTF-8."
