"""The recordings that clients send, and the texts the server must return: those of a single stream; called by `run`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unichoir.audio.io import Samples, load_audio
from unichoir.benchmark.audio import speech_like_noise
from unichoir.data.manifest import AUDIO_SUFFIXES, load_utterance, read_manifest
from unichoir.recognition.options import StreamingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.text.normalize import canonical_text
from unichoir.transcript.results import StreamResult

SAMPLE_RATE = 16000
"""The rate of WeNet's protocol, in Hz."""
MAX_SECONDS = 600.0
"""The most audio to load; further recordings of a manifest are ignored."""
NOISE_RECORDINGS, NOISE_SECONDS = 8, 5.0
SHORT_RECORDINGS, SHORT_SECONDS = 8, 1.0


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The audio that a client sends in one session."""

    key: str
    samples: NDArray[np.int16]
    """(N,) at 16 kHz."""
    reference: str = ""
    """The spoken text, if it is known."""
    expected: str = ""
    """The text that the model recognises in a single stream."""
    first_word_end: float | None = None
    """The end of the first word in that stream, in seconds; None without words."""

    @property
    def seconds(self) -> float:
        """The duration."""
        return len(self.samples) / SAMPLE_RATE


def load_recordings(source: Path | None) -> tuple[list[Recording], str]:
    """Load an audio file or a manifest's utterances, or make noise if there is no source.

    Returns the recordings and their description in the report. Raises AudioError or ManifestError.
    """
    if source is None:
        size = round(NOISE_SECONDS * SAMPLE_RATE)
        noise = _to_int16(speech_like_noise(NOISE_RECORDINGS * size, SAMPLE_RATE)).reshape(NOISE_RECORDINGS, size)
        recordings = [Recording(key=f"noise-{number}", samples=part) for number, part in enumerate(noise, start=1)]
        return recordings, f"{len(recordings)} x {NOISE_SECONDS:g} s of noise shaped like speech (fixed seed)"
    if source.suffix.lower().removeprefix(".") in AUDIO_SUFFIXES:
        samples = load_audio(str(source), sample_rate=SAMPLE_RATE)
        recording = Recording(key=source.name, samples=_to_int16(samples))
        return [recording], f"{source.name}, {recording.seconds:.1f} s"
    utterances, recordings, seconds = read_manifest(source), [], 0.0
    for utterance in utterances:
        samples = load_utterance(utterance, SAMPLE_RATE)
        recordings.append(Recording(key=utterance.key, samples=_to_int16(samples), reference=utterance.txt))
        seconds += recordings[-1].seconds
        if seconds >= MAX_SECONDS:
            break
    left_out = f" (of {len(utterances)})" if len(recordings) < len(utterances) else ""
    return recordings, f"{len(recordings)} utterances{left_out} of {source.name}, {seconds / 60:.1f} minutes"


def short_recordings(recordings: Sequence[Recording]) -> list[Recording]:
    """Return the first second of the first recordings, for short sessions."""
    size = round(SHORT_SECONDS * SAMPLE_RATE)
    return [
        Recording(key=f"{recording.key}, {SHORT_SECONDS:g} s", samples=recording.samples[:size])
        for recording in recordings[:SHORT_RECORDINGS]
    ]


def with_expected_texts(
    recordings: Sequence[Recording], recognizer: Recognizer, options: StreamingOptions, progress: Callable[[int], None]
) -> list[Recording]:
    """Return the recordings with the text that the recogniser finds in each, as a single stream.

    progress: called with the number of finished recordings.
    """
    decoded = []
    for done, recording in enumerate(recordings):
        progress(done)
        results = list(decode_stream(recognizer, recording.samples, options))
        words = [word for result in results for word in result.words]
        decoded.append(
            replace(
                recording,
                expected=join_texts([result.text for result in results]),
                first_word_end=words[0].end_ms / 1000 if words else None,
            )
        )
    return decoded


def decode_stream(
    recognizer: Recognizer, samples: NDArray[np.int16], options: StreamingOptions
) -> Iterator[StreamResult]:
    """Yield the final results of a single stream of samples (N,) at 16 kHz."""
    stream = recognizer.streams.create_stream(options)
    stream.accept_waveform(samples, SAMPLE_RATE)
    stream.input_finished()
    return (result for result in recognizer.streams.results(stream) if result.is_final)


def join_texts(texts: Sequence[str]) -> str:
    """Join the texts of a session's final results."""
    return canonical_text(" ".join(texts))


def _to_int16(samples: Samples) -> NDArray[np.int16]:
    # The inverse of reading a file: 16-bit files are sent unchanged.
    return np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16)
