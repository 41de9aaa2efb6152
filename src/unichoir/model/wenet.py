"""WeNet checkpoint directories (`train.yaml`, `final.pt`, `units.txt`, `global_cmvn`) as our models.

Every key of the configuration is either translated, or known to have no influence on inference, or refused by name;
every weight is used exactly once.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unichoir.errors import CheckpointError, ConfigError
from unichoir.model.asr_model import AsrModel
from unichoir.model.checkpoint import load_weights, read_yaml
from unichoir.model.config import DecoderConfig, EncoderConfig, FeedForwardConfig, ModelConfig

VARIANCE_FLOOR = 1e-20


@dataclass(frozen=True)
class WenetModel:
    """A loaded WeNet checkpoint: the model and the settings of its filterbank (num_mel_bins, frame_length, ...)."""

    model: AsrModel
    fbank_conf: dict[str, Any]


def load_wenet(directory: Path) -> WenetModel:
    """Load a U2++ Conformer, dense or MoE.

    Raises ConfigError for a configuration key or value that cannot be represented, CheckpointError for a weight that
    is missing or left over; both name it.
    """
    path = directory / "train.yaml"
    conf = read_yaml(path)
    config = translate_config(conf, path)
    model = AsrModel(config)
    checkpoint = directory / "final.pt"
    try:
        weights = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{checkpoint}: no such file") from None
    except Exception as error:  # torch.load raises many types for a damaged file
        raise CheckpointError(f"{checkpoint}: cannot be read ({' '.join(str(error).split())[:200]})") from None
    weights = {name: tensor.float() for name, tensor in weights.items() if not name.endswith(".pe")}
    if "encoder.global_cmvn.mean" not in weights and conf.get("cmvn") is not None:
        weights |= _read_cmvn(directory, conf)
    load_weights(model, translate_weights(weights, model, checkpoint), checkpoint)
    return WenetModel(model.eval(), dict(conf.get("dataset_conf", {}).get("fbank_conf", {})))


# Keys that decide how WeNet trains, logs or stores, and nothing about what a trained model computes.
_TRAINING_KEYS = {
    "accum_grad", "batch_conf", "dataset", "dtype", "grad_clip", "init_bias", "log_interval", "max_epoch", "optim",
    "optim_conf", "save_interval", "save_states", "scheduler", "scheduler_conf", "tokenizer", "tokenizer_conf",
    "train_engine", "use_amp", "model_dir", "vocab_size", "output_dim", "input_dim", "dataset_conf", "cmvn",
    "cmvn_conf",
}  # fmt: skip


class _Section:
    """One mapping of train.yaml: keys are taken one by one, and what is left at the end is refused."""

    def __init__(self, content: Mapping[str, Any], where: str) -> None:
        self.left, self.where = dict(content), where

    def take(self, key: str, default: Any = None) -> Any:
        return self.left.pop(key, default)

    def require(self, key: str, *allowed: Any) -> None:
        """Take a key whose only representable values are `allowed`, the first being WeNet's default."""
        value = self.take(key, allowed[0])
        if value not in allowed:
            known = ", ".join(map(repr, allowed))
            raise ConfigError(f"{self.where}: {key}: {value!r} cannot be represented (only {known})")

    def close(self) -> None:
        if self.left:
            raise ConfigError(f"{self.where}: unknown key '{next(iter(self.left))}'")


def translate_config(conf: Mapping[str, Any], path: Path) -> ModelConfig:
    """WeNet's train.yaml as a ModelConfig; ConfigError names what is unknown or cannot be represented."""
    top = _Section({key: value for key, value in conf.items() if key not in _TRAINING_KEYS}, str(path))
    top.require("model", "asr_model")
    top.require("encoder", "conformer")
    top.require("decoder", "bitransformer", "transformer")
    top.require("ctc", "ctc")
    ctc = _Section(top.take("ctc_conf", {}), f"{path}: ctc_conf")
    model = _Section(top.take("model_conf", {}), f"{path}: model_conf")
    special = (conf.get("tokenizer_conf") or {}).get("special_tokens") or {}
    vocab_size = int(conf["output_dim"])
    encoder, dynamic_left = _translate_encoder(top.take("encoder_conf", {}), int(conf["input_dim"]), path)
    decoder = _translate_decoder(top.take("decoder_conf", {}), conf.get("decoder") == "bitransformer", path)
    model.require("ignore_id", -1)
    config = ModelConfig(
        vocab_size=vocab_size,
        encoder=encoder,
        decoder=decoder,
        ctc_weight=float(model.take("ctc_weight", 0.5)),
        reverse_weight=float(model.take("reverse_weight", 0.0)),
        label_smoothing=float(model.take("lsm_weight", 0.0)),
        length_normalized_loss=bool(model.take("length_normalized_loss", False)),
        blank_id=int(ctc.take("ctc_blank_id", 0)),
        sos_id=int(special.get("<sos>", vocab_size - 1)),
        eos_id=int(special.get("<eos>", vocab_size - 1)),
        dynamic_left_chunks=dynamic_left,
    )
    for section in (ctc, model, top):
        section.close()
    return config


