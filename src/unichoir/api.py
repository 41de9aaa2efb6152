"""Load a model, transcribe and stream with it: what `unichoir` offers to Python programs."""

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Literal, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from unichoir.audio.io import AudioSource, Recording, array_recording, open_recording
from unichoir.engine.device import Device
from unichoir.errors import AudioError
from unichoir.extras import cluster_extras, serving_extras, training_extras
from unichoir.loading import (
    DEFAULT_MODEL,
    MODELS,
    find_language_model,
    find_model,
    included_models,
    load_recognizer,
    model_name,
    portable_name,
)
from unichoir.recognition.forced import force_align
from unichoir.recognition.options import DecodingOptions, StreamingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.recognition.recordings import Progress
from unichoir.search.hotwords import Hotword, parse_hotwords
from unichoir.search.options import DEFAULT_LM, Mode, StreamingMode
from unichoir.text.written import WrittenForm
from unichoir.transcript.channels import join_channels
from unichoir.transcript.results import StreamResult, Transcript

__all__ = [
    "DEFAULT_MODEL",
    "MODELS",
    "Channel",
    "Hotwords",
    "Model",
    "Stream",
    "cluster_extras",
    "find_language_model",
    "find_model",
    "included_models",
    "load_model",
    "load_recognizer",
    "model_name",
    "portable_name",
    "serving_extras",
    "training_extras",
]

Hotwords: TypeAlias = Iterable[Hotword | str | tuple[str, float]]
Channel: TypeAlias = int | Literal["mix", "each"]
_Options = TypeVar("_Options", DecodingOptions, StreamingOptions)


def load_model(
    name_or_dir: str | os.PathLike[str] | None = None,
    num_threads: int | None = None,
    top_k: int | None = None,
    device: Device = "cpu",
    language_model: str | os.PathLike[str] | None = DEFAULT_LM,
) -> "Model":
    """Load an included model, a model directory or a model of the Hugging Face hub; None: the default model.

    `organisation/name` or `organisation/name@revision`, where there is no such directory, is fetched from the hub into
    its cache (extra `hub`; docs/guides/models.md). A directory holds an ONNX model (`unichoir export`) or, where torch is
    installed, a checkpoint of training.
    num_threads: of one computation; None leaves the engine's choice. top_k: experts of a frame, if fewer than the model
    was trained with. device: `cpu` or `cuda`, an NVIDIA GPU. language_model: file of an n-gram model, packed or, with
    the extra `lm`, ARPA or KenLM's binary, for the modes with a prefix beam (docs/guides/language-model.md). "default": the
    model's own, if its directory has one, in the modes that can use it; None or "none": no language model. Raises
    CheckpointError or another UnichoirError naming what is missing or malformed, DecodingError for a top_k that the
    model does not have, for a device that it or this machine cannot compute on, and for a language model of words that
    the model cannot write.
    """
    return Model(load_recognizer(name_or_dir, num_threads, top_k, device, language_model))


