"""Rows as a judge reads them."""

from collections.abc import Iterator, Mapping

from datasets import Dataset
from transformers.utils import logging

from ..rows.encoded import RowError
from ..rows.formats import RowEncoder
from ..rows.validation import bad_row_mode, row_name


logger = logging.get_logger(__name__)


class QuestionReader:
    """Turns rows of every format into the message a judge is sent.

    Args:
        encoder ([`~diq_hf.rows.formats.RowEncoder`]):
            Reads the rows; its tokenizer may be `None` unless they are pre-tokenized.
        text (`str`, *optional*, defaults to `"prompt"`):
            `"prompt"` or `"prompt+completion"`.
        on_bad_row (`str`, *optional*, defaults to `"raise"`):
            `"raise"`, or `"skip"` to leave out rows without a readable prompt.

    Example:

    ```python
    >>> reader = QuestionReader(RowEncoder(None))
    >>> list(reader.questions(Dataset.from_list([{"prompt": "2 + 2 =", "completion": " 4"}])))
    ['<question>\\n2 + 2 =\\n</question>']

    ```
    """

    def __init__(self, encoder: RowEncoder, text: str = "prompt", on_bad_row: str = "raise"):
        if text not in ("prompt", "prompt+completion"):
            raise ValueError(f"`text` is {text!r}; use 'prompt' or 'prompt+completion'.")
        self.encoder = encoder
        self.text = text
        self.on_bad_row = bad_row_mode(on_bad_row)

    def questions(self, dataset: Dataset) -> Iterator[str | None]:
        """Every row's question, `None` for a bad row that may stay unlabelled."""
        for i, row in enumerate(self._readable(dataset)):
            try:
                yield self._question(row)
            except RowError as error:
                message = f"{row_name(i, i, row)}: {error}"
                if self.on_bad_row == "raise":
                    raise RowError(f"{message} Or pass `on_bad_row='skip'` to leave such rows unlabelled.") from error
                logger.warning(f"Not asked: {message}")
                yield None

    def question(self, dataset: Dataset, position: int) -> str:
        """One row's question."""
        return self._question(self._readable(dataset)[position])

    def _readable(self, dataset: Dataset) -> Dataset:
        known = {*self.encoder.columns, "image", "images"}
        if not (names := [name for name in dataset.column_names if name in known]):
            return dataset.with_format(None)  # the encoder says which columns it knows
        return dataset.select_columns(names).with_format(None)

    def _question(self, row: Mapping) -> str:
        if row.get("image") is not None or row.get("images"):
            raise RowError("it holds images, and the judge reads text only.")
        prompt, answer = self.encoder.texts(row)
        if not prompt.strip():
            raise RowError("its prompt is empty, so there is nothing to rate.")
        question = f"<question>\n{prompt}\n</question>"
        return question if self.text == "prompt" else f"{question}\n\n<answer>\n{answer}\n</answer>"
