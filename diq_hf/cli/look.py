"""`diq look`: a dataset and a tokenizer in, what each row would train on out, for people."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import in_options
from .options import TextField, or_none
from .reading import AS_IT_IS, Reading
from .tokenizer import load_tokenizer


# Of a long row so many tokens are shown at its beginning and at its end.
HEAD, TAIL = 160, 60
# Kinds of roles, and of reasons for a refusal, that are listed.
SHOWN = 6
BARS = "▁▂▃▄▅▆▇█"
# Read on a dark ground as on a light one; two shades each, so that tokens part.
STYLES = {
    "trained": ("green", "bold green"),
    "masked": ("dim", "dim italic"),
    "special": ("magenta", "bold magenta"),
    "refused": ("red", "red"),
}


def look(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Hub id, folder, data file or pattern of files.")],
    model: Annotated[
        str, typer.Option(help="Model to be fine-tuned: Hub id or folder. Only its tokenizer is loaded.")
    ],
    reading: Reading = AS_IT_IS,
    row: Annotated[list[int] | None, typer.Option(help="Row to show (repeatable), by its number from 0.")] = None,
    num_rows: Annotated[int, typer.Option(help="Rows to show from the beginning, without --row.")] = 3,
    limit: Annotated[
        int | None,
        typer.Option(help="Rows that the figures are of, evenly from all; 'none' takes all.", **or_none(int)),
    ] = 1000,
    whole: Annotated[bool, typer.Option("--whole", help="Show long rows to their end.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model.")] = None,
    chat_template: Annotated[
        Path | None, typer.Option(help="Jinja file of the training's chat template; by default the tokenizer's.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Rows are cut to this many tokens; 'none' keeps them whole.", **or_none(int))
    ] = 1024,
    truncation_mode: Annotated[str, typer.Option(help="Which end of a long row stays: keep_start, keep_end.")] = (
        "keep_start"
    ),
    completion_only_loss: Annotated[
        bool | None,
        typer.Option(help="Train on completions only, or on prompts too; by default as SFTTrainer does."),
    ] = None,
    assistant_only_loss: Annotated[
        bool, typer.Option("--assistant-only-loss", help="Train on the assistant's turns only.")
    ] = False,
    dataset_text_field: TextField = "text",
) -> None:
    """Show what each row would train on: its tokens and which of them count, lengths, what is cut and what is refused.

    Nothing is trained or scored. Exit code 1 if no row could be trained on.
    """
    import numpy as np

    from ..rows.formats import RowEncoder
    from ..rows.templates import whole_words
    from ..rows.views import Overview, views

    rows = reading.load(dataset)
    if (template := reading.template) is None:
        reading.of(rows, "skip", dataset_text_field)
    else:
        template.check_columns(rows.column_names)
        if floats := template.whole_floats(rows):
            typer.secho(f"diq: {whole_words(floats, rows)}", fg="yellow", err=True)
    encoder = RowEncoder(
        load_tokenizer(model, revision, chat_template),
        max_length=max_length,
        truncation_mode=truncation_mode,
        completion_only_loss=completion_only_loss,
        assistant_only_loss=assistant_only_loss,
        dataset_text_field=dataset_text_field,
        template=template,
    )
    if row and (beyond := [number for number in row if not 0 <= number < len(rows)]):
        raise ValueError(f"There is no row {beyond[0]}: they are numbered from 0 to {len(rows) - 1}.")
    page = Page(encoder.processing_class, whole)
    shown = row or range(min(max(num_rows, 0), len(rows)))
    if len(shown):
        page.legend()
    options = [option.name for option in context.command.params]
    for seen in views(rows, encoder, shown):
        page.row(_told(seen, options))
    of_all = np.unique(np.linspace(0, len(rows) - 1, min(limit or len(rows), len(rows))).astype(int))
    overview = Overview.of(_told(seen, options) for seen in views(rows, encoder, of_all))
    page.overview(overview, len(of_all), len(rows), max_length)
    if not len(overview.lengths):
        raise typer.Exit(1)


def _told(seen: Any, options: list[str]) -> Any:
    """A row whose problem, if it has one, is told in the command's options."""
    return seen if seen.problem is None else replace(seen, problem=in_options(seen.problem, options))


