"""The check after every export finds each part that is wrong."""

import copy

import numpy as np
import pytest
import torch

from unichoir.audio.fbank import FbankConfig
from unichoir.engine.torch_backend import TorchBackend
from unichoir.errors import CheckpointError
from unichoir.export.parity import check_parity
from unichoir.formats.wenet.checkpoint import load_wenet


@pytest.fixture
def model(fixtures):
    return load_wenet(fixtures / "wenet_moe_tiny").model


def test_equal_engines(model) -> None:
    found = check_parity(TorchBackend(model), TorchBackend(copy.deepcopy(model)), FbankConfig(), streaming=True)
    assert found == dict.fromkeys(("encoder", "streaming encoder", "CTC", "decoder", "reverse decoder"), 0.0)


@pytest.mark.parametrize(
    ("weight", "part"),
    [
        ("encoder.blocks.1.conv_module.depthwise_conv.bias", "encoder"),
        ("ctc.ctc_lo.bias", "CTC"),
        ("left_decoder.output_layer.bias", "decoder"),
        ("right_decoder.blocks.0.norm1.weight", "reverse decoder"),
    ],
)
@pytest.mark.parametrize("value", [0.05, float("nan")])
def test_a_wrong_weight_is_found(model, weight: str, part: str, value: float) -> None:
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        dict(wrong.named_parameters())[weight][0] += value
    with pytest.raises(CheckpointError, match=f"exported {part} differs"):
        check_parity(TorchBackend(model), TorchBackend(wrong), FbankConfig(), streaming=True)


class Forgetful(TorchBackend):
    """Correct for whole utterances; in streaming it loses one frame of its left context."""

    def encode_chunk(self, feats, feats_lengths, state, num_left_frames):
        return super().encode_chunk(feats, feats_lengths, state, max(num_left_frames - 1, -1))


def test_a_wrong_state_is_found(model) -> None:
    with pytest.raises(CheckpointError, match="exported streaming encoder differs"):
        check_parity(TorchBackend(model), Forgetful(model), FbankConfig(), streaming=True)


class OneWrongChoice(TorchBackend):
    """Wrong in a single call, as if a router broke a tie differently."""

    calls = 0

    def encode_chunk(self, feats, feats_lengths, state, num_left_frames):
        encoder_out, lens, state = super().encode_chunk(feats, feats_lengths, state, num_left_frames)
        self.calls += 1
        return encoder_out + np.float32(self.calls == 1), lens, state


def test_a_tie_broken_otherwise_is_no_mistake(model) -> None:
    found = check_parity(TorchBackend(model), OneWrongChoice(model), FbankConfig(), streaming=True)
    assert found["encoder"] == 0.0
