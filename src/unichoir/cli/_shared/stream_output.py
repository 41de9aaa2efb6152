"""Output of `unichoir stream`: lines of text, lines of JSON, or one line that is rewritten on a terminal."""

import json
import shutil
import sys
from typing import Literal

from rich.cells import cell_len
from rich.console import Console

from unichoir.cli._shared.common import write_line
from unichoir.transcript.results import StreamResult

Format = Literal["text", "json"]
LOW_CONFIDENCE = 0.5
"""Words below this confidence are marked on terminals."""
_DIM, _NOT_DIM = "\x1b[2m", "\x1b[22m"
_ERASE_LINE = "\r\x1b[K"


class TextLines:
    """Writes final results with words, one per line: `[0:03.4 - 0:05.2] text`. mark: around uncertain words."""

    def __init__(self, mark: tuple[str, str] = ("", "")) -> None:
        self._mark = mark

    def show(self, result: StreamResult) -> None:
        """Write the result, as far as this output shows it."""
        if result.is_final and result.words:
            first, last = result.words[0], result.words[-1]
            write_line(f"{_span(first.start_ms, last.end_ms)} {marked_text(result, *self._mark)}")

    def clear(self) -> None:
        """Remove the partial result, to make room for other output."""


class LiveText(TextLines):
    """Shows the partial result below the final lines of a terminal, rewritten in place.

    It takes one line only, so a carriage return is enough. Of a longer result, the end is shown.
    """

    def show(self, result: StreamResult) -> None:
        """Write the result, as far as this output shows it."""
        self.clear()
        super().show(result)
        if not result.is_final and result.text:
            self._rewrite(_span(result.start_ms, result.end_ms) + " ", result.text)

    def clear(self) -> None:
        """Remove the partial result, to make room for other output."""
        sys.stdout.write(_ERASE_LINE)
        sys.stdout.flush()

    def _rewrite(self, head: str, text: str) -> None:
        # Escapes of characters that the terminal lacks are wider.
        encoding = sys.stdout.encoding or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        # The last column stays free: some terminals wrap when it is used.
        room = shutil.get_terminal_size().columns - len(head) - 1
        sys.stdout.write(_ERASE_LINE + head + shorten(text, room) if room > 0 else _ERASE_LINE)
        sys.stdout.flush()


class JsonLines(TextLines):
    """Writes every result, partial or final, as one JSON object per line."""

    def show(self, result: StreamResult) -> None:
        """Write the result, as far as this output shows it."""
        write_line(json.dumps(result.to_dict(), ensure_ascii=False))


def make_output(output_format: Format) -> TextLines:
    """Return the output for a format and for the kind of standard output."""
    if output_format == "json":
        return JsonLines()
    console = Console(file=sys.stdout)
    if not (sys.stdout.isatty() and console.is_terminal):
        return TextLines()
    if console.is_dumb_terminal or console.legacy_windows:
        return TextLines(mark=("(", "?)"))
    return LiveText(mark=("(", "?)") if console.no_color else (_DIM, _NOT_DIM))


def shorten(text: str, width: int) -> str:
    """Return `text` in at most `width` columns of a terminal. Of a longer one, the end after three dots."""
    if cell_len(text) <= width:
        return text
    dots = "..."[:width]
    tail = text[-width:]
    while tail and cell_len(dots + tail) > width:
        tail = tail[1:]
    return dots + tail


def marked_text(result: StreamResult, before: str, after: str) -> str:
    """Return the text of a final result, with marks around each word of low confidence."""
    pieces, written, found = [], 0, 0
    for word in result.words:
        start = result.text.find(word.text, found)
        if start < 0:
            break
        found = start + len(word.text)
        if word.confidence < LOW_CONFIDENCE:
            pieces += [result.text[written:start], before, word.text, after]
            written = found
    return "".join(pieces) + result.text[written:]


def _span(start_ms: int, end_ms: int) -> str:
    return f"[{_time(start_ms)} - {_time(end_ms)}]"


def _time(ms: int) -> str:
    """Return a time, with hours if there are any."""
    minutes, tenths = divmod(round(ms / 100), 600)
    hours, rest = divmod(minutes, 60)
    seconds = f"{tenths // 10:02}.{tenths % 10}"
    return f"{hours}:{rest:02}:{seconds}" if hours else f"{minutes}:{seconds}"
