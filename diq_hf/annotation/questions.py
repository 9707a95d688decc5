"""Rows as a judge reads them."""

from collections.abc import Iterator, Mapping

from datasets import Dataset
from transformers.utils import logging

from ..columns import with_class_names
from ..digest import digest
from ..rows.encoded import RowError
from ..rows.formats import TEXTS, RowEncoder
from ..rows.validation import bad_row_mode, row_name


logger = logging.get_logger(__name__)


class QuestionReader:
    """Turns rows of every format into the message a judge is sent.

    A row's text stands between tags that are named by its own digest, so no row can hold the tag that ends it, and go
    on as if it were the one who asks.

    Args:
        encoder ([`~diq_hf.rows.formats.RowEncoder`]):
            Reads the rows; its tokenizer may be `None` unless they are pre-tokenized.
        text (`str`, *optional*, defaults to `"prompt"`):
            `"prompt"`, or `"prompt+completion"`, for which a row without an answer is a bad row.
        on_bad_row (`str`, *optional*, defaults to `"raise"`):
            `"raise"`, or `"skip"` to leave out rows that cannot be read.

    Example:

    ```python
    >>> reader = QuestionReader(RowEncoder(None))
    >>> list(reader.questions(Dataset.from_list([{"prompt": "2 + 2 =", "completion": " 4"}])))
    ['<question-c9d2e47d7224b27f>\\n2 + 2 =\\n</question-c9d2e47d7224b27f>']

    ```
    """

    def __init__(self, encoder: RowEncoder, text: str = "prompt", on_bad_row: str = "raise"):
        if text not in TEXTS:
            raise ValueError(f"`text` is {text!r}; use 'prompt' or 'prompt+completion'.")
        self.encoder = encoder
        self.text = text
        self.on_bad_row = bad_row_mode(on_bad_row)

    def questions(self, dataset: Dataset) -> Iterator[str | None]:
        """Every row's question, `None` for a bad row that may stay unlabelled."""
        for i, row in enumerate(self._named(row, dataset) for row in self._readable(dataset)):
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
        return self._question(self._named(self._readable(dataset)[position], dataset))

    def _named(self, row: Mapping, dataset: Dataset) -> Mapping:
        return with_class_names(row, dataset.features, self.encoder.of_template)

    def _readable(self, dataset: Dataset) -> Dataset:
        known = {*self.encoder.columns, "image", "images"}
        if not (names := [name for name in dataset.column_names if name in known]):
            return dataset.with_format(None)  # the encoder says which columns it knows
        return dataset.select_columns(names).with_format(None)

    def _question(self, row: Mapping) -> str:
        if row.get("image") is not None or row.get("images"):
            raise RowError("it holds images, and the judge reads text only.")
        prompt, answer = self.encoder.rated_texts(row, self.text)
        mark = digest([prompt, answer])[:16]
        parts = {"question": prompt} if answer is None else {"question": prompt, "answer": answer}
        return "\n\n".join(f"<{name}-{mark}>\n{text}\n</{name}-{mark}>" for name, text in parts.items())
