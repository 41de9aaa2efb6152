"""Hugging Face's folders: `config.json` and `model.safetensors`, in one file or several with an index."""

import json
import re
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from unichoir.errors import CheckpointError
from unichoir.formats.whisper.weights import WhisperModel, build_whisper

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# The order matters: the name of a norm contains the name of its attention.
_PARTS = (
    ("encoder.layer_norm.", "encoder.ln_post."),
    ("decoder.layer_norm.", "decoder.ln."),
    ("embed_positions.weight", "positional_embedding"),
    ("embed_tokens.", "token_embedding."),
    (".layers.", ".blocks."),
    (".self_attn_layer_norm.", ".attn_ln."),
    (".encoder_attn_layer_norm.", ".cross_attn_ln."),
    (".final_layer_norm.", ".mlp_ln."),
    (".self_attn.", ".attn."),
    (".encoder_attn.", ".cross_attn."),
    (".q_proj.", ".query."),
    (".k_proj.", ".key."),
    (".v_proj.", ".value."),
    (".out_proj.", ".out."),
    (".fc1.", ".mlp.0."),
    (".fc2.", ".mlp.2."),
)


def read_huggingface(folder: Path) -> WhisperModel:
    """Read `config.json` and the safetensors of a `WhisperForConditionalGeneration`.

    Raises CheckpointError for missing or unreadable files, and for a model that isn't Whisper.
    """
    path = folder / "config.json"
    config = read_json(path)
    if not isinstance(config, dict) or config.get("model_type") != "whisper":
        found = config.get("model_type") if isinstance(config, dict) else None
        raise CheckpointError(f"{path}: model_type is {found!r}, expected 'whisper'")
    # Settings that change the function without changing the weights.
    for key, expected in (("activation_function", "gelu"), ("scale_embedding", False)):
        if config.get(key, expected) != expected:
            raise CheckpointError(f"{path}: {key} is {config[key]!r}, only {expected!r} can be read")
    heads = []
    for key in ("encoder_attention_heads", "decoder_attention_heads"):
        if type(config.get(key)) is not int:
            raise CheckpointError(f"{path}: '{key}' is {config.get(key)!r}, expected a number of heads")
        heads.append(config[key])
    weights = {
        _openai_name(name): tensor for name, tensor in _read_tensors(folder).items() if name != "proj_out.weight"
    }
    return build_whisper(weights, (heads[0], heads[1]), folder)


def _openai_name(name: str) -> str:
    name = name.removeprefix("model.")
    for theirs, openais in _PARTS:
        name = name.replace(theirs, openais)
    return name


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the tensors of all safetensors files. Raises CheckpointError."""
    if (folder / WEIGHTS_FILE).is_file():
        return _read_file(folder / WEIGHTS_FILE)
    index = folder / INDEX_FILE
    if not index.is_file():
        raise CheckpointError(f"{folder}: neither {WEIGHTS_FILE} nor {INDEX_FILE}")
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not all(isinstance(each, str) for each in places.values()):
        raise CheckpointError(f"{index}: no 'weight_map' from weights to files")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name):
            raise CheckpointError(f"{index}: '{name}' is not the name of a safetensors file in its folder")
        tensors |= _read_file(folder / name)
    for weight, name in places.items():
        if weight not in tensors:
            raise CheckpointError(f"{folder / name}: weight '{weight}' is missing")
    return tensors


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:  # safetensors raises its own type for any damaged file
        raise CheckpointError(f"{path}: cannot be read ({error})") from None


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises CheckpointError if it is missing or invalid."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from None
