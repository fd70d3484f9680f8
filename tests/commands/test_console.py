"""What the commands print: data as plain text, whatever the terminal, pipe or encoding."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from chorus.commands import console
from chorus.commands.console import PlainConsole, print_facts, print_json, print_table, printable, wrote


class _Stream(io.TextIOWrapper):
    """A stream that says whether it is a terminal."""

    def __init__(self, encoding: str, terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def text(self) -> str:
        self.flush()
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode(self.encoding)


def _write_to(stream: _Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    out = PlainConsole()
    out.file = stream
    monkeypatch.setattr(console, "out", out)


@pytest.fixture
def standard_output(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> _Stream:
    stream = _Stream(*getattr(request, "param", ("utf-8", False)))
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    _write_to(stream, monkeypatch)
    return stream


def _table(*cells: str, title: str = "", caption: str = "") -> Table:
    table = Table(title=title, caption=caption)
    for n, _ in enumerate(cells):
        table.add_column(f"column {n}")
    table.add_row(*cells)
    return table


HOSTILE = ["a ball [/red]", "[bold]a ball[/bold]", "a [link=x]ball[/link]", ":smile: ball", "[", "\\[x]", "ball [/]"]


@pytest.mark.parametrize("text", HOSTILE)
def test_data_is_not_markup(text: str, standard_output: _Stream) -> None:
    console.out.print(text)
    print_facts({"prompt": text})
    print_table(_table(text, title=f"title {text}", caption=f"caption {text}"))
    lines = standard_output.text()
    assert lines.count(text) == 5
    assert "\x1b" not in lines


def test_progress_takes_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress_bars() as update:
        update("ball [/red]", 1, 2)
    assert "ball [/red]" in capsys.readouterr().err


def test_progress_into_a_pipe_is_a_line_a_stage_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress_bars() as update:
        for done in (1, 2, 1500, 2000):
            update("draw", done, 2000)
        assert capsys.readouterr().err == "draw  2,000/2,000\n"  # not at the end
        update("draw", 2000, 2000)
        update("read", 3, None)
        update("write", 1, 7)
        assert capsys.readouterr().err == ""
    assert capsys.readouterr().err == "read  3\nwrite  1/7\n"


def test_long_stages_are_told_of_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress_bars() as update:
        for done in range(101):
            update("draw", done, 100)
            now[0] += 1.0 / 40 if done < 50 else 10.0
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("draw  100/100")
    assert 15 < len(lines) < 20
    assert len(set(lines)) == len(lines)


def test_in_a_pipe_nothing_is_folded_or_cut(standard_output: _Stream) -> None:
    long = "a person " + "very " * 100 + "long"
    print_table(_table(long, "b" * 300, title=long, caption=long))
    print_facts({"name": long})
    lines = standard_output.text().splitlines()
    assert sum(long in line for line in lines) == 4
    assert any(long in line and "b" * 300 in line for line in lines)


@pytest.mark.parametrize("standard_output", [("utf-8", True)], indirect=True)
def test_on_a_terminal_a_table_has_its_width(standard_output: _Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    _write_to(standard_output, monkeypatch)
    print_table(_table("word " * 40, "x"))
    plain = [line for line in standard_output.text().splitlines() if line]
    assert len(plain) > 4
    assert max(map(len, plain)) < 90  # 60 columns and the codes of a bold heading


@pytest.mark.parametrize("standard_output", [("ascii", False)], indirect=True)
def test_an_ascii_output_gets_escapes_and_plain_borders(standard_output: _Stream) -> None:
    print_table(_table("Fußball", "x"))
    console.out.print("a человек")
    print_facts({"prompt": "мяч", "many": ["мяч"]})
    print_json({"prompt": "мяч"})
    wrote(Path("мяч.h5"))
    text = standard_output.text()
    assert "Fu\\xdfball" in text
    assert "\\u043c\\u044f\\u0447" in text
    borders = {line.index("|", 1) for line in text.splitlines() if line.startswith("|") and "---" not in line}
    assert len(borders) == 1  # escapes are as wide as they are counted


def test_control_characters_are_shown_not_obeyed() -> None:
    assert printable("a\x1b]0;title\x07b\x9b31m") == "a\\x1b]0;title\\x07b\\x9b31m"
    assert printable("left\u202eright") == "left\\u202eright"
    assert printable("half\ud800") == "half\\ud800"
    assert printable("two\nlines\tand мяч 🎾 e\u0301") == "two\nlines\tand мяч 🎾 e\u0301"


def test_wrote_is_said_only_of_what_is_there(tmp_path: Path, standard_output: _Stream) -> None:
    (tmp_path / "there").write_text("x")
    wrote(tmp_path / "there", tmp_path / "not there")
    first, second = standard_output.text().splitlines()
    assert first == f"wrote {tmp_path / 'there'}"
    assert second == f"not written: {tmp_path / 'not there'}"


def _run(*arguments: str, **how: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "chorus", *arguments], **how)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("arguments", [("stages",), ("stages", "--json"), ("prompts", "bed", "--views"), ("--help",)])
def test_a_closed_pipe_ends_quietly(arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = _run(*arguments, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    _, errors = process.communicate(timeout=60)
    assert errors == b""
    assert process.returncode == console.CLOSED_PIPE


def test_without_a_reader_of_the_progress_the_work_goes_on(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = _run("simulate", "-o", str(tmp_path / "s"), "--images", "3", stdout=subprocess.PIPE, stderr=writing)
    os.close(writing)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert b"wrote" in output


def test_errors_have_one_form() -> None:
    for arguments, says in (
        (["agregate"], "chorus: error: No such command 'agregate'"),
        (["--bad"], "chorus: error: No such option '--bad'"),
        (["simulate"], "chorus: error: Missing option '-o' / '--output'"),
        (["simulate", "-o", "x", "--images", "0"], "chorus: error: --images: 0 is not in the range"),
        (["simulate", "-o", "x", "--seed", "9" * 20], "chorus: error: --seed: "),
        (["store", "info", "nowhere"], "chorus: error: STORE: expected a file or folder that exists, got 'nowhere'"),
        (["filter", "show", "[/b]"], "chorus: error: STORE: expected a file or folder that exists, got '[/b]'"),
    ):
        process = _run(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == console.ERROR_EXIT
        assert output == b""
        assert errors.decode().startswith(says)
        assert errors.count(b"\n") == 1


STOPPED = """
import os, time
from chorus.cli import main

@main.command()
def wait():
    os.kill(os.getpid(), {number})
    time.sleep(10)

main(["wait"])
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_command_that_is_asked_to_stop_says_so(number: signal.Signals, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED.format(number=int(number))], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.strip() == f"chorus: stopped by {'Ctrl-C' if number == signal.SIGINT else number.name}"


def test_a_signal_that_is_ignored_stays_so() -> None:
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)" + STOPPED.format(number=int(signal.SIGHUP))
    done = subprocess.run([sys.executable, "-c", code.replace("sleep(10)", "sleep(0)")], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
