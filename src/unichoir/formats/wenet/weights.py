"""Translation of WeNet's weights (`final.pt`, `global_cmvn`) to our names and back, without rounding."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unichoir.bundle.replacing import replace_text
from unichoir.errors import CheckpointError
from unichoir.network.asr_model import AsrModel
from unichoir.network.config import EncoderConfig, ModelConfig

WEIGHTS_FILE = "final.pt"
CMVN_FILE = "global_cmvn"
VARIANCE_FLOOR = 1e-20
CMVN_WEIGHTS = ("encoder.global_cmvn.mean", "encoder.global_cmvn.istd")
_UNUSED = re.compile(r"\.pe$|\.concat_linear\d?\.(weight|bias)$")
"""Tables of positions, and a layer for `concat_after: true` that older releases of WeNet also saved without it."""


def read_wenet_weights(directory: Path, conf: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read the state of a WeNet checkpoint under WeNet's names, floats as float32.

    float16 and bfloat16 are widened to float32 without loss. Tables of positions and unused layers are left out, and so
    are statistics if the model doesn't normalise its features. If it does, they come from the state or, if it has none,
    from the file.
    Raises CheckpointError if the state can't be read or would be rounded.
    """
    path = directory / WEIGHTS_FILE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:  # torch.load raises many types for a damaged file
        raise CheckpointError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise CheckpointError(f"{path}: not the state of a model (tensors by name)")
    weights = {name: _as_float32(name, tensor, path) for name, tensor in state.items() if not _UNUSED.search(name)}
    if not is_normalised(conf):
        # In this case WeNet doesn't build a normalisation, and ignores its weights.
        return {name: tensor for name, tensor in weights.items() if name not in CMVN_WEIGHTS}
    return weights if CMVN_WEIGHTS[0] in weights else weights | _read_cmvn(directory, conf)


def _as_float32(name: str, tensor: Tensor, path: Path) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    single = tensor.float()
    if tensor.dtype == torch.float64 and not torch.equal(single.double(), tensor):
        raise CheckpointError(f"{path}: weight '{name}' is float64 and would be rounded to float32")
    return single


def is_normalised(conf: Mapping[str, Any]) -> bool:
    """Return whether features are normalised (`cmvn`; before 2023 `cmvn_file` at the top level)."""
    return conf.get("cmvn") is not None or conf.get("cmvn_file") is not None


def translate_weights(
    weights: Mapping[str, Tensor], model: AsrModel, path: Path, normalised: bool
) -> dict[str, Tensor]:
    """Translate WeNet's names (separate experts, pointwise convolutions as Conv1d) to ours. Other names are kept.

    normalised: False keeps the model's own normalisation, which is the identity.
    """
    left = _without_positions(weights) if model.config.encoder.position == "none" else dict(weights)
    if not normalised:
        left |= dict(zip(CMVN_WEIGHTS, (model.encoder.cmvn_mean, model.encoder.cmvn_istd), strict=True))
    result: dict[str, Tensor] = {}
    for name, expected in model.state_dict().items():
        names = _wenet_names(name, expected, model.config)
        missing = [each for each in names if each not in left]
        if missing:
            raise CheckpointError(f"{path}: weight '{missing[0]}' is missing")
        tensors = [left.pop(each) for each in names]
        shapes = {tuple(each.shape) for each in tensors}
        if len(shapes) > 1:
            raise CheckpointError(f"{path}: weights '{names[0]}' and those of the other experts have different shapes")
        tensor = torch.stack(tensors) if ".experts." in name else tensors[0]
        result[name] = tensor.squeeze(2) if ".pointwise_conv" in name and tensor.dim() == 3 else tensor
    return result | left


def wenet_weights(model: AsrModel) -> dict[str, Tensor]:
    """Return the model's weights with WeNet's names and shapes, the content of `final.pt`."""
    result: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        names = _wenet_names(name, tensor, model.config)
        tensors = tensor.unbind(0) if ".experts." in name else [tensor]
        if re.search(r"\.pointwise_conv\d\.weight$", name):
            tensors = [tensor.unsqueeze(2)]
        # A view of a stack would be saved with the complete stack.
        result |= {each: part.clone().contiguous() for each, part in zip(names, tensors, strict=True)}
    if is_identity(model):
        result = {name: tensor for name, tensor in result.items() if name not in CMVN_WEIGHTS}
    return result


def is_identity(model: AsrModel) -> bool:
    """Return whether the model uses features unchanged: WeNet's `cmvn: null`."""
    mean, istd = model.encoder.cmvn_mean, model.encoder.cmvn_istd
    return torch.equal(mean, torch.zeros_like(mean)) and torch.equal(istd, torch.ones_like(istd))


