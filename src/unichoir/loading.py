"""Find a model by its name and assemble a recogniser."""

import os
from pathlib import Path

from unichoir.audio.fbank import FbankConfig
from unichoir.bundle.hub import find_directory, is_on_hub
from unichoir.configuration import from_mapping
from unichoir.engine.backend import Backend
from unichoir.engine.device import DEVICES, Device
from unichoir.engine.onnx_backend import CONFIG_FILE, load_model_directory
from unichoir.errors import CheckpointError, DecodingError
from unichoir.extras import training_extras
from unichoir.recognition.recognizer import Recognizer
from unichoir.search.language_model import DefaultLanguageModel, NgramLanguageModel
from unichoir.search.options import DEFAULT_LM, NO_LM
from unichoir.search.scoring import LanguageModel
from unichoir.text.english_punctuation import PUNCTUATION_FILE
from unichoir.text.tokenizer import Tokenizer, load_tokenizer

DEFAULT_MODEL = "unichoir-base-en"
WEIGHTS_FILE = "model.safetensors"
LM_FILE = "lm.bin"
"""The packed language model in a model directory (`unichoir lm add`)."""
MODELS = Path(__file__).parent / "included"
"""The folder of the included models, each in a folder of its own."""


def included_models() -> list[str]:
    """Return the names of the models in the package."""
    return sorted(path.parent.name for path in MODELS.glob("*/config.json"))


def find_model(name_or_dir: str | os.PathLike[str] | None) -> Path:
    """Return the directory of a model.

    The name is looked up as an included model, as a folder, and on the Hugging Face hub, from which the model is
    downloaded. Raises CheckpointError, and UnichoirError if a package is missing.
    """
    name = DEFAULT_MODEL if name_or_dir is None else os.fspath(name_or_dir)
    if name in included_models():
        return MODELS / name
    directory = find_directory(name)
    if not directory.is_dir():
        known = ", ".join(included_models()) or "none"
        raise CheckpointError(f"{name}: neither a model directory nor an included model (included: {known})")
    return directory


def model_name(name_or_dir: str | os.PathLike[str] | None) -> str:
    """Return the display name of a model: included name, name on the hub without revision, or folder name."""
    name = DEFAULT_MODEL if name_or_dir is None else os.fspath(name_or_dir)
    if name in included_models() or is_on_hub(name):
        return name.partition("@")[0]
    return Path(name).resolve().name


def portable_name(name_or_dir: str | os.PathLike[str]) -> str:
    """Return a name by which other machines find the same model.

    Included models keep their name, models on the hub get the commit in their name, and folders their absolute path.
    Raises CheckpointError and UnichoirError as `find_model` does.
    """
    name, directory = os.fspath(name_or_dir), find_model(name_or_dir)
    if is_on_hub(name) and name not in included_models():
        return f"{name.partition('@')[0]}@{directory.name}"
    return name if name in included_models() else os.path.abspath(directory)


def load_recognizer(
    name_or_dir: str | os.PathLike[str] | None,
    num_threads: int | None = None,
    top_k: int | None = None,
    device: Device = "cpu",
    language_model: str | os.PathLike[str] | None = DEFAULT_LM,
) -> Recognizer:
    """Load a recogniser; the arguments and errors are those of `unichoir.load_model`."""
    if device not in DEVICES:
        raise DecodingError(f"device: '{device}' is not one of {', '.join(DEVICES)}")
    directory = find_model(name_or_dir)
    backend: Backend
    if (directory / CONFIG_FILE).exists():
        backend, config = load_model_directory(directory, num_threads, top_k, device)
        fbank = config.fbank
    elif (directory / WEIGHTS_FILE).exists():
        backend, fbank = _load_checkpoint(directory, num_threads, top_k, device)
    else:
        what = f"neither a model ({CONFIG_FILE}) nor a checkpoint ({WEIGHTS_FILE})"
        raise CheckpointError(f"{directory}: {what}{_advice(directory)}")
    tokenizer = load_tokenizer(directory)
    punctuation = directory / PUNCTUATION_FILE
    return Recognizer(
        backend,
        tokenizer,
        fbank,
        _load_language_model(language_model, directory, tokenizer),
        punctuation if punctuation.is_file() else None,
    )


def find_language_model(language_model: str | os.PathLike[str] | None, directory: Path) -> Path | None:
    """Return the file of a language model; None: no language model.

    language_model: as for `load_model`; directory: of the model.
    """
    if language_model is None or language_model == NO_LM:
        return None
    if language_model != DEFAULT_LM:
        return Path(language_model)
    own = directory / LM_FILE
    return own if own.exists() else None


def _load_language_model(
    language_model: str | os.PathLike[str] | None, directory: Path, tokenizer: Tokenizer
) -> LanguageModel | None:
    file = find_language_model(language_model, directory)
    if file is None:
        return None
    if language_model == DEFAULT_LM:
        return DefaultLanguageModel(file, tokenizer)
    return NgramLanguageModel(file, tokenizer)


def _advice(directory: Path) -> str:
    """Return advice for a folder of another kind."""
    if (directory / "train.yaml").exists():
        return f"; to convert a WeNet checkpoint, use `unichoir import-wenet {directory} OUT`"
    pickled = sorted(path.name for pattern in ("*.pt", "*.pth", "*.bin", "*.ckpt") for path in directory.glob(pattern))
    return f"; {pickled[0]} is not read, because pickles can run any code" if pickled else ""


def _load_checkpoint(
    directory: Path, num_threads: int | None, top_k: int | None, device: Device
) -> tuple[Backend, FbankConfig]:
    with training_extras(f"{directory} is a training checkpoint, and using it"):
        import torch

        from unichoir.engine.torch_backend import TorchBackend, check_device
        from unichoir.network.checkpoint import load_checkpoint
    check_device(device)
    model, sections = load_checkpoint(directory)
    fbank = from_mapping(FbankConfig, sections.get("fbank", {}), f"{directory / 'config.yaml'}: fbank")
    if num_threads:
        torch.set_num_threads(num_threads)
    return TorchBackend(model, device, top_k), fbank
