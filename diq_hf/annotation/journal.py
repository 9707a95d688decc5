"""A judge's answers on disk, one line each: what was paid for once is never asked again."""

import json
import os
import threading
from contextlib import ExitStack
from pathlib import Path

from huggingface_hub.utils import WeakFileLock

from ..digest import digest


class AnswerJournal:
    """Answers to questions under one recipe, in a file that is only ever appended to.

    The file is named by its recipe, so answers of another rubric, model or setting are in another file. A line counts
    once it is on disk. Used as a context manager, by one run at a time.

    Args:
        folder (`str` or `Path`):
            Where journals are kept.
        recipe (`dict`):
            Everything that decides an answer beside the question, as plain JSON; the file's first line.

    Example:

    ```python
    with AnswerJournal("journals", {"model": "judge"}) as journal:
        key = journal.key("What is a fever?")
        journal.append(key, {"levels": {"knowledge": 2}})
        journal.answers[key]
    ```
    """

    def __init__(self, folder: str | Path, recipe: dict):
        self.recipe = recipe
        self.name = digest(recipe)
        self.path = Path(folder) / f"answers-{self.name}.jsonl"
        self.answers: dict[str, list[dict]] = {}
        self._writing = threading.Lock()

    def key(self, question: str) -> str:
        """Names a question under this journal's recipe."""
        return digest([self.name, question])

    def __enter__(self) -> "AnswerJournal":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(WeakFileLock(self.path.with_suffix(".lock"), timeout=1))
            except TimeoutError:
                raise OSError(f"Another run is writing to {self.path}. Wait for it to end.") from None
            self._file = stack.enter_context(open(self.path, "ab+", buffering=0))
            self._read()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._stack.close()

    def append(self, key: str, answer: dict) -> None:
        """Writes an answer down; when this returns it is on disk.

        Raises:
            `OSError`: The disk is full. What was written before is kept.
        """
        with self._writing:
            self._write({"key": key} | answer)
            self.answers.setdefault(key, []).append(answer)

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        # A process that was killed while it wrote leaves a line without its end, and that answer never counted.
        self._size = content.rfind(b"\n") + 1
        self._file.truncate(self._size)
        if not self._size:
            self._write({"recipe": self.recipe})
        for number, line in enumerate(content[: self._size].splitlines()[1:], start=2):
            try:
                answer = json.loads(line)
                self.answers.setdefault(answer.pop("key"), []).append(answer)
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise ValueError(
                    f"Line {number} of {self.path} is damaged. Remove that line and run again."
                ) from error

    def _write(self, entry: dict) -> None:
        line = json.dumps(entry).encode() + b"\n"
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes were taken")
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(self._size)
            raise OSError(
                f"{self.path} cannot be written: {error}. What was written before is kept; mend that and run again."
            ) from error
        self._size += len(line)
