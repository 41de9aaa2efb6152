"""An utterance: the place of a piece of speech, and its transcript."""

import dataclasses

from unichoir.audio.io import Samples, Warn, audio_duration, load_audio, open_recording
from unichoir.data.storage import is_url, read_bytes
from unichoir.errors import AudioError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Utterance:
    """The place of a piece of speech, and its transcript."""

    key: str
    """Key, unique within its manifest."""
    wav: str
    """Path or URL of the audio file, or of the tar that holds it."""
    txt: str
    """Transcript; may be empty if it isn't needed."""
    start: float | None = None
    """Start in the audio file in seconds; None means its beginning."""
    end: float | None = None
    speaker: str = ""
    lang: str = ""
    duration: float | None = None
    """Length in seconds, if known."""
    byte_range: tuple[int, int] | None = None
    """(offset, size) of the audio file inside `wav`, if that is a tar."""


def load_utterance(utterance: Utterance, sample_rate: int = 16000, warn: Warn | None = None) -> Samples:
    """Return the (N,) samples of the utterance.

    warn: called if audio is missing; without it, this is an error. Raises AudioError, naming the file, like
    `load_audio`.
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
    """Return the length in seconds, from the manifest or else by decoding. Raises AudioError."""
    if utterance.duration is not None:
        return utterance.duration
    start = utterance.start or 0.0
    if utterance.end is not None:
        return utterance.end - start
    source, name = utterance_source(utterance)
    return audio_duration(source, name=name) - start


def estimated_duration(utterance: Utterance) -> float:
    """Return the length in seconds like `utterance_duration`, but from the header instead of decoding.

    Raises AudioError.
    """
    if utterance.duration is not None or utterance.end is not None:
        return utterance_duration(utterance)
    with open_recording(*utterance_source(utterance)) as recording:
        return recording.estimate() - (utterance.start or 0.0)


def utterance_source(utterance: Utterance) -> tuple[str | bytes, str]:
    """Return the audio file, as a path if it has one, else as bytes, and its name in errors. Raises AudioError."""
    if utterance.byte_range is None and not is_url(utterance.wav):
        return utterance.wav, utterance.wav
    return utterance_bytes(utterance)


def utterance_bytes(utterance: Utterance) -> tuple[bytes, str]:
    """Return the bytes of the audio file, and its name in errors. Raises AudioError."""
    name = utterance.wav if utterance.byte_range is None else f"{utterance.wav}: {utterance.key}"
    try:
        return read_bytes(utterance.wav, *(utterance.byte_range or ())), name
    except OSError as error:
        raise AudioError(f"{name}: {error.strerror or error}") from None
    except ValueError as error:  # a path with a null character
        raise AudioError(f"{name!r}: {error}") from None
