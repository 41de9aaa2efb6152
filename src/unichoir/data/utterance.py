"""An utterance: where a stretch of speech is to be found, and what is said in it."""

import dataclasses

from unichoir.audio.io import Samples, Warn, audio_duration, load_audio, open_recording
from unichoir.data.storage import is_url, read_bytes
from unichoir.errors import AudioError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Utterance:
    """Where a stretch of speech is to be found, and what is said in it."""

    key: str
    """Unique within its manifest."""
    wav: str
    """Path or URL of the audio file, or of the tar that holds it."""
    txt: str
    """Transcript; may be empty where none is needed."""
    start: float | None = None
    """Seconds into the audio file; None means its beginning."""
    end: float | None = None
    speaker: str = ""
    lang: str = ""
    duration: float | None = None
    """Seconds of this utterance, where known."""
    byte_range: tuple[int, int] | None = None
    """(offset, size) of the audio file inside `wav`, when that is a tar."""


def load_utterance(utterance: Utterance, sample_rate: int = 16000, warn: Warn | None = None) -> Samples:
    """(N,) samples of the utterance.

    warn: called with what is missing; None: that is an error. Raises AudioError, naming the file, as `load_audio` does.
    """
    source, name = utterance_source(utterance)
    return load_audio(
        source,
        sample_rate=sample_rate,
        start=utterance.start,
        end=utterance.end,
        name=name,
        warn=warn,
        strict=warn is None,
    )


def utterance_duration(utterance: Utterance) -> float:
    """Seconds: as the manifest says, else found by decoding. Raises AudioError."""
    if utterance.duration is not None:
        return utterance.duration
    start = utterance.start or 0.0
    if utterance.end is not None:
        return utterance.end - start
    source, name = utterance_source(utterance)
    return audio_duration(source, name=name) - start


def estimated_duration(utterance: Utterance) -> float:
    """Seconds as `utterance_duration`, but of an audio file as its header tells. Raises AudioError."""
    if utterance.duration is not None or utterance.end is not None:
        return utterance_duration(utterance)
    with open_recording(*utterance_source(utterance)) as recording:
        return recording.estimate() - (utterance.start or 0.0)


def utterance_source(utterance: Utterance) -> tuple[str | bytes, str]:
    """Its audio file, by path where it has one, else as bytes; and what errors call it. Raises AudioError."""
    if utterance.byte_range is None and not is_url(utterance.wav):
        return utterance.wav, utterance.wav
    return utterance_bytes(utterance)


def utterance_bytes(utterance: Utterance) -> tuple[bytes, str]:
    """The bytes of its audio file, and what errors call it. Raises AudioError."""
    name = utterance.wav if utterance.byte_range is None else f"{utterance.wav}: {utterance.key}"
    try:
        return read_bytes(utterance.wav, *(utterance.byte_range or ())), name
    except OSError as error:
        raise AudioError(f"{name}: {error.strerror or error}") from None
    except ValueError as error:  # a path with a null character
        raise AudioError(f"{name!r}: {error}") from None
