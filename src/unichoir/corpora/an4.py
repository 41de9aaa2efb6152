"""AN4 (CMU, 1991), for which lhotse has no recipe: NIST SPHERE files and two lists of transcripts."""

import dataclasses
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from unichoir.audio.io import audio_duration
from unichoir.corpora import transcripts
from unichoir.corpora.corpus import Entry, LeftOut, Request
from unichoir.corpora.lhotse import lhotse_module, quietly
from unichoir.data.utterance import Utterance
from unichoir.errors import AudioError, UnichoirError

MIRROR = "https://huggingface.co/datasets/espnet/an4/resolve/main"
ARCHIVE = "an4_sphere.tar.gz"
DEV_UTTERANCES = 100
"""Number of dev utterances, taken from the training list in the order of speakers, as in ESPnet's recipe."""
_FOLDERS = {"train": "an4_clstk", "test": "an4test_clstk"}
_LINE = re.compile(r"(?P<text>.*)\((?P<key>[^\s()/]+-(?P<speaker>[^\s()/]+)-[^\s()/]+)\)")


def read_an4(request: Request) -> Iterator[Entry]:
    """Yield the recordings of AN4. Missing and unreadable ones are left out."""
    lists = {name: _list(request, name) for name in ("train", "test")}
    splits = {"train": lists["train"][DEV_UTTERANCES:], "dev": lists["train"][:DEV_UTTERANCES], "test": lists["test"]}
    for split in request.splits:
        yield from ((split, _measured(utterance)) for utterance in splits[split])


def _measured(utterance: Utterance) -> Utterance | LeftOut:
    try:
        return dataclasses.replace(utterance, duration=audio_duration(utterance.wav))
    except AudioError as error:
        return LeftOut(utterance.key, str(error))


def _list(request: Request, name: str) -> list[Utterance]:
    path = request.root / "etc" / f"an4_{name}.transcription"
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise UnichoirError(f"{path}:{number}: expected 'WORDS (key)', found '{line[:80]}'")
        wav = request.root / "wav" / _FOLDERS[name] / match["speaker"] / f"{match['key']}.sph"
        text = transcripts.an4(match["text"])
        found.append(
            Utterance(key=match["key"], wav=str(wav.absolute()), txt=text, speaker=match["speaker"], lang=request.lang)
        )
    return sorted(found, key=lambda utterance: (utterance.speaker, *utterance.key.split("-")))


def download_an4(folder: Path, splits: Sequence[str], mirror: str | None) -> None:
    """Download the only archive and unpack it in `folder`."""
    if (folder / "an4" / ".completed").exists():
        return
    utils = lhotse_module("utils")
    url = f"{(mirror or MIRROR).rstrip('/')}/{ARCHIVE}"
    folder.mkdir(parents=True, exist_ok=True)
    with quietly(f"downloading {url}"):
        utils.resumable_download(url, filename=folder / ARCHIVE)
        with tarfile.open(folder / ARCHIVE) as archive:
            utils.safe_extract(archive, path=folder)
        (folder / "an4" / ".completed").touch()
