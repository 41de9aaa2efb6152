"""Load a model and transcribe with it: what `unichoir` offers to Python programs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from numpy.typing import NDArray

from unichoir.audio.fbank import FbankConfig
from unichoir.audio.io import AudioSource, check_samples, load_audio, resample
from unichoir.configuration import from_mapping
from unichoir.decoding.hypothesis import Transcript
from unichoir.decoding.onnx_backend import CONFIG_FILE, load_model_directory
from unichoir.decoding.options import DecodingOptions, Mode
from unichoir.decoding.recognizer import Progress, Recognizer
from unichoir.errors import AudioError, CheckpointError, UnichoirError
from unichoir.text.tokenizer import load_tokenizer

DEFAULT_MODEL = "unichoir-small-en"
MODELS = Path(__file__).parent / "models"
"""The included models, one folder each."""
_EXTRA_MODULES = frozenset(
    {"onnx", "onnx_ir", "onnxscript", "safetensors", "sentencepiece", "tensorboard", "torch", "yaml"}
)


def load_model(
    name_or_dir: str | os.PathLike[str] | None = None, num_threads: int | None = None, top_k: int | None = None
) -> "Model":
    """Load an included model or a model directory; None: the default model.

    A directory holds an ONNX model (`unichoir export`) or, where torch is installed, a checkpoint of training.
    num_threads: of one computation; None leaves the engine's choice. top_k: experts of a frame, if fewer than the model
    was trained with. Raises CheckpointError or another UnichoirError naming what is missing, DecodingError for a top_k
    that the model does not have.
    """
    return Model(load_recognizer(name_or_dir, num_threads, top_k))


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
        options = options or DecodingOptions()
        if decoding is not None:
            options = replace(options, mode=decoding)
        if chunk_size is not None:
            options = replace(options, chunk_size=chunk_size)
        return self.recognizer.recognize(self._samples(source, sample_rate), options, progress)

    def _samples(self, source: AudioSource | NDArray[Any], sample_rate: int | None) -> NDArray[Any]:
        if isinstance(source, (str, os.PathLike, bytes)) or hasattr(source, "read"):
            if sample_rate is not None:
                raise AudioError("sample_rate is for arrays of samples: files know their own")
            return load_audio(cast("str | os.PathLike[str] | bytes | BinaryIO", source), sample_rate=self.sample_rate)
        if sample_rate is None:
            raise AudioError("samples: their sample_rate is needed, in Hz")
        return resample(check_samples(source, sample_rate), sample_rate, self.sample_rate)


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
    name_or_dir: str | os.PathLike[str] | None, num_threads: int | None = None, top_k: int | None = None
) -> Recognizer:
    """As `load_model`, for those who need the parts."""
    directory = find_model(name_or_dir)
    if (directory / CONFIG_FILE).exists():
        backend, config = load_model_directory(directory, num_threads, top_k)
        return Recognizer(backend, load_tokenizer(directory), config.fbank)
    if (directory / "model.safetensors").exists():
        return _load_checkpoint(directory, num_threads, top_k)
    raise CheckpointError(f"{directory}: neither a model ({CONFIG_FILE}) nor a checkpoint (model.safetensors)")


def _load_checkpoint(directory: Path, num_threads: int | None, top_k: int | None) -> Recognizer:
    with training_extras(f"{directory} is a checkpoint of training, and using it"):
        import torch

        from unichoir.export.torch_backend import TorchBackend
        from unichoir.model.checkpoint import load_checkpoint
    model, sections = load_checkpoint(directory)
    fbank = from_mapping(FbankConfig, sections.get("fbank", {}), f"{directory / 'config.yaml'}: fbank")
    if num_threads:
        torch.set_num_threads(num_threads)
    return Recognizer(TorchBackend(model, top_k=top_k), load_tokenizer(directory), fbank)


@contextmanager
def training_extras(who: str) -> Iterator[None]:
    """Around imports of what a plain install lacks: a missing module becomes an UnichoirError naming `who` needs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA_MODULES:
            raise
        raise UnichoirError(f"{who} needs training extras: pip install 'unichoir[train]' (no {error.name})") from None
