"""`unichoir stream` on a pseudo terminal, seen through a small terminal emulator."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import unicodedata
from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from tests.samples import WITH_SMALL_MODEL

from unichoir.cli._shared.stream_output import shorten
from unichoir.recognition.options import EndpointRules, StreamingOptions
from unichoir.transcript.results import StreamResult

COMMAND = [sys.executable, "-m", "unichoir", "stream", *WITH_SMALL_MODEL, "--threads", "1", "--simulate"]
Finals = Callable[..., list[StreamResult]]


def on_terminal(*arguments: object, columns: int, **variables: str) -> tuple[str, str]:
    """Run the command on a pseudo terminal; return its output there, and its standard error, which is a pipe."""
    primary, secondary = pty.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    unset = {"COLUMNS", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=secondary,
        stdout=secondary,
        stderr=subprocess.PIPE,
        env={**environment, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **variables},
    )
    os.close(secondary)
    written = b""
    while True:
        try:
            part = os.read(primary, 65536)
        except OSError:  # Linux's way to say that the other side is closed
            part = b""
        if not part:
            break
        written += part
    os.close(primary)
    assert process.stderr is not None
    with process.stderr:
        errors = process.stderr.read().decode()
    assert process.wait(timeout=60) == 0
    return written.decode(), errors


def screens(written: str, columns: int) -> list[list[str]]:
    """Return what a terminal with so many columns shows after each write: the rows down to the cursor's."""
    rows, column, shown = [""], 0, []
    for item in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|[^\x1b]", written):
        if item == "\r":
            column = 0
        elif item == "\n":
            rows.append("")
        elif item == "\x1b[K":
            rows[-1] = rows[-1][:column]
        elif item in ("\x1b[2m", "\x1b[22m"):
            continue
        else:
            assert item.isprintable()
            if column == columns:
                rows.append("")
                column = 0
            rows[-1] = rows[-1][:column] + item + rows[-1][column + 1 :]
            column += 1
        shown.append(list(rows))
    return shown


def test_the_last_line_is_rewritten_in_place(finals_of: Finals, long_speech: Path) -> None:
    columns = 40
    options = ["--speed", 0, "--max-utterance", 8]
    written, errors = on_terminal(long_speech, *options, columns=columns)
    assert "real-time factor" in errors
    rules = StreamingOptions(endpoint=EndpointRules(max_utterance=8.0))
    finals = finals_of(long_speech, rules)
    texts = [final.text for final in finals if final.words]
    assert max(map(len, texts)) > columns
    history = screens(written, columns)
    # In the end there are the final lines, wrapped by the terminal, and an empty one.
    assert re.sub(r"\[[\d:. -]*\] ", "\n", "".join(history[-1])).split("\n")[1:] == texts
    assert history[-1][-1] == ""
    # At every moment there are rows of the end and, below them, one that may be another.
    for rows in history:
        assert rows[:-1] == history[-1][: len(rows) - 1]
    seen = {rows[-1] for rows in history}
    assert any(re.fullmatch(r"\[0:00\.0 - 0:01\.3\] SIX OH FOUR FIVE", row) for row in seen)
    assert any(re.fullmatch(r"\[\d:..\.. - \d:..\..\] \.\.\.[A-Z ]{16}", row) for row in seen)
    assert all(len(row) < columns for row in seen if "..." in row)


def test_uncertain_words_are_marked(finals_of: Finals, clips: list[Path]) -> None:
    clip = clips[4]
    (final,) = finals_of(clip)
    low = [word.text for word in final.words if word.confidence < 0.5]
    assert 0 < len(low) < len(final.words)
    written, _ = on_terminal(clip, "--speed", 0, columns=100)
    assert re.findall(r"\x1b\[2m(.*?)\x1b\[22m", written) == low
    assert screens(written, 100)[-1][0].endswith(f"] {final.text}")
    written, _ = on_terminal(clip, "--speed", 0, columns=100, NO_COLOR="1")
    assert re.findall(r"\((.*?)\?\)", written) == low
    assert set(re.findall(r"\x1b\[[^A-Za-z]*[A-Za-z]", written)) == {"\x1b[K"}


def test_simple_terminals_get_simple_lines(clips: list[Path]) -> None:
    written, _ = on_terminal(clips[0], "--speed", 0, columns=100, TERM="dumb")
    assert re.fullmatch(r"\[0:00\.\d - 0:0\d\.\d\] SIX OH FOUR FIVE NINE ONE TWO\r\n", written)


def columns_of(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


@given(text=st.text(alphabet="AB 一二三ｱ。", max_size=60), width=st.integers(1, 50))
def test_long_lines_show_their_end(text: str, width: int) -> None:
    shown = shorten(text, width)
    assert columns_of(shown) <= width
    if columns_of(text) <= width:
        assert shown == text
    else:
        dots = min(3, width)
        assert shown.startswith("." * dots)
        assert text.endswith(shown[dots:])
        assert columns_of(shown) >= width - 1