def _without_positions(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a model without positions (`no_pos`) for attention that has no weights for positions.

    WeNet's `rel_selfattn` then multiplies its map of positions by 0. Of its two biases, one only matters there, and the
    other one is added to every query.
    """
    left = {name: tensor for name, tensor in weights.items() if not re.search(r"\.(linear_pos\.|pos_bias_v$)", name)}
    for name in [each for each in left if each.endswith(".pos_bias_u")]:
        bias, query = left.pop(name).flatten(), f"{name.removesuffix('pos_bias_u')}linear_q.bias"
        if query in left and left[query].shape == bias.shape:
            left[query] = left[query] + bias
    return left


def _wenet_names(name: str, tensor: Tensor, config: ModelConfig) -> list[str]:
    """Return WeNet's names for a weight of ours: one name, or one per expert for a stack of experts."""
    theirs = _wenet_name(name, config)
    if ".experts." not in name:
        return [theirs]
    stem, _, part = theirs.rpartition(".experts.")
    kind, layer = part.split("_")
    return [f"{stem}.experts.{e}.w_{layer}.{'weight' if kind == 'w' else 'bias'}" for e in range(tensor.shape[0])]


def _wenet_name(name: str, config: ModelConfig) -> str:
    """Return WeNet's name for a weight of ours (for a stack of experts, the common stem)."""
    for ours, theirs in (
        ("encoder.cmvn_", "encoder.global_cmvn."),
        *((f"encoder.subsampling.conv_{number}.", f"encoder.embed.conv.{2 * (number - 1)}.") for number in (1, 2, 3)),
        ("encoder.subsampling.out.", f"{front_output(config.encoder)}."),
        ("encoder.blocks.", "encoder.encoders."),
        ("left_decoder.", "decoder.left_decoder." if config.decoder.num_reverse_blocks else "decoder."),
        ("right_decoder.", "decoder.right_decoder."),
    ):
        if name.startswith(ours):
            name = theirs + name[len(ours) :]
            break
    if config.encoder.block == "transformer":
        name = name.replace(".norm_mha.", ".norm1.").replace(".norm_ff.", ".norm2.")
    return (
        name.replace("decoder.blocks.", "decoder.decoders.")
        .replace("decoder.embedding.", "decoder.embed.0.")
        .replace(".router.gate.", ".gate.")
    )


def front_output(config: EncoderConfig) -> str:
    """Return WeNet's name for the linear layer of a conv2d front end."""
    return "encoder.embed.out.0" if config.subsampling == 4 else "encoder.embed.linear"


def _read_cmvn(directory: Path, conf: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read the normalisation from `global_cmvn` (JSON or Kaldi text), for checkpoints whose state has none."""
    cmvn_conf = conf.get("cmvn_conf") or conf
    path = directory / Path(cmvn_conf.get("cmvn_file") or CMVN_FILE).name
    try:
        text = path.read_text(encoding="utf-8")
        if cmvn_conf.get("is_json_cmvn", True):
            stats = json.loads(text)
            sums, squares, count = stats["mean_stat"], stats["var_stat"], stats["frame_num"]
        else:
            numbers = [float(word) for word in text.replace("[", " ").replace("]", " ").split()]
            half = len(numbers) // 2
            sums, squares, count = numbers[: half - 1], numbers[half : 2 * half - 1], numbers[half - 1]
        mean = [value / count for value in sums]
        istd = [1 / math.sqrt(max(s / count - m * m, VARIANCE_FLOOR)) for s, m in zip(squares, mean, strict=True)]
    except (OSError, ValueError, KeyError, TypeError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: no usable normalisation statistics ({error})") from None
    return dict(zip(CMVN_WEIGHTS, (torch.tensor(mean), torch.tensor(istd)), strict=True))


def write_cmvn(model: AsrModel, path: Path) -> None:
    """Write the model's normalisation as the statistics of one frame, in JSON.

    WeNet opens the file before it takes the exact values from the state. Raises CheckpointError for a scale that no
    statistics have.
    """
    mean, istd = (each.double() for each in (model.encoder.cmvn_mean, model.encoder.cmvn_istd))
    if not (torch.isfinite(mean).all() and torch.isfinite(istd).all() and (istd > 0).all()):
        raise CheckpointError("weight 'encoder.cmvn_istd': statistics need a scale above 0 for every bin")
    stats = {"mean_stat": mean.tolist(), "var_stat": (istd**-2 + mean**2).tolist(), "frame_num": 1}
    replace_text(path, json.dumps(stats) + "\n")
