"""Detection and reading of the checkpoint formats."""

from pathlib import Path

from unichoir.errors import CheckpointError
from unichoir.formats.whisper.ctranslate2 import read_ctranslate2
from unichoir.formats.whisper.huggingface import INDEX_FILE, WEIGHTS_FILE, read_huggingface
from unichoir.formats.whisper.openai import read_openai
from unichoir.formats.whisper.weights import WhisperModel

_PICKLED = "pytorch_model.bin"
_MODEL_BIN = "model.bin"


def read_whisper(source: Path) -> WhisperModel:
    """Read a Whisper checkpoint.

    source: a folder of Hugging Face or CTranslate2, a `.pt` or `model.bin`, or a folder with one `.pt`. Raises
    CheckpointError if it is none of these or can't be read.
    """
    if source.is_dir():
        if any((source / name).is_file() for name in (WEIGHTS_FILE, INDEX_FILE)):
            return read_huggingface(source)
        if (source / _MODEL_BIN).is_file():
            return read_ctranslate2(source / _MODEL_BIN)
        files = sorted(source.glob("*.pt"))
        if len(files) == 1:
            return read_openai(files[0])
        if any(source.glob(f"{_PICKLED}*")):
            raise _pickled(source / _PICKLED)
        names = f"{WEIGHTS_FILE}, {_MODEL_BIN} or one *.pt"
        raise CheckpointError(f"{source}: no checkpoint of Whisper ({names})")
    if not source.is_file():
        raise CheckpointError(f"{source}: no such file or folder")
    if source.name.startswith("pytorch_model"):
        raise _pickled(source)
    if source.suffix == ".pt":
        return read_openai(source)
    if source.suffix == ".safetensors":
        return read_huggingface(source.parent)
    return read_ctranslate2(source)


def _pickled(path: Path) -> CheckpointError:
    advice = f"save it as {WEIGHTS_FILE} first: model.save_pretrained(folder, safe_serialization=True) in transformers"
    return CheckpointError(f"{path}: pickled weights are not read, because they can run code; {advice}")
