"""CTranslate2's `model.bin`, which faster-whisper uses (format version 6, `WhisperSpec` revision 3).

The format is little-endian: u32 version, string name of the specification, u32 its revision, u32 number of variables;
for each variable a string name, u8 rank, u32 per dimension, u8 type, u32 bytes, data; then u32 number of aliases, each
with two strings. A string is a u16 length and that many bytes, the last of them zero. A variable `x` in int8 or int16
has its factors in `x_scale`: one per row, or one for all. (`ctranslate2/specs/model_spec.py`, `ModelSpec._serialize`.)
"""

import math
import re
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unichoir.errors import CheckpointError
from unichoir.formats.whisper.weights import WhisperModel, build_whisper

VERSION = 6
SPECIFICATION = "WhisperSpec"
REVISION = 3

# Types by their number in the file.
_TYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
_MAX_RANK = 8
_GELU = 3

_PARTS = (
    ("encoder/layer_norm/", "encoder.ln_post."),
    ("decoder/layer_norm/", "decoder.ln."),
    ("/position_encodings/encodings", ".positional_embedding"),
    ("/embeddings/", ".token_embedding."),
    ("/self_attention/layer_norm/", ".attn_ln."),
    ("/attention/layer_norm/", ".cross_attn_ln."),
    ("/ffn/layer_norm/", ".mlp_ln."),
    ("/ffn/linear_0/", ".mlp.0."),
    ("/ffn/linear_1/", ".mlp.2."),
    ("/conv", ".conv"),
)
_ATTENTION = re.compile(r"(.*)/(self_attention|attention)/linear_(\d)/(weight|bias)")
# The linear layers of attention by number; layers with the same input are stacked.
_LINEARS = {
    ("self_attention", "0"): ("query", "key", "value"),
    ("self_attention", "1"): ("out",),
    ("attention", "0"): ("query",),
    ("attention", "1"): ("key", "value"),
    ("attention", "2"): ("out",),
}


def read_ctranslate2(path: Path) -> WhisperModel:
    """Read a `model.bin` in float32, float16, bfloat16, int16 or int8.

    Memory use is bounded by the file. Raises CheckpointError for a truncated file, another version or specification,
    and a model that isn't Whisper.
    """
    variables = _read_variables(path)
    for name, expected in (("pre_norm", 1), ("activation", _GELU), ("scale_embeddings", 0)):
        found = variables.get(f"decoder/{name}")
        if found is not None and (found.dim() or found.item() != expected):
            raise CheckpointError(f"{path}: decoder/{name} is not {expected}, as in every Whisper")
    weights: dict[str, Tensor] = {}
    for name, tensor in variables.items():
        if tensor.dim() and not name.endswith("_scale") and not name.startswith("decoder/projection/"):
            weights |= _openai_weights(name, _dequantize(name, tensor, variables, path), path)
    return build_whisper(weights, _heads(variables, path), path)


def _heads(variables: dict[str, Tensor], path: Path) -> tuple[int, int] | None:
    found = [variables.get(f"{part}/num_heads") for part in ("encoder", "decoder")]
    if found[0] is None or found[1] is None:
        return None
    for each in found:
        if each is None or each.dim() or each.is_floating_point():
            raise CheckpointError(f"{path}: num_heads is not a whole number")
    return int(found[0].item()), int(found[1].item())


def _dequantize(name: str, tensor: Tensor, variables: dict[str, Tensor], path: Path) -> Tensor:
    """Return a variable as floats: its integers divided by their scales."""
    if tensor.is_floating_point():
        return tensor
    scale = variables.get(f"{name}_scale")
    if scale is None or not scale.is_floating_point() or scale.dim() > 1 or scale.numel() not in (1, tensor.shape[0]):
        raise CheckpointError(f"{path}: '{name}' has integers, but '{name}_scale' is missing or does not fit")
    return tensor.float() / scale.float().reshape(-1, *[1] * (tensor.dim() - 1))