class Model:
    """A loaded model. Calls do not influence each other."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer

    @property
    def sample_rate(self) -> int:
        """In Hz; what audio of any other rate is converted to."""
        return self.recognizer.fbank_config.sample_rate

    def transcribe(
        self,
        source: AudioSource | NDArray[Any],
        *,
        sample_rate: int | None = None,
        decoding: Mode | None = None,
        chunk_size: int | None = None,
        hotwords: Hotwords | None = None,
        options: DecodingOptions | None = None,
        written: WrittenForm | None = None,
        verbatim: bool | None = None,
        progress: Progress | None = None,
        channel: Channel = "mix",
        strict: bool = False,
    ) -> Transcript:
        """Recognise one recording of any length; of a file no more than some minutes are in memory at a time.

        Args:
            source: path, bytes or binary stream of an audio file, of a kind that docs/guides/transcribe.md names, or samples:
                (N,) or (N, channels), float in [-1, 1] or int16.
            sample_rate: of samples, in Hz; not for files, which know it themselves.
            decoding, chunk_size: short for these two fields of `options`, which they override.
            hotwords: phrases to expect, or (phrase, boost); in place of those of `options` (docs/guides/hotwords.md).
            options: all that can be chosen about decoding.
            written: how to write what was said, as 21 for TWENTY ONE; where it names no model of marks and case, those
                that come with the model count. A failure leaves, with a logged warning, the bare words
                (docs/guides/written-form.md).
            verbatim: True: the bare words, as `spoken` has them in any case, without marks and case of the model.
            progress: called with the seconds of audio done and the seconds in all, which may be an estimate.
            channel: a number from 1; "mix": the mean of all channels or, where they cancel each other, the louder one;
                "each": every channel by itself, and in the transcript words and tokens have their channel.
            strict: audio of which something is missing is an error. Else what there is is recognised, and the
                transcript's `warnings` say what is missing.

        Raises:
            AudioError: audio that cannot be read, is empty or not finite; samples without their rate; a channel that
                there is not.
            DecodingError: options that make no sense or that the model cannot fulfil.
        """
        fields = {"mode": decoding, "chunk_size": chunk_size, "written": written, "verbatim": verbatim}
        options = _with(options or DecodingOptions(), hotwords, **fields)
        with _open(source, sample_rate) as recording:
            if channel != "each":
                read = _Reading(recording, self.sample_rate, channel, strict, progress)
                return read.finish(self.recognizer.recordings.recognize_blocks(read.blocks(), options, read.progress))
            count = recording.num_channels
            read = _Reading(recording, self.sample_rate, "mix", strict, progress, count)
            parts = [
                self.recognizer.recordings.recognize_blocks(read.blocks(number), options, read.progress)
                for number in range(1, count + 1)
            ]
            return read.finish(join_channels(parts))

    def align(
        self,
        source: AudioSource | NDArray[Any],
        text: str,
        *,
        sample_rate: int | None = None,
        options: DecodingOptions | None = None,
        progress: Progress | None = None,
        channel: int | Literal["mix"] = "mix",
        strict: bool = False,
    ) -> Transcript:
        """When the words of `text` are said in one recording of any length (docs/guides/align.md).

        source, sample_rate, progress, channel, strict: as for `transcribe`. options: of their fields only those of
        chunks, language and length of segments matter. A text that is not what is said gets times, too, but low
        confidence. Raises AudioError as `transcribe` does, DecodingError for a text without words, with a word that the
        model's vocabulary cannot write or that is too long for the recording.
        """
        with _open(source, sample_rate) as recording:
            read = _Reading(recording, self.sample_rate, channel, strict, progress)
            return read.finish(force_align(self.recognizer, read.blocks(), text, options, read.progress))

    def create_stream(
        self,
        options: StreamingOptions | None = None,
        *,
        decoding: StreamingMode | None = None,
        chunk_size: int | None = None,
        hotwords: Hotwords | None = None,
        written: WrittenForm | None = None,
        verbatim: bool | None = None,
    ) -> "Stream":
        """A stream of live audio that has heard nothing yet, for those who get samples and results at their own pace.

        decoding, chunk_size: short for these two fields of `options`, which they override. hotwords: phrases to expect,
        or (phrase, boost); in place of those of `options`. written, verbatim: how final results write what was said, as
        for `transcribe`; partial ones leave the words. Raises DecodingError for options that make no sense or that the
        model cannot fulfil.

            stream = model.create_stream(chunk_size=8)
            while (block := next_block()) is not None:
                stream.accept_waveform(block, 48000)
                for result in stream.results():
                    print("final:" if result.is_final else "so far:", result.text)
            stream.input_finished()
            for result in stream.results():
                print("final:", result.text)
        """
        fields = {"mode": decoding, "chunk_size": chunk_size, "written": written, "verbatim": verbatim}
        options = _with(options or StreamingOptions(), hotwords, **fields)
        return Stream(self.recognizer, options)

    def stream(
        self,
        blocks: Iterable[NDArray[Any]],
        *,
        sample_rate: int,
        decoding: StreamingMode | None = None,
        chunk_size: int | None = None,
        hotwords: Hotwords | None = None,
        options: StreamingOptions | None = None,
        written: WrittenForm | None = None,
        verbatim: bool | None = None,
        empty_finals: bool = False,
    ) -> Iterator[StreamResult]:
        """Recognise live audio: results as soon as they are known, the last one after the blocks have ended.

        Of an utterance come the partial results whose text differs from the one before and the final result. One
        without words, as of silence, is left out, unless a partial result of its utterance is to be taken back.

        Args:
            blocks: of any lengths, each (N,) or (N, channels), float in [-1, 1] or int16.
            sample_rate: of the blocks, in Hz.
            decoding, chunk_size: short for these two fields of `options`, which they override.
            hotwords: phrases to expect, or (phrase, boost); in place of those of `options`.
            options: all that can be chosen about streaming.
            written, verbatim: how final results write what was said, as for `transcribe`; partial ones leave the words.
            empty_finals: give every final result: then they follow each other without gap in time.

        Raises:
            DecodingError: at once, for options that make no sense or that the model cannot fulfil.
            AudioError: for a block that is not finite or of another type or scale.

            for result in model.stream(blocks, sample_rate=16000):
                print(result.text, end="\\n" if result.is_final else "\\r")
        """
        stream = self.create_stream(
            options, decoding=decoding, chunk_size=chunk_size, hotwords=hotwords, written=written, verbatim=verbatim
        )
        return _changes(_results(stream, blocks, sample_rate), empty_finals)


def _open(source: AudioSource | NDArray[Any], sample_rate: int | None) -> AbstractContextManager[Recording]:
    if isinstance(source, (str, os.PathLike, bytes)) or hasattr(source, "read"):
        if sample_rate is not None:
            raise AudioError("sample_rate is for arrays of samples: files know their own")
        return open_recording(cast(AudioSource, source))
    if sample_rate is None:
        raise AudioError("samples: their sample_rate is needed, in Hz")
    return nullcontext(array_recording(source, sample_rate))


class _Reading:
    """A recording on its way through a recogniser, and what has to be said of it.

    Args:
        recording: to be read.
        sample_rate: in Hz, of its blocks.
        channel, strict: as `Model.transcribe` takes them, but for "each".
        progress: called with the seconds done and those in all, an estimate, of `times` readings.
    """

    def __init__(
        self,
        recording: Recording,
        sample_rate: int,
        channel: int | Literal["mix"],
        strict: bool,
        progress: Progress | None,
        times: int = 1,
    ) -> None:
        self._recording = recording
        self._sample_rate = sample_rate
        if not isinstance(channel, int) and channel != "mix":
            raise AudioError(f"channel '{channel}': expected a number from 1, mix or each")
        self._channel = None if channel == "mix" else channel
        self._strict = strict
        self._warnings: list[str] = []
        self._progress = progress
        self._total = recording.estimate() * times if progress is not None else 0.0
        self._before = self._done = 0.0

    def blocks(self, channel: int | None = None) -> Iterable[NDArray[np.float32]]:
        """From the beginning, of this channel if one is named."""
        self._before += self._done
        self._done = 0.0
        warn, channel = self._warnings.append, channel or self._channel
        return self._recording.blocks(self._sample_rate, channel=channel, warn=warn, strict=self._strict)

    def progress(self, done: float) -> None:
        """So many seconds of this reading are done."""
        self._done = done
        if self._progress is not None:
            self._progress(self._before + done, max(self._total, self._before + done))

    def finish(self, transcript: Transcript) -> Transcript:
        """The transcript with what has to be said."""
        return replace(transcript, warnings=tuple(dict.fromkeys(self._warnings)))


class Stream:
    """One stream of live audio through a model, made by `Model.create_stream`. To be used by one thread at a time."""

    def __init__(self, recognizer: Recognizer, options: StreamingOptions) -> None:
        self.options = options
        self._recognizer = recognizer
        self._stream = recognizer.streams.create_stream(options)

    def accept_waveform(self, samples: NDArray[Any], sample_rate: int) -> None:
        """Add samples, as many as there are: (N,) or (N, channels), float in [-1, 1] or int16; the rate in Hz.

        Raises AudioError for samples that are not finite or of another type or scale, for another rate than before, and
        after `input_finished`. What is refused changes nothing.
        """
        self._stream.accept_waveform(samples, sample_rate)

    def input_finished(self) -> None:
        """No samples will follow; `results` then ends with the last final result."""
        self._stream.input_finished()

    @property
    def accepted_ms(self) -> float:
        """Length of the audio so far, in ms."""
        return self._stream.accepted_ms

    def results(self) -> Iterator[StreamResult]:
        """Recognise what can be recognised by now: after each chunk a partial result or, where utterances end, finals.

        Every final result comes once and is where the next one starts, also if it has no words. Whoever stops in the
        middle goes on from there with the next call.
        """
        return self._recognizer.streams.results(self._stream)


def _results(stream: Stream, blocks: Iterable[NDArray[Any]], sample_rate: int) -> Iterator[StreamResult]:
    for block in blocks:
        stream.accept_waveform(block, sample_rate)
        yield from stream.results()
    stream.input_finished()
    yield from stream.results()


def _changes(results: Iterable[StreamResult], empty_finals: bool) -> Iterator[StreamResult]:
    """What is new to somebody who has read all before."""
    last = ""
    for result in results:
        if result.text != last or (result.is_final and (result.text or empty_finals)):
            yield result
        last = "" if result.is_final else result.text


def _with(options: _Options, hotwords: Hotwords | None, **fields: Any) -> _Options:
    if hotwords is not None:
        fields["hotwords"] = parse_hotwords(hotwords)
    return replace(options, **{name: value for name, value in fields.items() if value is not None})