def _feed_forward(section: _Section, activation: str) -> FeedForwardConfig:
    experts = 0
    mlp_type = section.take("mlp_type", "position_wise_feed_forward")
    num_experts, top_k = section.take("n_expert", 8), section.take("n_expert_activated", 2)
    if mlp_type == "moe":
        experts = int(num_experts)
    elif mlp_type != "position_wise_feed_forward":
        raise ConfigError(f"{section.where}: mlp_type: {mlp_type!r} cannot be represented")
    return FeedForwardConfig(
        hidden_dim=int(section.take("linear_units", 2048)),
        num_experts=experts,
        top_k=int(top_k),
        bias=bool(section.take("mlp_bias", True)),
        activation="swish" if section.take("activation_type", activation) == "swish" else "relu",
    )


def _translate_encoder(content: Mapping[str, Any], input_dim: int, path: Path) -> tuple[EncoderConfig, bool]:
    section = _Section(content, f"{path}: encoder_conf")
    for key, *allowed in (
        ("input_layer", "conv2d"),
        ("pos_enc_layer_type", "rel_pos"),
        ("selfattention_layer_type", "rel_selfattn"),
        ("normalize_before", True),
        ("macaron_style", True),
        ("use_cnn_module", True),
        ("layer_norm_type", "layer_norm"),
        ("norm_eps", 1e-5),
        ("query_bias", True),
        ("key_bias", True),
        ("value_bias", True),
        ("conv_bias", True),
        ("gradient_checkpointing", False, True),
        ("use_dynamic_chunk", False, True),
        ("static_chunk_size", 0),
        ("use_sdpa", False, True),
        ("activation_type", "swish", "relu"),
    ):
        if key == "activation_type":
            if section.left.get(key, "swish") not in allowed:
                section.require(key, *allowed)
        else:
            section.require(key, *allowed)
    dynamic_left = bool(section.take("use_dynamic_left_chunk", False))
    section.take("positional_dropout_rate")
    causal = bool(section.take("causal", False))
    norm = section.take("cnn_module_norm", "batch_norm")
    if norm not in ("batch_norm", "layer_norm"):
        raise ConfigError(f"{section.where}: cnn_module_norm: {norm!r} cannot be represented")
    config = EncoderConfig(
        input_dim=input_dim,
        dim=int(section.take("output_size", 256)),
        num_blocks=int(section.take("num_blocks", 6)),
        num_heads=int(section.take("attention_heads", 4)),
        feed_forward=_feed_forward(section, "swish"),
        conv_kernel=int(section.take("cnn_module_kernel", 15)),
        conv_norm=norm,
        conv_causal=causal,
        position="absolute_key",
        dropout=float(section.take("dropout_rate", 0.1)),
        attention_dropout=float(section.take("attention_dropout_rate", 0.0)),
        hidden_dropout=float(content.get("dropout_rate", 0.1)),
    )
    section.close()
    return config, dynamic_left


