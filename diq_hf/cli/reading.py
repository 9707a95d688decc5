"""`Reading`: the options by which a command reads a dataset, and its columns as rows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from .inputs import load_rows, source_of


@dataclass(frozen=True)
class Reading:
    """How a dataset is read. A command with a parameter of this type takes an option for each field.

    No code of a dataset's is ever run: `datasets` reads data files alone.
    """

    split: Annotated[
        str | None, typer.Option(help="Split, or a slice of one such as 'train[:100]'; 'train' by default.")
    ] = None
    name: Annotated[str | None, typer.Option(help="Configuration of a dataset that has several.")] = None
    dataset_revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a dataset on the Hub.")] = None
    data_files: Annotated[
        list[str] | None, typer.Option(help="File of the dataset, or a pattern such as 'en/*.jsonl' (repeatable).")
    ] = None
    columns: Annotated[
        str | None,
        typer.Option(
            help="What the columns are, by name: alpaca, dolly, medical-o1, messages, open-orca, problem-solution, "
            "prompt-response, question-answer or sharegpt; not needed for rows that SFTTrainer takes as they are."
        ),
    ] = None
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Instead: the prompt of columns, '{Question}'; '{input?}' may be missing, \\n begins a line."
        ),
    ] = None
    completion: Annotated[str | None, typer.Option(help="The answer of columns, beside --prompt.")] = None
    system: Annotated[str | None, typer.Option(help="The system message, beside --prompt.")] = None
    messages: Annotated[str | None, typer.Option(help="Instead: the column of whole conversations, of any name.")] = (
        None
    )
    chat: Annotated[bool, typer.Option(help="Columns become conversations, or with --no-chat plain strings.")] = True

    @property
    def template(self) -> Any:
        """The [`~diq_hf.rows.templates.ColumnTemplate`] that was asked for, if one was."""
        from ..rows.presets import column_template

        given = {name: getattr(self, name) for name in ("prompt", "completion", "system")}
        parts = {name: _lines(text) for name, text in given.items() if text is not None}
        parts |= {} if self.messages is None else {"messages": self.messages}
        if self.columns is not None:
            if parts:
                raise ValueError(f"--columns names a whole template; leave out --{next(iter(parts))}, or --columns.")
            template = column_template(self.columns)
            return template if self.chat else replace(template, chat=False, system=None)
        if not parts:
            if not self.chat:
                raise ValueError("--no-chat goes with --columns or --prompt; other rows are read as they are.")
            return None
        return column_template(parts | {"chat": self.chat})

    def load(self, dataset: str) -> Any:
        """The dataset as it is."""
        return load_rows(dataset, self.split, self.name, self.dataset_revision, self.data_files)

    def stream(self, dataset: str, on_bad_row: str = "raise") -> Any:
        """The dataset as a stream, of rows that a trainer takes if a template is asked for, else as they are.

        Raises:
            `ValueError`: It lacks a column of the template.
        """
        place = (dataset, self.split, self.name, self.dataset_revision, self.data_files)
        stream, template = load_rows(*place, streaming=True), self.template
        return stream if template is None else template.apply(stream, on_bad_row)

    def rows(self, dataset: str, on_bad_row: str = "raise", text_field: str = "text") -> Any:
        """The dataset in rows that a trainer takes.

        Raises:
            `ValueError`: Its columns are no known format; the error names the template that would read them.
        """
        return self.of(self.load(dataset), on_bad_row, text_field)

    def of(self, rows: Any, on_bad_row: str = "raise", text_field: str = "text") -> Any:
        """As `rows`, of a dataset that was loaded."""
        from ..rows.shapes import check_shape

        if (template := self.template) is not None:
            return template.apply(rows, on_bad_row)
        check_shape(rows, text_field, on_bad_row)
        return rows

    def beside(self, rows: Any, named: str, own: Sequence[str | None] = (), text_field: str = "text") -> Any:
        """Rows of another dataset: by a template of their `own`, else by the same template if it fits them.

        Questions with options are no question and answer, whatever the pool's template would make of them; held-out
        rows may be such questions.

        Args:
            rows ([`~datasets.Dataset`]):
                The rows.
            named (`str`):
                What they are called, `"Validation"` or `"Held-out"`.
            own (`Sequence[str]`):
                Their own `columns`, `prompt`, `completion` and `messages`, where they were given.
            text_field (`str`, *optional*, defaults to `"text"`):
                Column of plain text rows.

        Raises:
            `ValueError`: They are of no format that is trained on.
        """
        from ..rows.shapes import check_shape, is_choice

        if any(words is not None for words in own):
            given = dict(zip(("columns", "prompt", "completion", "messages"), own, strict=True))
            return replace(self, system=None, **given).template.apply(rows)
        choice = is_choice(rows.column_names)
        if self.template is not None and self.template.reads(rows.column_names) and not choice:
            return self.template.apply(rows)
        if named != "Held-out" or not choice:
            check_shape(rows, text_field, named=named)
        return rows

    def source(self, dataset: str, rows: Any) -> Any:
        """The [`~diq_hf.recipe.Source`] of rows that were loaded."""
        return source_of(dataset, rows, self.name, self.dataset_revision)

    def recorded(self, recipe: Any) -> Any:
        """A recipe that also says which template made the rows."""
        if (template := self.template) is None:
            return recipe
        return replace(recipe, settings={**(recipe.settings or {}), "columns": template.settings})


def _lines(text: str) -> str:
    """A template as it was typed in a shell, for which `\\n`, `\\t` and `\\\\` are two signs each."""
    signs = {"n": "\n", "t": "\t", "\\": "\\"}
    return re.sub(r"\\([nt\\])", lambda found: signs[found[1]], text)


AS_IT_IS = Reading()
