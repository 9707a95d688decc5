"""`diq look` on a terminal, on a narrow one, and through a pipe."""

import io
import json
import re
import subprocess
import sys

import pytest
from commands import run, write_rows
from conftest import SENTENCES
from rich.console import Console

from diq_hf.cli.look import Page, visible
from diq_hf.rows.formats import RowEncoder
from diq_hf.rows.presets import PRESETS
from diq_hf.rows.views import Overview, views


EVIL = "So \x1b[31mred\x1b[0m \x07 \u202ekcab\u202c \x9b1m."


@pytest.fixture
def hub_rows():
    """Ten rows as the Hub has the paper's pool, one with a null, one that would paint the terminal."""
    rows = [
        {"Question": SENTENCES[i % 4], "Complex_CoT": "Hm. " * 8 * (i + 1), "Response": SENTENCES[(i + 1) % 4]}
        for i in range(10)
    ]
    rows[1]["Complex_CoT"], rows[2]["Response"] = None, EVIL
    return rows


@pytest.fixture
def look(tmp_path, hub_rows, model_folder):
    write_rows(tmp_path, pool=hub_rows)
    return lambda *words: run("look", tmp_path / "pool.jsonl", "--model", model_folder, *words)


def test_through_a_pipe(look):
    result = look("--columns", "medical-o1", "--max-length", 150)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u202e]", result.stdout)
    assert lines[1].startswith("row 0  ") and lines[1].endswith("trained; user, assistant")
    assert lines[2].startswith("  masked (") and any(line.startswith("  trained (") for line in lines)
    assert "<think>Hm." in result.stdout and "␛[31mred" in result.stdout
    assert "row 1  refused: its column 'Complex_CoT' is null. Fill it in" in result.stdout
    assert re.search(r"^cut     \d rows are longer than --max-length 150$", result.stdout, re.MULTILINE)
    assert re.search(r"^refused 1 × its column 'Complex_CoT' .* \(row 1\)$", result.stdout, re.MULTILINE)
    assert max(map(len, lines)) > 80  # a line stays a line for whatever reads it


def test_options(look):
    result = look("--columns", "medical-o1", "--row", 3, "--row", 1, "--limit", 2)
    assert re.findall(r"^row (\d)", result.stdout, re.MULTILINE) == ["3", "1"]
    assert "2 rows of 10, evenly from all" in result.stdout
    result = look("--prompt", "{Question}", "--completion", "{Response}", "--system", "Be brief.", "--num-rows", 1)
    assert "Be brief." in result.stdout and "10 × system, user, assistant" in result.stdout
    long = look("--columns", "medical-o1", "--row", 9, "--max-length", "none")
    assert "tokens more (--whole)" in long.stdout
    assert "--whole" not in look("--columns", "medical-o1", "--row", 9, "--whole", "--max-length", "none").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (),
            "no known format. The first row: Question: 'A patient with fever .* Read them with `--columns medical-o1`",
        ),
        (("--columns", "alpaca"), r"reads \['instruction', 'output'\].*it has \['Complex_CoT'"),
        (("--columns", "alpca"), "is no preset"),
        (("--columns", "alpaca", "--prompt", "{a}"), "leave out --prompt"),
        (("--no-chat",), "goes with --columns"),
        (("--prompt", "{Question"), "no format string"),
        (("--columns", "medical-o1", "--row", "10"), "no row 10: they are numbered from 0 to 9"),
    ],
)
def test_refusals(look, words, message):
    result = look(*words)
    assert result.exit_code == 1 and re.search(message, result.stderr), result.stderr


def test_nothing_can_be_trained_on(tmp_path, model_folder):
    write_rows(tmp_path, pool=[{"prompt": "Why?", "completion": ""}])
    result = run("look", tmp_path / "pool.jsonl", "--model", model_folder)
    assert result.exit_code == 1 and "refused 1 × its text to train on is empty" in result.stdout


def test_remedies_are_options(tmp_path, model_folder):
    """Of LIMA's and No Robots' rows; numbers that tell rows apart are one reason, those of parts stay."""
    write_rows(tmp_path, lima=[{"conversations": ["Why?", "So."]}], robots=[{"prompt": "Why?", "messages": []}])
    told = run("look", tmp_path / "lima.jsonl", "--model", model_folder).stdout
    assert told.count("`--prompt '{conversations[0]}' --completion '{conversations[1]}'`") == 2, told
    assert "with `--columns messages`" in run("look", tmp_path / "robots.jsonl", "--model", model_folder).stdout


