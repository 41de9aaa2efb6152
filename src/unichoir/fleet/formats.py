"""The results of a cluster in the formats of other programs."""

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
"""File systems allow 255; a suffix and that of a file in work come to the name."""


def write_formats(
    folder: Path,
    formats: Sequence[Format],
    subtitles: SubtitleOptions,
    segments: Callable[[str, Transcript], Segments] | None = None,
) -> None:
    """Write all that has been recognised, from the joined results in the folder; json is there already.

    segments: of a key and its transcript; None: as `write_transcript` finds them.

    Formats that can tell recordings apart come as one file, `results.txt` with the key before each text,
    `results.verbose.jsonl`, `results.ctm`; the others as a file for each utterance, as `srt/KEY.srt`. What might
    not do in a file name is written in percents, as in a URL; of a very long key only the beginning, and a hash.
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
    """Keys and transcripts of what did not fail."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            result = json.loads(line)
            if "error" not in result:
                yield result.pop("key"), _transcript(result)


def _transcript(result: Result) -> Transcript:
    """What `Transcript.to_dict` was made of."""
    result = {name: value for name, value in result.items() if name != "spoken"}  # the n-best list has it as well
    return Transcript(
        **{
            **result,
            "tokens": tuple(Token(**token) for token in result["tokens"]),
            "words": tuple(Word(**word) for word in result["words"]),
            "warnings": tuple(result.get("warnings", ())),
            "nbest": tuple(Alternative(**{**each, "tokens": tuple(each["tokens"])}) for each in result["nbest"]),
        }
    )
