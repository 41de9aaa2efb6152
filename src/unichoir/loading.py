"""Find a model by its name and assemble a recogniser."""

import os
from pathlib import Path

from unichoir.audio.fbank import FbankConfig
from unichoir.bundle import pulled
from unichoir.bundle.hub import find_directory, is_on_hub
from unichoir.bundle.messages import say
from unichoir.bundle.published import PUBLISHED, is_published, split_pinned
from unichoir.configuration import from_mapping
from unichoir.engine.backend import Backend
from unichoir.engine.device import DEVICES, Device
from unichoir.engine.onnx_backend import CONFIG_FILE, load_model_directory
from unichoir.errors import CheckpointError, DecodingError
from unichoir.extras import export_extras, training_extras
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

    The name is looked up as an included model, as a folder, in the cache of pulled models, among the published models,
    which are pulled now, and on the Hugging Face hub, from which the model is downloaded. Raises CheckpointError or
    DownloadError, and UnichoirError if a package is missing.
    """
    name = DEFAULT_MODEL if name_or_dir is None else os.fspath(name_or_dir)
    if name in included_models():
        return MODELS / name
    directory = _find_pulled(name) or find_directory(name)
    if not directory.is_dir():
        known = ", ".join(included_models()) or "none"
        listed = f"included: {known}; to pull: {', '.join(PUBLISHED)}"
        raise CheckpointError(f"{name}: neither a model directory nor an included model ({listed})")
    return directory


def find_checkpoint(name_or_dir: str | os.PathLike[str]) -> Path:
    """Return the folder of a checkpoint: of a pulled or published model, or as `find_model` finds folders.

    Raises CheckpointError or DownloadError, and UnichoirError if a package is missing.
    """
    name = os.fspath(name_or_dir)
    _find_pulled(name)
    return pulled.find_checkpoint(name)


def _find_pulled(name: str) -> Path | None:
    """Return the folder of a pulled model, after pulling it if it is published; None for other names."""
    found = pulled.find_pulled(name)
    if found is None and is_published(name):
        say(f"{name}: not in the cache ({pulled.cache_folder()}), so it is pulled now")
        with export_extras(f"{name}: it is not in the cache, and converting it"):
            from unichoir.export.pull import pull
        return pull(name).directory
    return found


def model_name(name_or_dir: str | os.PathLike[str] | None) -> str:
    """Return the display name of a model: its name without a revision, or the folder's name."""
    name = DEFAULT_MODEL if name_or_dir is None else os.fspath(name_or_dir)
    if name in included_models() or is_on_hub(name):
        return name.partition("@")[0]
    return Path(name).resolve().name


def portable_name(name_or_dir: str | os.PathLike[str]) -> str:
    """Return a name by which other machines find the same model.

    Included models keep their name, published models get the SHA-256 of their archive in their name, models on the hub
    the commit, and folders their absolute path, as do other pulled models, which only this machine's cache has. Raises
    CheckpointError and UnichoirError as `find_model` does.
    """
    name, directory = os.fspath(name_or_dir), find_model(name_or_dir)
    if name in included_models():
        return name
    if is_published(name):
        return f"{split_pinned(name)[0]}@{pulled.Record.read(directory).sha256}"
    if is_on_hub(name) and pulled.find_pulled(name) is None:
        return f"{name.partition('@')[0]}@{directory.name}"
    return os.path.abspath(directory)


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
