"""The Python API: load a model, transcribe recordings, align texts, recognise streams."""

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
from unichoir.extras import cluster_extras, export_extras, serving_extras, training_extras
from unichoir.loading import (
    DEFAULT_MODEL,
    MODELS,
    find_checkpoint,
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
    "export_extras",
    "find_checkpoint",
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
    """Load an included model, a model directory, a published model or a model from the Hugging Face hub.

    Args:
        name_or_dir: the name of an included model, a directory, the name of a published model such as
            `wenet/librispeech`, which is downloaded and converted at its first use (extra `export`), or
            `organisation/name` or `organisation/name@revision` on the hub, which is downloaded into its cache (extra
            `hub`; docs/guides/models.md). Downloads are announced on standard error. A directory has an ONNX model
            (`unichoir export`) or, if torch is installed, a training checkpoint. None: the default model.
        num_threads: threads of one computation; None: the engine's choice.
        top_k: experts per frame, if fewer than in training.
        device: `cpu` or `cuda`, an NVIDIA GPU.
        language_model: the file of an n-gram model for the modes with a prefix beam (docs/guides/language-model.md):
            packed or, with the extra `lm`, an ARPA file or a KenLM binary. "default": the language model in the model
            directory, if there is one. None or "none": no language model.

    Raises:
        CheckpointError, or another UnichoirError: a file is missing or malformed.
        DecodingError: the model does not support the top_k, the model or this machine does not support the device, or
            the model cannot write the words of the language model.
    """
    return Model(load_recognizer(name_or_dir, num_threads, top_k, device, language_model))


class Model:
    """A loaded model. Calls do not influence each other."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer

    @property
    def sample_rate(self) -> int:
        """The sample rate in Hz, to which all audio is converted."""
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
        """Recognise one recording of any length; at most a few minutes of a file are in memory at a time.

        Args:
            source: path, bytes or binary stream of an audio file (docs/guides/transcribe.md lists the formats), or
                samples: (N,) or (N, channels), float in [-1, 1] or int16.
            sample_rate: in Hz; for samples only.
            decoding, chunk_size: these two fields of `options`, which they override.
            hotwords: phrases to expect, or (phrase, boost); they replace those of `options` (docs/guides/hotwords.md).
            options: all options of decoding.
            written: the written form, as 21 for TWENTY ONE. Unless it names a punctuation model, the model's own
                punctuation and case apply. If it fails, a warning is logged and the words stay as spoken
                (docs/guides/written-form.md).
            verbatim: True: the bare words (as in `spoken`), without the model's own punctuation and case.
            progress: called with the seconds of audio done and the total, which may be an estimate.
            channel: a number from 1; "mix": the mean of all channels or, if they cancel each other, the louder one;
                "each": every channel is recognised separately, and words and tokens have the number of their channel.
            strict: raise an error if part of the audio is missing. Otherwise the rest is recognised, and the
                transcript's `warnings` list the missing parts.

        Raises:
            AudioError: audio that cannot be read, is empty or not finite; samples without their rate; a channel that
                does not exist.
            DecodingError: invalid options, or options that the model cannot fulfil.
        """
        fields = {"mode": decoding, "chunk_size": chunk_size, "written": written, "verbatim": verbatim}
        options = _with(options or DecodingOptions(), hotwords, **fields)
        with _open(source, sample_rate) as recording:
            if channel != "each":
                audio = _Input(recording, self.sample_rate, channel, strict, progress)
                return audio.finish(
                    self.recognizer.recordings.recognize_blocks(audio.blocks(), options, audio.progress)
                )
            count = recording.num_channels
            audio = _Input(recording, self.sample_rate, "mix", strict, progress, count)
            parts = [
                self.recognizer.recordings.recognize_blocks(audio.blocks(number), options, audio.progress)
                for number in range(1, count + 1)
            ]
            return audio.finish(join_channels(parts))

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
        """Find the times at which the words of `text` are spoken in one recording of any length (docs/guides/align.md).

        source, sample_rate, progress, channel, strict: as for `transcribe`. options: only chunks, language and length
        of segments apply. A text that does not match the audio also gets times, but with low confidence. Raises
        AudioError as `transcribe` does, DecodingError for a text without words, with a word that the model's vocabulary
        cannot write, or that is too long for the recording.
        """
        with _open(source, sample_rate) as recording:
            audio = _Input(recording, self.sample_rate, channel, strict, progress)
            return audio.finish(force_align(self.recognizer, audio.blocks(), text, options, audio.progress))

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
        """Return a new stream of live audio. With it you add samples and take results at your own pace.

        decoding, chunk_size: these two fields of `options`, which they override. hotwords: phrases to expect, or
        (phrase, boost); they replace those of `options`. written, verbatim: the written form of final results, as for
        `transcribe`; partial results have the bare words. Raises DecodingError for invalid options and for options that
        the model cannot fulfil.

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
        """Recognise live audio and yield each result as soon as it is known.

        Each utterance yields the partial results whose text has changed, and a final result. Final results without
        words, as for silence, are left out, unless a partial result of the utterance had text.

        Args:
            blocks: of any length, each (N,) or (N, channels), float in [-1, 1] or int16.
            sample_rate: of the blocks, in Hz.
            decoding, chunk_size: these two fields of `options`, which they override.
            hotwords: phrases to expect, or (phrase, boost); they replace those of `options`.
            options: all options of streaming.
            written, verbatim: the written form of final results, as for `transcribe`; partial results have the bare
                words.
            empty_finals: yield final results without words too, so that final results have no gaps in time.

        Raises:
            DecodingError: immediately, for invalid options and for options that the model cannot fulfil.
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
            raise AudioError("sample_rate: only for arrays of samples; files have their own")
        return open_recording(cast(AudioSource, source))
    if sample_rate is None:
        raise AudioError("samples: need a sample_rate, in Hz")
    return nullcontext(array_recording(source, sample_rate))


class _Input:
    """A recording that is read by a recogniser, with its warnings and its progress.

    Args:
        recording: the recording to read.
        sample_rate: of its blocks, in Hz.
        channel, strict: as in `Model.transcribe`, except "each".
        progress: called with the seconds done and the estimated total of `times` passes.
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
        """Return the blocks of one pass from the beginning; channel: overrides the recording's choice."""
        self._before += self._done
        self._done = 0.0
        warn, channel = self._warnings.append, channel or self._channel
        return self._recording.blocks(self._sample_rate, channel=channel, warn=warn, strict=self._strict)

    def progress(self, done: float) -> None:
        """Report the seconds done in this pass."""
        self._done = done
        if self._progress is not None:
            self._progress(self._before + done, max(self._total, self._before + done))

    def finish(self, transcript: Transcript) -> Transcript:
        """Return the transcript with the warnings."""
        return replace(transcript, warnings=tuple(dict.fromkeys(self._warnings)))


class Stream:
    """One stream of live audio, made by `Model.create_stream`. Use it in one thread at a time."""

    def __init__(self, recognizer: Recognizer, options: StreamingOptions) -> None:
        self.options = options
        self._recognizer = recognizer
        self._stream = recognizer.streams.create_stream(options)

    def accept_waveform(self, samples: NDArray[Any], sample_rate: int) -> None:
        """Add any number of samples: (N,) or (N, channels), float in [-1, 1] or int16; sample_rate in Hz.

        Raises AudioError for samples that are not finite or of another type or scale, for a different rate than before,
        and after `input_finished`. Rejected samples do not change the stream.
        """
        self._stream.accept_waveform(samples, sample_rate)

    def input_finished(self) -> None:
        """End the input; `results` then ends with the last final result."""
        self._stream.input_finished()

    @property
    def accepted_ms(self) -> float:
        """Length of all audio so far, in ms."""
        return self._stream.accepted_ms

    def results(self) -> Iterator[StreamResult]:
        """Decode all audio received so far and yield the results.

        Each chunk yields a partial result or, where utterances end, final results. Each final result is yielded once,
        even without words, and the next one starts where it ends. If you stop early, the next call continues there.
        """
        return self._recognizer.streams.results(self._stream)


def _results(stream: Stream, blocks: Iterable[NDArray[Any]], sample_rate: int) -> Iterator[StreamResult]:
    for block in blocks:
        stream.accept_waveform(block, sample_rate)
        yield from stream.results()
    stream.input_finished()
    yield from stream.results()


def _changes(results: Iterable[StreamResult], empty_finals: bool) -> Iterator[StreamResult]:
    """Yield the results that change the visible text."""
    last = ""
    for result in results:
        if result.text != last or (result.is_final and (result.text or empty_finals)):
            yield result
        last = "" if result.is_final else result.text


def _with(options: _Options, hotwords: Hotwords | None, **fields: Any) -> _Options:
    if hotwords is not None:
        fields["hotwords"] = parse_hotwords(hotwords)
    return replace(options, **{name: value for name, value in fields.items() if value is not None})
