"""GigaSpeech and WenetSpeech: long recordings, and one JSON file of several gigabytes that lists their segments.

The file is read entry by entry, which limits memory. lhotse's recipe turns each entry into recordings and supervisions.
"""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unichoir.corpora import transcripts
from unichoir.corpora.corpus import Entry, LeftOut, Request
from unichoir.corpora.lhotse import Normalize, entries, lhotse_module, quietly
from unichoir.errors import UnichoirError

BLOCK_CHARACTERS = 1 << 20
MAX_ENTRY_CHARACTERS = 1 << 28
"""Maximum size of the entry for one recording. Larger entries are damaged."""
GIGASPEECH_SUBSETS = {
    "train-xl": "{XL}",
    "train-l": "{L}",
    "train-m": "{M}",
    "train-s": "{S}",
    "train-xs": "{XS}",
    "dev": "{DEV}",
    "test": "{TEST}",
}
WENETSPEECH_SUBSETS = {
    "train-l": "L",
    "train-m": "M",
    "train-s": "S",
    "dev": "DEV",
    "test-net": "TEST_NET",
    "test-meeting": "TEST_MEETING",
}


def read_gigaspeech(request: Request) -> Iterator[Entry]:
    """Yield the segments of GigaSpeech's subsets. Segments without speech or without a recording are left out."""
    parse = lhotse_module("recipes.gigaspeech").parse_utterance
    return _read(request, request.root / "GigaSpeech.json", GIGASPEECH_SUBSETS, parse, transcripts.gigaspeech)


def read_wenetspeech(request: Request) -> Iterator[Entry]:
    """Yield the segments of WenetSpeech's subsets. Segments without a recording are left out."""
    recipe = lhotse_module("recipes.wenet_speech")

    def parse(audio: Any, root: Path) -> tuple[Any, list[Any]]:
        # The recipe's own choice of subsets would return a segment once per subset.
        segments = [{**segment, "subsets": ["L"]} for segment in audio["segments"]]
        recording, by_subset = recipe.parse_utterance({**audio, "segments": segments}, root, ["L"])
        return recording, by_subset["L"]

    path = request.root / "WenetSpeech.json"
    return _read(request, path, WENETSPEECH_SUBSETS, parse, transcripts.without_punctuation)


def _read(
    request: Request, path: Path, subsets: Mapping[str, str], parse: Any, normalize: Normalize
) -> Iterator[Entry]:
    qa = lhotse_module("qa")
    audio_module, supervision_module = lhotse_module("audio"), lhotse_module("supervision")
    wanted = {subsets[split]: split for split in request.splits}
    for number, audio in enumerate(audio_entries(path, request)):
        with quietly(f"{path}: entry {number} ({_name(audio)})"):
            chosen = [segment for segment in audio["segments"] if not wanted.keys().isdisjoint(segment["subsets"])]
            if not chosen:
                continue
            splits = {s["sid"]: [wanted[name] for name in s["subsets"] if name in wanted] for s in chosen}
            recording, supervisions = parse({**audio, "segments": chosen}, request.root)
            recordings, supervisions = qa.fix_manifests(
                audio_module.RecordingSet.from_recordings([recording]),
                supervision_module.SupervisionSet.from_segments(supervisions),
            )
        if not Path(recording.sources[0].source).is_file():
            yield from ((split, LeftOut(sid, "no such recording")) for sid in splits for split in splits[sid])
            continue
        kept = set()
        for _, item in entries("", recordings, supervisions, request.lang, normalize):
            kept.add(item.key)
            yield from ((split, item) for split in splits[item.key])
        beyond = (sid for sid in splits if sid not in kept)
        yield from ((split, LeftOut(sid, "outside its recording")) for sid in beyond for split in splits[sid])


def _name(audio: Any) -> str:
    return str(audio.get("aid")) if isinstance(audio, dict) else "no JSON object"


def audio_entries(path: Path, request: Request) -> Iterator[Any]:
    """Yield the decoded items of the list "audios" in a JSON object, one after the other.

    Raises UnichoirError if the file ends early, has no such list or isn't JSON.
    """
    decoder = json.JSONDecoder()
    size = path.stat().st_size
    with path.open("rb") as file:
        text_file = io.TextIOWrapper(file, encoding="utf-8", errors="replace")
        text = text_file.read(BLOCK_CHARACTERS)
        begin = text.find('"audios"')
        position = text.find("[", begin) + 1
        if begin < 0 or not position:
            raise UnichoirError(f"{path}: no list of 'audios' at its beginning")
        while True:
            text, position = text[position:].lstrip(" \t\r\n,"), 0
            if text.startswith("]"):
                return
            try:
                audio, position = decoder.raw_decode(text)
            except ValueError as error:
                more = text_file.read(max(BLOCK_CHARACTERS, len(text)))
                if not more or len(text) > MAX_ENTRY_CHARACTERS:
                    raise UnichoirError(f"{path}: truncated or not JSON ({error})") from None
                text += more
                continue
            if request.progress is not None:
                request.progress(file.tell(), size)
            yield audio