def test_the_template_that_would_fit_has_shell_quotes(tmp_path, model_folder):
    write_rows(tmp_path, pool=[{"Query": "Why?", "Reply": "So."}])
    result = run("look", tmp_path / "pool.jsonl", "--model", model_folder)
    assert "Read them with `--prompt '{Query}' --completion '{Reply}'`." in result.stderr


def test_a_line_break_as_it_is_typed(look):
    """Of the paper's pool `<think>…</think>\\n\\n…` in a shell's quotes is a backslash and an n."""
    result = look(
        "--prompt", "{Question}", "--completion", r"<think>{Complex_CoT}</think>\n\n{Response} \\nu", "--row", 0
    )
    assert result.exit_code == 0, result.stderr
    assert r"\n" not in result.stdout.replace(r"\nu", "") and r" \nu" in result.stdout
    preset = look("--columns", "medical-o1", "--row", 0).stdout
    assert result.stdout.replace(r" \nu", "").split("trained (")[1][4:80] == preset.split("trained (")[1][4:80]


def test_conversations_under_any_name(tmp_path, model_folder):
    turns = [{"role": "developer", "content": "Short."}, {"role": "user", "content": "می\u200cروم"}]
    write_rows(tmp_path, pool=[{"dialog": [*turns, {"role": "assistant", "content": "So."}]}])
    words = ["look", tmp_path / "pool.jsonl", "--model", model_folder]
    assert "Read them with `--messages 'dialog'`." in run(*words).stderr
    result = run(*words, "--messages", "dialog")
    # Roles are those that the template is given, and joiners are part of the script.
    assert "trained; developer, user, assistant" in result.stdout and "می\u200cروم" in result.stdout
    assert "leave out --messages" in run(*words, "--messages", "dialog", "--columns", "messages").stderr


@pytest.mark.parametrize("width", [100, 30])
def test_on_a_terminal(tokenizer, hub_rows, width):
    from datasets import Dataset

    encoder = RowEncoder(tokenizer, template=PRESETS["medical-o1"])
    seen = list(views(Dataset.from_list(hub_rows), encoder, range(10)))
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system="standard", _environ={})
    page = Page(tokenizer, True, console)
    page.legend()
    for row in seen:
        page.row(row)
    page.overview(Overview.of(seen), 10, 10, 1024)
    printed = out.getvalue()
    assert {"32", "1;32"} <= set(re.findall(r"\x1b\[([\d;]+)m", printed))  # two shades of green: the trained tokens
    plain = re.sub(r"\x1b\[[\d;]*m", "", printed)
    assert "\x1b" not in plain and "␛[31mred" in "".join(plain.split("\n"))
    assert max(len(line) for line in plain.splitlines()) <= width


def test_without_colours_there_are_words(tokenizer, hub_rows):
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        console = Console(file=io.StringIO(), force_terminal=True, _environ=environment)
        assert not Page(tokenizer, True, console).coloured


def test_a_real_pipe(tmp_path, hub_rows, model_folder):
    path = tmp_path / "pool.json"
    path.write_text(json.dumps(hub_rows))
    command = [sys.executable, "-m", "diq_hf.cli", "look", path, "--model", model_folder, "--columns", "medical-o1"]
    result = subprocess.run(command, capture_output=True, check=True)
    assert b"\x1b" not in result.stdout and "row 0  " in result.stdout.decode()


def test_visible():
    assert visible("a\n\tb \u00a0é低😀") == "a\n\tb  é低😀"
    assert visible("\x00\x1b\x7f\u202e\u2066") == "␀␛␡��"


def test_whole_numbers_of_a_table_with_gaps(model_folder, tmp_path):
    (tmp_path / "rows.csv").write_text("q,a\nHow many?,4\nNone?,\n")
    words = ["--model", model_folder, "--prompt", "{q}", "--completion", "{a}"]
    assert "the template writes '4.0'" in run("look", tmp_path / "rows.csv", *words).stderr
    (tmp_path / "rows.csv").write_text("q,a\nHow many?,4\nNone?,0\n")
    assert "the template" not in run("look", tmp_path / "rows.csv", *words).stderr