def _openai_weights(name: str, tensor: Tensor, path: Path) -> dict[str, Tensor]:
    """Return the weights of a variable: one, or several stacked ones."""
    name = re.sub(r"^(encoder|decoder)/layer_(\d+)", r"\1.blocks.\2", name)
    match = _ATTENTION.fullmatch(name)
    if match is not None:
        linears = _LINEARS.get((match[2], match[3]), ())
        if not linears or tensor.shape[0] % len(linears):
            raise CheckpointError(f"{path}: '{name}' of shape {tuple(tensor.shape)} is not part of a Whisper model")
        attention = "attn" if match[2] == "self_attention" else "cross_attn"
        names = [f"{match[1]}.{attention}.{linear}.{match[4]}" for linear in linears]
        return dict(zip(names, tensor.chunk(len(linears)), strict=True))
    for theirs, openais in _PARTS:
        name = name.replace(theirs, openais)
    ending = re.sub(r"gamma$", "weight", re.sub(r"beta$", "bias", name))
    return {ending.replace("/", "."): tensor}


def _read_variables(path: Path) -> dict[str, Tensor]:
    """Read the file's variables by name. Aliases are ignored: Whisper's only alias is the output layer."""
    try:
        if path.stat().st_size == 0:
            raise CheckpointError(f"{path}: is empty")
        reader = _Reader(np.memmap(path, dtype=np.uint8, mode="r"), path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    version = reader.number("<I", "the version")
    if version != VERSION:
        raise CheckpointError(f"{path}: not a CTranslate2 model of format version {VERSION} (found {version})")
    name = reader.string("the name of the specification")
    if name != SPECIFICATION:
        raise CheckpointError(f"{path}: a CTranslate2 model of '{name}', expected '{SPECIFICATION}'")
    revision = reader.number("<I", "the revision")
    if revision != REVISION:
        raise CheckpointError(f"{path}: revision {revision} of {SPECIFICATION}, only {REVISION} can be read")
    variables: dict[str, Tensor] = {}
    for index in range(reader.number("<I", "the number of variables")):
        name = reader.string(f"the name of variable {index}")
        if name in variables:
            raise CheckpointError(f"{path}: variable '{name}' occurs twice")
        variables[name] = reader.tensor(name)
    for index in range(reader.number("<I", "the number of aliases")):
        reader.string(f"the name of alias {index}")
        reader.string(f"the target of alias {index}")
    reader.end()
    return variables


class _Reader:
    """Reads values from the bytes of a file, never past its end."""

    def __init__(self, data: np.ndarray[tuple[int], np.dtype[np.uint8]], path: Path) -> None:
        self._data = data
        self._path = path
        self._at = 0

    def number(self, form: str, what: str) -> int:
        """Read an integer in a `struct` format."""
        value: int = struct.unpack(form, self._take(struct.calcsize(form), what).tobytes())[0]
        return value

    def string(self, what: str) -> str:
        """Read a string without its final zero byte."""
        data = self._take(self.number("<H", what), what).tobytes()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            raise CheckpointError(f"{self._path}: {what} is not text") from None
        if not text.endswith("\0") or "\0" in text[:-1]:
            raise CheckpointError(f"{self._path}: {what} does not end where its length says")
        return text[:-1]

    def tensor(self, name: str) -> Tensor:
        """Read the shape, type and values of a variable."""
        what = f"variable '{name}'"
        rank = self.number("<B", what)
        if rank > _MAX_RANK:
            raise CheckpointError(f"{self._path}: {what} has {rank} dimensions")
        shape = [self.number("<I", what) for _ in range(rank)]
        kind = self.number("<B", what)
        if kind >= len(_TYPES):
            raise CheckpointError(f"{self._path}: {what} is of the unknown type {kind}")
        size = self.number("<I", what)
        if size != math.prod(shape) * _TYPES[kind].itemsize:
            raise CheckpointError(f"{self._path}: {what} of shape {tuple(shape)} has {size} bytes")
        # A copy, because the data need not be aligned in the file, and the file may change.
        data = self._take(size, what).copy()
        return (
            torch.from_numpy(data).view(_TYPES[kind]).reshape(shape) if size else torch.empty(shape, dtype=_TYPES[kind])
        )

    def end(self) -> None:
        """Raise CheckpointError if data follows."""
        if self._at != len(self._data):
            raise CheckpointError(f"{self._path}: {len(self._data) - self._at} bytes follow the model")

    def _take(self, size: int, what: str) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        if size > len(self._data) - self._at:
            raise CheckpointError(f"{self._path}: truncated: it ends within {what}")
        self._at += size
        return self._data[self._at - size : self._at]
