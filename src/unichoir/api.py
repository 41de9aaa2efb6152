"""Load a model, transcribe and stream with it: what `unichoir` offers to Python programs."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from numpy.typing import NDArray

from unichoir.audio.fbank import FbankConfig
from unichoir.audio.io import AudioSource, check_samples, load_audio, resample
from unichoir.configuration import from_mapping
from unichoir.decoding.device import DEVICES, Device
from unichoir.decoding.hypothesis import StreamResult, Transcript
from unichoir.decoding.onnx_backend import CONFIG_FILE, load_model_directory
from unichoir.decoding.options import DecodingOptions, Mode, StreamingMode, StreamingOptions
from unichoir.decoding.recognizer import Progress, Recognizer
from unichoir.errors import AudioError, CheckpointError, DecodingError, UnichoirError
from unichoir.text.tokenizer import load_tokenizer

DEFAULT_MODEL = "unichoir-small-en"
MODELS = Path(__file__).parent / "models"
"""The included models, one folder each."""
_EXTRA_MODULES = {
    "train": {
        *("aiohttp", "fsspec", "matplotlib", "onnx", "onnx_ir", "onnxscript"),
        *("safetensors", "sentencepiece", "tensorboard", "torch", "yaml"),
    },
    "serve": {"anyio", "fastapi", "prometheus_client", "python_multipart", "starlette", "uvicorn", "websockets"},
    "cluster": {"pandas", "pyarrow", "ray"},
}
_Options = TypeVar("_Options", DecodingOptions, StreamingOptions)


def load_model(
    name_or_dir: str | os.PathLike[str] | None = None,
    num_threads: int | None = None,
    top_k: int | None = None,
    device: Device = "cpu",
) -> "Model":
    """Load an included model or a model directory; None: the default model.

    A directory holds an ONNX model (`unichoir export`) or, where torch is installed, a checkpoint of training.
    num_threads: of one computation; None leaves the engine's choice. top_k: experts of a frame, if fewer than the model
    was trained with. device: `cpu` or `cuda`, an NVIDIA GPU. Raises CheckpointError or another UnichoirError naming
    what is missing, DecodingError for a top_k that the model does not have and for a device that it or this machine
    cannot compute on.
    """
    return Model(load_recognizer(name_or_dir, num_threads, top_k, device))


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
        options: DecodingOptions | None = None,
        progress: Progress | None = None,
    ) -> Transcript:
        """Recognise one recording of any length.

        Args:
            source: path, bytes or binary stream of an audio file (WAV, FLAC, Ogg, MP3), or samples: (N,) or
                (N, channels), float in [-1, 1] or int16.
            sample_rate: of samples, in Hz; not for files, which know it themselves.
            decoding, chunk_size: short for these two fields of `options`, which they override.
            options: all that can be chosen about decoding.
            progress: called with the seconds of audio done and the seconds in all.

        Raises:
            AudioError: audio that cannot be read, is empty or not finite; samples without their rate.
            DecodingError: options that make no sense or that the model cannot fulfil.
        """
        options = _with(options or DecodingOptions(), mode=decoding, chunk_size=chunk_size)
        return self.recognizer.recognize(self._samples(source, sample_rate), options, progress)

    def create_stream(
        self,
        options: StreamingOptions | None = None,
        *,
        decoding: StreamingMode | None = None,
        chunk_size: int | None = None,
    ) -> "Stream":
        """A stream of live audio that has heard nothing yet, for those who get samples and results at their own pace.

        decoding, chunk_size: short for these two fields of `options`, which they override. Raises DecodingError for
        options that make no sense or that the model cannot fulfil.

            stream = model.create_stream(chunk_size=8)
            while (block := next_block()) is not None:
                stream.accept_waveform(block, 48000)
                for result in stream.results():
                    print("final:" if result.is_final else "so far:", result.text)
            stream.input_finished()
            for result in stream.results():
                print("final:", result.text)
        """
        return Stream(self.recognizer, _with(options or StreamingOptions(), mode=decoding, chunk_size=chunk_size))

    def stream(
        self,
        blocks: Iterable[NDArray[Any]],
        *,
        sample_rate: int,
        decoding: StreamingMode | None = None,
        chunk_size: int | None = None,
        options: StreamingOptions | None = None,
        empty_finals: bool = False,
    ) -> Iterator[StreamResult]:
        """Recognise live audio: results as soon as they are known, the last one after the blocks have ended.

        Of an utterance come the partial results whose text differs from the one before and the final result. One
        without words, as of silence, is left out, unless a partial result of its utterance is to be taken back.

        Args:
            blocks: of any lengths, each (N,) or (N, channels), float in [-1, 1] or int16.
            sample_rate: of the blocks, in Hz.
            decoding, chunk_size: short for these two fields of `options`, which they override.
            options: all that can be chosen about streaming.
            empty_finals: give every final result: then they follow each other without gap in time.

        Raises:
            DecodingError: at once, for options that make no sense or that the model cannot fulfil.
            AudioError: for a block that is not finite or of another type or scale.

            for result in model.stream(blocks, sample_rate=16000):
                print(result.text, end="\\n" if result.is_final else "\\r")
        """
        stream = self.create_stream(options, decoding=decoding, chunk_size=chunk_size)
        return _changes(_results(stream, blocks, sample_rate), empty_finals)

    def _samples(self, source: AudioSource | NDArray[Any], sample_rate: int | None) -> NDArray[Any]:
        if isinstance(source, (str, os.PathLike, bytes)) or hasattr(source, "read"):
            if sample_rate is not None:
                raise AudioError("sample_rate is for arrays of samples: files know their own")
            return load_audio(cast("str | os.PathLike[str] | bytes | BinaryIO", source), sample_rate=self.sample_rate)
        if sample_rate is None:
            raise AudioError("samples: their sample_rate is needed, in Hz")
        return resample(check_samples(source, sample_rate), sample_rate, self.sample_rate)


class Stream:
    """One stream of live audio through a model, made by `Model.create_stream`. To be used by one thread at a time."""

    def __init__(self, recognizer: Recognizer, options: StreamingOptions) -> None:
        self.options = options
        self._recognizer = recognizer
        self._stream = recognizer.create_stream(options)

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
        return self._recognizer.results(self._stream)


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


def _with(options: _Options, **fields: Any) -> _Options:
    return replace(options, **{name: value for name, value in fields.items() if value is not None})


def included_models() -> list[str]:
    """Names of the models in the package."""
    return sorted(path.parent.name for path in MODELS.glob("*/config.json"))


def find_model(name_or_dir: str | os.PathLike[str] | None) -> Path:
    """The directory of a model; an included name counts before a folder of that name. Raises CheckpointError."""
    name = DEFAULT_MODEL if name_or_dir is None else os.fspath(name_or_dir)
    if name in included_models():
        return MODELS / name
    if not Path(name).is_dir():
        known = ", ".join(included_models()) or "none"
        raise CheckpointError(f"{name}: neither a model directory nor an included model (there is: {known})")
    return Path(name)


def load_recognizer(
    name_or_dir: str | os.PathLike[str] | None,
    num_threads: int | None = None,
    top_k: int | None = None,
    device: Device = "cpu",
) -> Recognizer:
    """As `load_model`, for those who need the parts."""
    if device not in DEVICES:
        raise DecodingError(f"device: '{device}' is not one of {', '.join(DEVICES)}")
    directory = find_model(name_or_dir)
    if (directory / CONFIG_FILE).exists():
        backend, config = load_model_directory(directory, num_threads, top_k, device)
        return Recognizer(backend, load_tokenizer(directory), config.fbank)
    if (directory / "model.safetensors").exists():
        return _load_checkpoint(directory, num_threads, top_k, device)
    raise CheckpointError(f"{directory}: neither a model ({CONFIG_FILE}) nor a checkpoint (model.safetensors)")


def _load_checkpoint(directory: Path, num_threads: int | None, top_k: int | None, device: Device) -> Recognizer:
    with training_extras(f"{directory} is a checkpoint of training, and using it"):
        import torch

        from unichoir.export.torch_backend import TorchBackend, check_device
        from unichoir.model.checkpoint import load_checkpoint
    check_device(device)
    model, sections = load_checkpoint(directory)
    fbank = from_mapping(FbankConfig, sections.get("fbank", {}), f"{directory / 'config.yaml'}: fbank")
    if num_threads:
        torch.set_num_threads(num_threads)
    return Recognizer(TorchBackend(model, device, top_k), load_tokenizer(directory), fbank)


@contextmanager
def training_extras(who: str) -> Iterator[None]:
    """Around imports of what a plain install lacks: a missing module becomes an UnichoirError naming `who` needs it."""
    with _extra(who, "train"):
        yield


@contextmanager
def serving_extras(who: str) -> Iterator[None]:
    """The same for what a server and its clients need."""
    with _extra(who, "serve"):
        yield


@contextmanager
def cluster_extras(who: str) -> Iterator[None]:
    """The same for what work on a Ray cluster needs."""
    with _extra(who, "cluster"):
        yield


@contextmanager
def _extra(who: str, extra: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA_MODULES[extra]:
            raise
        install = f"pip install 'unichoir[{extra}]'"
        raise UnichoirError(f"{who} needs more than a plain install: {install} (no {error.name})") from None
