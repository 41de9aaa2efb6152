"""Write a folder of results in the formats of other programs."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

from unichoir.fleet.results import JOINED, Result, whole_file
from unichoir.transcript.formats import LINE_FORMATS, SUFFIXES, Format, Segments, field_text, write_transcript
from unichoir.transcript.results import Alternative, Token, Transcript, Word
from unichoir.transcript.subtitles import SubtitleOptions

MAX_NAME_BYTES = 200
"""File systems allow 255; the rest is for the format's suffix and that of a temporary file."""


def write_formats(
    folder: Path,
    formats: Sequence[Format],
    subtitles: SubtitleOptions,
    segments: Callable[[str, Transcript], Segments] | None = None,
) -> None:
    """Write the joined results in the folder in each of the formats, except json, which already exists.

    segments: returns the segments for a key and its transcript; None: `write_transcript` chooses them.

    Formats that identify recordings become one file: `results.txt` with the key before each text,
    `results.verbose.jsonl`, and `results.ctm`. The others become one file per utterance, such as `srt/KEY.srt`.
    Characters that are unsafe in file names are percent-encoded, as in URLs; very long keys are shortened, with a hash.
    """
    joined: list[Format] = [
        output_format for output_format in formats if output_format in ("text", "verbose_json", "ctm")
    ]
    apart: list[Format] = [output_format for output_format in formats if output_format not in ("text", *LINE_FORMATS)]
    if not joined and not apart:
        return
    with ExitStack() as stack:
        files = {each: stack.enter_context(whole_file(folder / _JOINED_NAMES[each])) for each in joined}
        for key, transcript in _read(folder / JOINED):
            known = None if segments is None else segments(key, transcript)
            for output_format, file in files.items():
                content = write_transcript(transcript, output_format, key, subtitles, known)
                file.write(f"{field_text(key)} {content}" if output_format == "text" else content)
            for output_format in apart:
                with whole_file(folder / output_format / (_file_name(key) + SUFFIXES[output_format])) as alone:
                    alone.write(write_transcript(transcript, output_format, key, subtitles, known))


_JOINED_NAMES: dict[Format, str] = {
    "text": "results.txt",
    "verbose_json": "results.verbose.jsonl",
    "ctm": "results.ctm",
}


def _file_name(key: str) -> str:
    name = "".join(
        each if each.isalnum() or each in " -_.,+=@" else quote(each, safe="", errors="surrogatepass") for each in key
    )
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    return f"{name[:40]}~{hashlib.sha256(key.encode(errors='surrogatepass')).hexdigest()[:16]}"


def _read(path: Path) -> Iterator[tuple[str, Transcript]]:
    """Yield the key and transcript of each utterance that did not fail."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            result = json.loads(line)
            if "error" not in result:
                yield result.pop("key"), _transcript(result)


def _transcript(result: Result) -> Transcript:
    """Invert `Transcript.to_dict`."""
    result = {name: value for name, value in result.items() if name != "spoken"}  # also in the n-best list
    return Transcript(
        **{
            **result,
            "tokens": tuple(Token(**token) for token in result["tokens"]),
            "words": tuple(Word(**word) for word in result["words"]),
            "warnings": tuple(result.get("warnings", ())),
            "nbest": tuple(Alternative(**{**each, "tokens": tuple(each["tokens"])}) for each in result["nbest"]),
        }
    )