def _translate_decoder(content: Mapping[str, Any], bidirectional: bool, path: Path) -> DecoderConfig:
    section = _Section(content, f"{path}: decoder_conf")
    for key, *allowed in (
        ("input_layer", "embed"),
        ("use_output_layer", True),
        ("normalize_before", True),
        ("src_attention", True),
        ("layer_norm_type", "layer_norm"),
        ("norm_eps", 1e-5),
        ("query_bias", True),
        ("key_bias", True),
        ("value_bias", True),
        ("tie_word_embedding", False),
        ("gradient_checkpointing", False, True),
        ("use_sdpa", False, True),
    ):
        section.require(key, *allowed)
    section.take("positional_dropout_rate")
    section.take("src_attention_dropout_rate")
    reverse_blocks = section.take("r_num_blocks", 0)
    config = DecoderConfig(
        num_blocks=int(section.take("num_blocks", 6)),
        num_reverse_blocks=int(reverse_blocks) if bidirectional else 0,
        num_heads=int(section.take("attention_heads", 4)),
        feed_forward=_feed_forward(section, "relu"),
        dropout=float(section.take("dropout_rate", 0.1)),
        attention_dropout=float(section.take("self_attention_dropout_rate", 0.0)),
        hidden_dropout=float(content.get("dropout_rate", 0.1)),
    )
    section.close()
    return config


def translate_weights(weights: Mapping[str, Tensor], model: AsrModel, path: Path) -> dict[str, Tensor]:
    """WeNet's names, experts one by one and pointwise convolutions as Conv1d, to ours. Names left over are kept."""
    left = dict(weights)
    result: dict[str, Tensor] = {}
    for name, expected in model.state_dict().items():
        source = _wenet_name(name, model.right_decoder is not None)
        if ".experts." in name:
            stem, _, part = source.rpartition(".experts.")
            kind, layer = part.split("_")
            kind = "weight" if kind == "w" else "bias"
            names = [f"{stem}.experts.{e}.w_{layer}.{kind}" for e in range(expected.shape[0])]
        else:
            names = [source]
        missing = [each for each in names if each not in left]
        if missing:
            raise CheckpointError(f"{path}: weight '{missing[0]}' is missing")
        tensors = [left.pop(each) for each in names]
        tensor = torch.stack(tensors) if ".experts." in name else tensors[0]
        result[name] = tensor.squeeze(2) if ".pointwise_conv" in name and tensor.dim() == 3 else tensor
    return result | left


def _wenet_name(name: str, bidirectional: bool) -> str:
    """The name in WeNet's state of a weight of ours (of a stack of experts: the common stem)."""
    for ours, theirs in (
        ("encoder.cmvn_", "encoder.global_cmvn."),
        ("encoder.subsampling.conv_1.", "encoder.embed.conv.0."),
        ("encoder.subsampling.conv_2.", "encoder.embed.conv.2."),
        ("encoder.subsampling.out.", "encoder.embed.out.0."),
        ("encoder.blocks.", "encoder.encoders."),
        ("left_decoder.", "decoder.left_decoder." if bidirectional else "decoder."),
        ("right_decoder.", "decoder.right_decoder."),
    ):
        if name.startswith(ours):
            name = theirs + name[len(ours) :]
            break
    return (
        name.replace("decoder.blocks.", "decoder.decoders.")
        .replace("decoder.embedding.", "decoder.embed.0.")
        .replace(".router.gate.", ".gate.")
    )


def _read_cmvn(directory: Path, conf: Mapping[str, Any]) -> dict[str, Tensor]:
    """The normalisation from `global_cmvn` (JSON or Kaldi text), for checkpoints that do not carry it."""
    cmvn_conf = conf.get("cmvn_conf") or {}
    path = directory / Path(cmvn_conf.get("cmvn_file", "global_cmvn")).name
    try:
        text = path.read_text(encoding="utf-8")
        if cmvn_conf.get("is_json_cmvn", True):
            stats = json.loads(text)
            sums, squares, count = stats["mean_stat"], stats["var_stat"], stats["frame_num"]
        else:
            numbers = [float(word) for word in text.replace("[", " ").replace("]", " ").split()]
            half = len(numbers) // 2
            sums, squares, count = numbers[: half - 1], numbers[half : 2 * half - 1], numbers[half - 1]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: no usable normalisation statistics ({error})") from None
    mean = [value / count for value in sums]
    istd = [
        1.0 / math.sqrt(max(square / count - m * m, VARIANCE_FLOOR)) for square, m in zip(squares, mean, strict=True)
    ]
    return {"encoder.global_cmvn.mean": torch.tensor(mean), "encoder.global_cmvn.istd": torch.tensor(istd)}
