"""Files and folders that are whole or absent: written beside their place, renamed when they are done.

What is being written lies in a new folder of its own, readable by its owner alone and of a name that nobody can guess:
in a folder that others write to as well, nobody can put a link in its way, and two runs never write one file.
"""

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


UNFINISHED = ".unfinished-"
DAY = 24 * 60 * 60

_REMEDIES = {
    errno.ENOSPC: "Free some space there, or choose a place on another disk",
    errno.EDQUOT: "Your quota there is used up: free some space, or choose a place on another disk",
    errno.EFBIG: "Files there may not grow so large: lift the limit (`ulimit -f`), or choose a place on another disk",
    errno.EACCES: "Choose a folder that you may write to",
    errno.EPERM: "Choose a folder that you may write to",
    errno.EROFS: "Choose a folder that you may write to",
    errno.ENOTDIR: "A part of the path is a file: choose another place",
    errno.ENAMETOOLONG: "Choose a shorter name",
}


def is_address(path: str | Path | None) -> bool:
    """Whether a name is of no folder of this machine: `C:/jobs` is one, `hf://buckets/me/x` and `hf:x` are none."""
    return path is not None and re.match(r"[a-z]\w+:/|hf:", str(path), flags=re.IGNORECASE) is not None


def refuse_address(path: str | Path | None, name: str) -> None:
    """Raises if an argument that is for a folder of this machine is an address, of which `Path` would make one."""
    if is_address(path):
        raise ValueError(f"`{name}` is {str(path)!r}, which is no folder of this machine. Name one.")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path to write a file to, which takes the place of `path` when the block ends without an error.

    Args:
        path (`str` or `Path`):
            Where the file goes; missing folders are made. A link that stands there is replaced, not followed.

    Raises:
        `OSError`: The disk is full, the folder not writable or the like; what stood at `path` is still there.

    Example:

    ```python
    with replacing("scores.json") as unfinished:
        unfinished.write_text(json.dumps(scores))
    ```
    """
    path = Path(path)
    with _beside(path) as unfinished:
        yield unfinished
        _sync(unfinished)
        os.replace(unfinished, path)


@contextlib.contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """A path to write a folder to, which takes the place of `path` when the block ends without an error.

    What stood at `path` is removed when the new folder stands there; whether it may be is the caller's to decide.

    Args:
        path (`str` or `Path`):
            Where the folder goes; missing parents are made. Of a link to a folder the target is replaced.

    Raises:
        `OSError`: The disk is full, the parent not writable or the like; what stood at `path` is still there.
    """
    path = Path(os.path.realpath(path))
    with _beside(path) as unfinished:
        yield unfinished
        for folder, _, names in os.walk(unfinished):
            for name in names:
                _sync(Path(folder, name))
        put_in_place(unfinished, path)


def put_in_place(folder: str | Path, path: str | Path) -> None:
    """Renames a finished folder to `path`, on the same disk; what stood there goes when the new one stands."""
    folder, path = Path(folder), Path(os.path.realpath(path))
    with _explained(path):
        aside = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=path.parent))
        earlier = aside / path.name
        try:
            if path.exists():
                os.rename(path, earlier)
            try:
                os.rename(folder, path)
            except BaseException:
                if earlier.exists():
                    os.rename(earlier, path)
                raise
        except BaseException:
            with contextlib.suppress(OSError):  # not empty where even the way back failed: the old folder is in it
                aside.rmdir()
            raise
        shutil.rmtree(aside, ignore_errors=True)


def check_writable(path: str | Path) -> None:
    """Makes sure that a file or folder can be made at `path`, by making one beside it, and leaves nothing there.

    Raises:
        `OSError`: It cannot: the error says why and what to do.
    """
    path = Path(path)
    with _explained(path):
        place = path.parent
        while not place.exists() and place != place.parent:
            place = place.parent
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=place) as folder:
            Path(folder, "file").write_bytes(b"some bytes")


def remove_leftovers(folder: str | Path, older_than: float = DAY) -> None:
    """Removes what killed processes left unfinished in a folder, and what no process can still be writing.

    Args:
        folder (`str` or `Path`):
            The folder that the files were to stand in.
        older_than (`float`, *optional*, defaults to a day):
            Seconds that a leftover has not been written to. What is younger may be another run's.
    """
    for leftover in Path(folder).glob(f"{UNFINISHED}*"):
        with contextlib.suppress(FileNotFoundError):  # another process clears up, too
            written = max(os.lstat(path).st_mtime for path in (leftover, *leftover.rglob("*")))
            if time.time() - written > older_than:
                shutil.rmtree(leftover, ignore_errors=True)


def read_json(path: str | Path, name: str | None = None) -> Any:
    """A JSON file, in which no number may be NaN or infinite; errors call it by `name`.

    Raises:
        `ValueError`: It is torn or not JSON.
    """

    def refuse(number: str) -> None:
        raise ValueError(f"{number} is no JSON number")

    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:  # text that is not UTF-8 is a ValueError, too
        raise ValueError(f"{name or path} cannot be read as JSON: {error}.") from error


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A private folder and an ordinary file inside: the file's mode follows the umask, its name tells its format.
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=path.parent, ignore_cleanup_errors=True) as unfinished:
            yield Path(unfinished, path.name)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = str(error.filename or "")
        if getattr(error, "explained", False) or not (UNFINISHED in place or str(path).startswith(place)):
            raise  # told already, or about a file that was read
        remedy = _REMEDIES.get(error.errno, "Mend that")
        told = OSError(
            f"{path} cannot be written: {error.strerror or error}. {remedy}, and run again. What stood there before "
            "is still there."
        )
        told.errno, told.explained = error.errno, True
        raise told from error


def _sync(path: Path) -> None:
    """Waits until a file is on the disk: some disks say only then that they are full."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