class Page:
    """What is printed: in colour on a terminal, else as plain lines in which `trained` and `masked` are words.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Makes texts of tokens.
        whole (`bool`):
            Long rows are shown to their end.
        console ([`~rich.console.Console`], *optional*):
            Where to print.
    """

    def __init__(self, tokenizer: Any, whole: bool, console: Any = None):
        from rich.console import Console

        self.tokenizer, self.whole = tokenizer, whole
        self.console = Console(highlight=False) if console is None else console
        self.coloured = self.console.is_terminal and not (self.console.no_color or self.console.is_dumb_terminal)

    def legend(self) -> None:
        """Which colour means what."""
        if self.coloured:
            kinds = {"trained": "trained", "masked": "read, not trained", "special": "a special token"}
            self._print(*((f"{words}   ", STYLES[kind][0]) for kind, words in kinds.items()))

    def row(self, seen: Any) -> None:
        """One row: its figures, and its tokens."""
        self._print()
        if seen.problem is not None:
            self._print((f"row {seen.index}  ", "bold"), ("refused: ", "red"), (visible(seen.problem), ""))
            return
        figures = f"{seen.num_tokens:,} tokens, {seen.num_trained:,} trained; {', '.join(seen.roles)}"
        self._print((f"row {seen.index}  ", "bold"), (figures, ""))
        if seen.num_cut:
            words = f"{seen.num_cut:,} tokens more are cut off, {seen.num_trained_cut:,} of them to be trained"
            self._print((words, "red"))
        if self.coloured:
            self._print(*self._tokens(seen))
        else:
            for line in self._runs(seen):
                self._print((line, ""))

    def overview(self, overview: Any, looked_at: int, rows: int, max_length: int | None) -> None:
        """All rows in figures."""
        self._print()
        which = "" if looked_at == rows else f" of {rows:,}, evenly from all"
        self._print((f"{looked_at:,} rows{which}", "bold"))
        lines: list[tuple[str, str, str]] = []
        if len(overview.lengths):
            for name, counts in (("tokens", overview.lengths), ("trained", overview.trained)):
                lines.append((name, _figures(counts), ""))
            masked = 1 - overview.trained.sum() / overview.lengths.sum()
            lines.append(("masked", f"{masked:.0%} of all tokens", ""))
        if overview.num_cut:
            lines.append(("cut", f"{overview.num_cut:,} rows are longer than --max-length {max_length}", "red"))
        for i, (roles, count) in enumerate(list(overview.roles.items())[:SHOWN]):
            lines.append(("" if i else "roles", f"{count:,} × {visible(', '.join(roles))}", ""))
        for i, (problem, numbers) in enumerate(list(overview.problems.items())[:SHOWN]):
            some = ", ".join(map(str, numbers[:3])) + (", …" if len(numbers) > 3 else "")
            words = f"{len(numbers):,} × {visible(problem)} (row{'s' * (len(numbers) > 1)} {some})"
            lines.append(("" if i else "refused", words, "red"))
        self._table(lines)

    def _table(self, lines: list[tuple[str, str, str]]) -> None:
        """Lines under names; on a narrow terminal they go on below themselves."""
        from rich.table import Table
        from rich.text import Text

        if not self.coloured:
            for name, words, _ in lines:
                self._print((f"{name:<8}{words}", ""))
            return
        table = Table.grid(padding=(0, 1, 0, 0))
        for name, words, style in lines:
            table.add_row(Text(name, "bold"), Text(words, style))
        self.console.print(table)

    def _tokens(self, seen: Any) -> Iterator[tuple[str, str]]:
        shades = {"trained": 0, "masked": 0, "special": 0}
        for piece in self._pieces(seen):
            if piece is None:
                yield self._gap(seen), "bold red"
                continue
            kind = "special" if piece.special else "trained" if piece.trained else "masked"
            shades[kind] += 1
            style = STYLES[kind][shades[kind] % 2]
            yield visible(piece.text), f"{style} underline" if piece.special and piece.trained else style

    def _runs(self, seen: Any) -> Iterator[str]:
        """Lines of plain text, each run of trained or masked tokens under its name."""
        run, kind, count = "", None, 0
        for piece in [*self._pieces(seen), False]:
            name = None if piece is False else "…" if piece is None else "trained" if piece.trained else "masked"
            if name != kind and kind is not None:
                first, *others = (self._gap(seen) if kind == "…" else run).split("\n")
                head = f"  {kind} ({count}): " if kind != "…" else "  "
                yield head + first
                yield from (f"    {line}" for line in others)
                run, count = "", 0
            kind = name
            if piece:
                run, count = run + visible(piece.text), count + 1

    def _pieces(self, seen: Any) -> list:
        from ..rows.views import pieces

        found = pieces(seen, self.tokenizer)
        if self.whole or len(found) <= HEAD + TAIL + 20:
            return found
        return [*found[:HEAD], None, *found[-TAIL:]]

    def _gap(self, seen: Any) -> str:
        return f" … {seen.num_tokens - HEAD - TAIL:,} tokens more (--whole) … "

    def _print(self, *parts: tuple[str, str]) -> None:
        from rich.text import Text

        text = Text.assemble(*parts)
        if self.coloured:
            self.console.print(text)
        else:  # a line stays a line, however wide
            self.console.file.write(f"{text.plain}\n")


def visible(text: str) -> str:
    """A text of others', in which nothing can move the cursor or turn the reading direction."""
    shown = "\n\t\u200c\u200d"  # the last two join letters, and emoji
    return "".join(_visible(sign) if not sign.isprintable() and sign not in shown else sign for sign in text)


def _visible(sign: str) -> str:
    code = ord(sign)
    if code < 32:
        return chr(0x2400 + code)  # ␛ for escape
    return "␡" if code == 127 else " " if sign.isspace() else "\ufffd"


def _figures(counts: Any) -> str:
    """The least, the middle and the most of some counts, and how they lie."""
    import numpy as np

    low, middle, high, most = (int(n) for n in np.percentile(counts, [0, 50, 90, 100]))
    bars = np.histogram(counts, bins=16)[0] if most > low else np.array([len(counts)])
    drawn = "".join(BARS[int(np.ceil(7 * bar / bars.max()))] for bar in bars)
    return f"{low:,} to {most:,}, median {middle:,}, 90 % up to {high:,}  {drawn}"
