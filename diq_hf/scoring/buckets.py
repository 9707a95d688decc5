"""Chunks of a long job in a Storage Bucket of the Hub: a machine that is taken away takes little with it.

A bucket is no folder. What is in it is brought to a folder here first; what is finished there is sent on again and
again while the job runs, and when it ends.
"""

import contextlib
import platform
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from datasets import config
from huggingface_hub import HfApi
from transformers.utils import logging

from .. import __version__
from ..files import UNFINISHED, is_address
from .chunks import launched_state


logger = logging.get_logger(__name__)

EVERY = 30.0  # seconds between looks at what is finished


@contextlib.contextmanager
def chunk_folder(cache_dir: str | Path | None, device: Any = None, state: Any = None) -> Iterator[str | Path | None]:
    """The folder for chunks: a `cache_dir` as it is, or of a bucket the copy of it here, which the bucket follows.

    Args:
        cache_dir (`str` or `Path`, *optional*):
            A folder, or `"hf://buckets/me/name"`, with or without a path in it. A bucket that is not there is made,
            and is private.
        device (`torch.device`, *optional*):
            Where the model is, by which a launcher's processes find each other.
        state (`Any`, *optional*):
            An `Accelerator` or `PartialState`, instead.

    Raises:
        `ValueError`: It is an address of something else, or processes are spread over machines.
    """
    if not is_address(cache_dir):
        yield cache_dir
        return
    mirror = _Mirror(str(cache_dir))
    state = launched_state(device, state)
    # Each launcher says in a variable of its own, or in none as `srun`, how many processes a machine has.
    if state is not None and len(set(gather_object([platform.node()]))) > 1:
        raise ValueError("Several machines share no copy of a bucket. Give `cache_dir` a folder that all of them see.")
    is_first = state is None or state.is_main_process
    if is_first:
        mirror.bring()
    if state is not None:
        state.wait_for_everyone()
    if not is_first:
        yield mirror.folder
        return
    with mirror.followed():
        yield mirror.folder


class _Mirror:
    """A bucket, or a folder in it, and its copy here."""

    def __init__(self, address: str):
        found = re.fullmatch(r"hf:/+buckets/([^/]+/[^/]+?)(?:/(.*?))?/*", address)  # a `Path` has one stroke
        if found is None:
            raise ValueError(
                f"`cache_dir` is {address!r}. Name a folder, or a Storage Bucket: 'hf://buckets/me/long-job'."
            )
        self.bucket, self.prefix = found[1], found[2] or ""
        if {"", ".", ".."} & {*self.bucket.split("/"), *(self.prefix.split("/") if self.prefix else ())}:
            raise ValueError(
                f"`cache_dir` is {address!r}, which has an empty part, '.' or '..'. Leave it out: "
                "'hf://buckets/me/long-job/part'."
            )
        self.address = f"hf://buckets/{self.bucket}/{self.prefix}".rstrip("/")
        self.folder = Path(config.HF_DATASETS_CACHE) / "diq_hf" / "buckets" / self.bucket / self.prefix
        self.api = HfApi(library_name="diq_hf", library_version=__version__)
        self.sent: dict[str, tuple[int, int]] = {}  # by name, which file the bucket has or had

    def bring(self) -> None:
        """What is in the bucket and not here. A file that is torn on the way is computed again, as any torn one."""
        self.api.create_bucket(self.bucket, private=True, exist_ok=True)
        if not self.api.bucket_info(self.bucket).private:  # a stream's chunks hold its rows
            raise ValueError(f"{self.bucket} is there and public. Make it private in its settings, or name another.")
        self.folder.mkdir(parents=True, exist_ok=True)
        # By size alone: what has a chunk's name has its content, and times are those of the copying.
        self.api.sync_bucket(self.address, str(self.folder), ignore_times=True, quiet=True)
        self.sent |= self._files()

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """While the block runs, and when it ends, what is finished here goes to the bucket."""
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(EVERY):
                self._tried(self.send)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            self._end(thread, ended)
            self._tried(self.send)
            self._tried(self.remove_gone)  # chunks of another model's, say, which would be brought here again
            raise
        self._end(thread, ended)
        self.send()
        self.remove_gone()

    def _tried(self, step: Callable[[], None]) -> None:
        """A network that is away for a while ends no job: the next look sends what this one could not."""
        try:
            step()
        except Exception as error:
            logger.warning(f"{self.address} could not be made to follow what is finished here: {error}")

    def send(self) -> None:
        """What is finished here and not yet in the bucket, or there as it was before it was computed again."""
        files = self._files()
        if again := [name for name, file in files.items() if self.sent.get(name, file) != file]:
            added = [(str(self.folder / name), self._in_bucket(name)) for name in again]
            self.api.batch_bucket_files(self.bucket, add=added)  # whatever its size, which a damaged chunk may have
        self.api.sync_bucket(
            str(self.folder), self.address, exclude=[f"*{UNFINISHED}*"], ignore_times=True, quiet=True
        )
        self.sent |= files

    def remove_gone(self) -> None:
        """Takes out of the bucket what is here no more: alone what this job knows of, for others may use it, too."""
        if gone := {self._in_bucket(name) for name in self.sent.keys() - self._files()}:
            there = {file.path for file in self.api.list_bucket_tree(self.bucket, self.prefix or None, recursive=True)}
            if gone & there:
                self.api.batch_bucket_files(self.bucket, delete=sorted(gone & there))

    def _files(self) -> dict[str, tuple[int, int]]:
        """What is finished here: by name, which file it is, for whatever takes its place is another."""
        found = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            if UNFINISHED not in name and path.is_file():
                stat = path.stat()
                found[name] = stat.st_ino, stat.st_mtime_ns
        return found

    def _in_bucket(self, name: str) -> str:
        return f"{self.prefix}/{name}".lstrip("/")

    @staticmethod
    def _end(thread: threading.Thread, ended: threading.Event) -> None:
        ended.set()
        thread.join()
