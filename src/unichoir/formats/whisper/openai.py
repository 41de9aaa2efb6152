"""OpenAI's checkpoints: one `.pt` file with `dims` and `model_state_dict`."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from unichoir.errors import CheckpointError
from unichoir.formats.whisper.weights import WhisperModel, build_whisper


def read_openai(path: Path) -> WhisperModel:
    """Read the `.pt` file of an OpenAI Whisper. Only tensors and numbers are read, so no code in the file runs.

    Raises CheckpointError for an unreadable file, and for a model that isn't Whisper.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:  # torch.load raises many types for a damaged file
        raise CheckpointError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from None
    keys = ("dims", "model_state_dict")
    if not isinstance(content, Mapping) or not all(isinstance(content.get(key), Mapping) for key in keys):
        raise CheckpointError(f"{path}: not OpenAI's format of a Whisper model (no 'dims' and 'model_state_dict')")
    weights = content["model_state_dict"]
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()):
        raise CheckpointError(f"{path}: 'model_state_dict' holds something other than tensors by name")
    heads = []
    for key in ("n_audio_head", "n_text_head"):
        value = content["dims"].get(key)
        if type(value) is not int:
            raise CheckpointError(f"{path}: dims: '{key}' is {value!r}, expected a number of heads")
        heads.append(value)
    # Only early versions saved the buffer of the causal mask, which is not a weight.
    weights = {name: tensor for name, tensor in weights.items() if name != "decoder.mask"}
    return build_whisper(weights, (heads[0], heads[1]), path)
