"""Small models of every kind, each exported once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from unichoir.audio.fbank import FbankConfig
from unichoir.engine.onnx_backend import OnnxBackend
from unichoir.export.onnx import export_model
from unichoir.network.asr_model import AsrModel
from unichoir.network.config import DecoderConfig, EncoderConfig, FeedForwardConfig, ModelConfig
from unichoir.network.moe import MoE

VOCAB_SIZE = 11
MEL_BINS = 16


def small_model(
    *,
    reverse: bool = True,
    feed_forward: FeedForwardConfig,
    decoder: Mapping[str, object] | None = None,
    **encoder: object,
) -> AsrModel:
    """A model with every parameter and buffer random, so that none can be left out unnoticed.

    One block, as tracing takes seconds; tests/engine/test_onnx_backend.py has two, in the export of WeNet's model.
    """
    sizes = {"input_dim": MEL_BINS, "dim": 24, "num_heads": 2, "num_blocks": 1, "conv_kernel": 5}
    sizes |= {"subsampling_channels": 4, **encoder}
    config = ModelConfig(
        vocab_size=VOCAB_SIZE,
        encoder=EncoderConfig(feed_forward=feed_forward, **sizes),
        decoder=DecoderConfig(
            num_blocks=1, num_reverse_blocks=int(reverse), num_heads=2, feed_forward=feed_forward, **(decoder or {})
        ),
        reverse_weight=0.3 if reverse else 0.0,
    )
    torch.manual_seed(5)
    model = AsrModel(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    model.encoder.cmvn_mean.normal_(mean=8.0)
    model.encoder.cmvn_istd.uniform_(0.2, 0.4)
    return model


def build(name: str) -> AsrModel:
    if name in ("rotary_moe", "rotary_moe_int8"):
        return small_model(feed_forward=FeedForwardConfig(hidden_dim=20, num_experts=5, top_k=2))
    if name in ("whisper_moe", "whisper_moe_int8"):
        # Both tables of positions end before utterances and hypotheses do.
        return small_model(
            feed_forward=FeedForwardConfig(
                hidden_dim=12, num_experts=3, top_k=2, shared_hidden_dim=24, activation="gelu"
            ),
            decoder={"position": "learned", "num_positions": 12},
            front="conv1d",
            subsampling_channels=None,
            block="transformer",
            position="sinusoidal",
            num_positions=29,
            num_top_blocks=1,
            reverse=False,
        )
    if name == "options_int8":
        feed_forward = FeedForwardConfig(
            hidden_dim=20,
            num_experts=5,
            top_k=3,
            softmax_first=True,
            shared_hidden_dim=12,
            shared_router=True,
            balance_rate=0.1,
            load_loss_weight=0.1,
        )
        model = small_model(feed_forward=feed_forward, reverse=False)
        for module in model.modules():
            if isinstance(module, MoE):
                module.balance_bias.normal_(std=0.3)
        return model
    if name == "dense_batch_norm_int8":
        dense = FeedForwardConfig(hidden_dim=20)
        return small_model(feed_forward=dense, conv_norm="batch_norm", reverse=False)
    if name == "conv2d8_transformer":
        dense = FeedForwardConfig(hidden_dim=20, activation="relu")
        return small_model(feed_forward=dense, subsampling=8, block="transformer", position="absolute", reverse=False)
    if name == "top1_without_bias_float16":
        feed_forward = FeedForwardConfig(hidden_dim=20, num_experts=3, top_k=1, bias=False, activation="relu")
        model = small_model(feed_forward=feed_forward, position="absolute_key", reverse=False)
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() > 1 and not parameter_name.endswith("router.gate.weight"):
                parameter.data = parameter.data.half().float()
        return model
    assert name == "not_causal"
    feed_forward = FeedForwardConfig(hidden_dim=20)
    return small_model(feed_forward=feed_forward, conv_norm="batch_norm", conv_causal=False, reverse=False)


@dataclass
class Exported:
    """A model and its export."""

    model: AsrModel
    directory: Path
    backend: OnnxBackend


class Exports:
    """Exports by name, made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[str, Exported] = {}

    def __getitem__(self, name: str) -> Exported:
        if name not in self.made:
            model, directory = build(name), self.folder / name
            kind = name.rpartition("_")[2]
            quantize = kind if kind in ("float16", "int8") else None
            fbank = FbankConfig(num_mel_bins=MEL_BINS)
            # Which takes as long as all the rest, and is not needed for any operator of ours.
            with mock.patch.object(ExportedProgram, "run_decompositions", side_effect=AssertionError("traced twice")):
                export_model(model, fbank, units(self.folder), directory, quantize=quantize)
            self.made[name] = Exported(model, directory, OnnxBackend(directory, num_threads=1))
        return self.made[name]


def units(folder: Path) -> Path:
    """A folder with the vocabulary of the small models."""
    tokens = ["<blank>", "<unk>", "<sos/eos>", *"abcdefgh"]
    folder.joinpath("units.txt").write_text("".join(f"{token} {index}\n" for index, token in enumerate(tokens)))
    return folder


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory.mktemp("exports"))
