"""Where a model is, by whatever name, and the recogniser that is made of it."""

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
"""The language model of a model directory, packed (`unichoir lm add`)."""
MODELS = Path(__file__).parent / "included"
"""The included models, one folder each."""


def included_models() -> list[str]:
    """Names of the models in the package."""
    return sorted(path.parent.name for path in MODELS.glob("*/config.json"))


def find_model(name_or_dir: str | os.PathLike[str] | None) -> Path:
    """The directory of a model: of an included one, a folder, or one of the Hugging Face hub, which is downloaded.

    Where a name is several of these, the first counts. Raises CheckpointError, and UnichoirError where a package is
    missing.
    """
    name = DEFAULT_MODEL if name_or_dir is None else os.fspath(name_or_dir)
    if name in included_models():
        return MODELS / name
    directory = find_directory(name)
    if not directory.is_dir():
        known = ", ".join(included_models()) or "none"
        raise CheckpointError(f"{name}: neither a model directory nor an included model (there is: {known})")
    return directory


def model_name(name_or_dir: str | os.PathLike[str] | None) -> str:
    """What a model is called: its included name, its name on the hub without revision, or its folder's name."""
    name = DEFAULT_MODEL if name_or_dir is None else os.fspath(name_or_dir)
    if name in included_models() or is_on_hub(name):
        return name.partition("@")[0]
    return Path(name).resolve().name


def portable_name(name_or_dir: str | os.PathLike[str]) -> str:
    """By what other machines find the same model: the included ones are in every installation, those of the hub have a
    name with the commit, which each machine downloads once, and other folders are found by their whole path.

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
    """As `unichoir.load_model`, for those who need the parts."""
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
    """The file of a language model as `load_model` takes it, for a model in `directory`; None: there is none."""
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
    """What to do with a folder of another kind."""
    if (directory / "train.yaml").exists():
        return f": a WeNet checkpoint becomes one with `unichoir import-wenet {directory} OUT`"
    pickled = sorted(path.name for pattern in ("*.pt", "*.pth", "*.bin", "*.ckpt") for path in directory.glob(pattern))
    return f"; {pickled[0]} is not read, since pickles can run any code" if pickled else ""


def _load_checkpoint(
    directory: Path, num_threads: int | None, top_k: int | None, device: Device
) -> tuple[Backend, FbankConfig]:
    with training_extras(f"{directory} is a checkpoint of training, and using it"):
        import torch

        from unichoir.engine.torch_backend import TorchBackend, check_device
        from unichoir.network.checkpoint import load_checkpoint
    check_device(device)
    model, sections = load_checkpoint(directory)
    fbank = from_mapping(FbankConfig, sections.get("fbank", {}), f"{directory / 'config.yaml'}: fbank")
    if num_threads:
        torch.set_num_threads(num_threads)
    return TorchBackend(model, device, top_k), fbank
