"""Configurations are read strictly, and named configurations have the sizes in their names."""

import dataclasses

import pytest
import torch

from unichoir.audio.fbank import FbankConfig
from unichoir.configuration import from_mapping, to_mapping
from unichoir.engine.backend import ModelInfo
from unichoir.errors import ConfigError
from unichoir.network.asr_model import AsrModel
from unichoir.network.config import NAMED_CONFIGS, DecoderConfig, EncoderConfig, FeedForwardConfig, ModelConfig


def num_parameters(config: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in AsrModel(config).parameters())


def test_the_sizes_of_the_comparison() -> None:
    """The paper compares 225M, a Mixture of Experts with 4.7 times as many, and a dense model of its size."""
    dense, moe, large = (num_parameters(NAMED_CONFIGS[name]) for name in ("dense-225m", "moe-1b", "dense-1b"))
    assert 224e6 <= dense <= 226e6
    assert 1040e6 <= moe <= 1070e6
    assert 4.65 <= moe / dense <= 4.75
    assert large == pytest.approx(moe, rel=0.02)


def test_experts_are_the_only_difference() -> None:
    """So that the numbers of the comparison say what experts are worth."""
    dense, moe = NAMED_CONFIGS["dense-225m"], NAMED_CONFIGS["moe-1b"]
    without = dataclasses.replace(moe.encoder.feed_forward, num_experts=0)
    assert dataclasses.replace(moe.encoder, feed_forward=without) == dense.encoder


def test_finer_experts_are_as_many_parameters() -> None:
    coarse, fine = (num_parameters(NAMED_CONFIGS[name]) for name in ("moe-1b", "moe-1b-fine"))
    assert fine == pytest.approx(coarse, rel=0.001)


@pytest.mark.parametrize("name", NAMED_CONFIGS)
def test_a_configuration_survives_the_way_to_disk_and_back(name: str) -> None:
    config = NAMED_CONFIGS[name]
    assert from_mapping(ModelConfig, to_mapping(config), "file") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": {"dims": 3}}, "model.yaml: encoder: unknown key 'dims'"),
        ({"encoder": {"dim": "3"}}, "model.yaml: encoder: dim: expected int, found '3'"),
        ({"encoder": {"dim": True}}, "model.yaml: encoder: dim: expected int, found True"),
        ({"encoder": {"position": "sideways"}}, "position: 'sideways' is not one of"),
        ({"encoder": {"subsampling": 5}}, "encoder: subsampling: 5 is not one of 4, 6, 8"),
        ({"encoder": {"subsampling": 6.0}}, "encoder: subsampling: 6.0 is not one of 4, 6, 8"),
        ({"encoder": {"subsampling": 8, "input_dim": 14}}, "encoder: input_dim 14 must be at least 15"),
        ({"encoder": {"subsampling": 8, "front": "conv1d"}}, "encoder: subsampling belongs to a conv2d front"),
        ({"encoder": {"feed_forward": {"num_experts": 2, "top_k": 3}}}, "top_k 3 must lie between"),
        ({"encoder": 5}, "encoder: expected a mapping"),
        ({"ctc_weight": 1.5}, "ctc_weight must lie between 0 and 1, found 1.5"),
        ({"chunk_probability": -0.1}, "chunk_probability must lie between 0 and 1, found -0.1"),
        ({"min_chunk_size": 0}, "min_chunk_size must lie between 1 and 25, found 0"),
        ({"min_chunk_size": 26}, "min_chunk_size must lie between 1 and 25, found 26"),
        ({"decoder": {"memory": "non_blank"}, "ctc_weight": 0}, "decoder.memory non_blank needs CTC"),
        ({"decoder": {"num_reverse_blocks": 0}}, "reverse_weight above 0 needs"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        from_mapping(ModelConfig, change, "model.yaml")
    assert message in str(raised.value)


def test_shapes_that_cannot_be_built_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of num_heads"):
        EncoderConfig(dim=10, num_heads=4)
    with pytest.raises(ConfigError, match="even head size"):
        EncoderConfig(dim=9, num_heads=3)
    with pytest.raises(ConfigError, match="must be odd"):
        EncoderConfig(conv_kernel=4, conv_causal=False)
    with pytest.raises(ConfigError, match="top_k"):
        FeedForwardConfig(num_experts=4, top_k=0)


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (EncoderConfig, "num_blocks", 10**9),
        (EncoderConfig, "num_blocks", -1),
        (EncoderConfig, "num_heads", 0),
        (EncoderConfig, "dim", 10**12),
        (EncoderConfig, "input_dim", 0),
        (EncoderConfig, "conv_kernel", 0),
        (EncoderConfig, "dropout", 1.0),
        (EncoderConfig, "dropout", float("nan")),
        (DecoderConfig, "num_blocks", 10**9),
        (DecoderConfig, "num_positions", 0),
        (FeedForwardConfig, "hidden_dim", 0),
        (FeedForwardConfig, "hidden_dim", 10**30),
        (ModelConfig, "blank_id", -1),
        (ModelConfig, "vocab_size", 10**9),
        (FbankConfig, "frame_shift_ms", 1e-9),
        (FbankConfig, "frame_length_ms", 1e9),
        (FbankConfig, "frame_length_ms", float("nan")),
        (FbankConfig, "sample_rate", 10**9),
        (FbankConfig, "num_mel_bins", 10**9),
        (FbankConfig, "lead_frames", 10**9),
        (ModelInfo, "blank_id", -1),
        (ModelInfo, "subsampling_rate", 0),
        (ModelInfo, "encoder_dim", 10**12),
        (ModelInfo, "ctc_weight", float("inf")),
    ],
)
def test_numbers_beyond_reason_are_refused_by_name(cls: type, name: str, value: float) -> None:
    needed = {"vocab_size": 10, "encoder_dim": 4, "sos_id": 2, "eos_id": 2} if cls is ModelInfo else {}
    with pytest.raises(ConfigError, match=rf"^a\.yaml: {name} .*{str(value)[:4]}") as raised:
        from_mapping(cls, {**needed, name: value}, "a.yaml")
    assert len(str(raised.value)) < 200


def test_what_is_shown_of_a_value_is_short() -> None:
    """As of a YAML file whose aliases make a list of ten lists of ten lists ..."""
    value: object = "x"
    for _ in range(30):
        value = [value] * 10
    with pytest.raises(ConfigError) as raised:
        from_mapping(EncoderConfig, {"dim": value}, "a.yaml")
    assert len(str(raised.value)) < 2000
