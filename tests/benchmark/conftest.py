"""Configurations that are small enough to be prepared in seconds."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from unichoir.audio.fbank import FbankConfig, compute_fbank
from unichoir.benchmark.audio import speech_like_noise
from unichoir.benchmark.plan import Candidate
from unichoir.network.config import DecoderConfig, EncoderConfig, FeedForwardConfig, ModelConfig

RATE = 16000


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Candidate]:
    """Makes a configuration with so many experts; without a second decoder, which shortens the export."""

    def make(experts: int = 4, reverse_blocks: int = 1, **encoder: object) -> Candidate:
        sizes = {"dim": 32, "num_blocks": 1, "num_heads": 2, "conv_kernel": 7, "subsampling_channels": 8, **encoder}
        model = ModelConfig(
            vocab_size=50,
            encoder=EncoderConfig(feed_forward=FeedForwardConfig(hidden_dim=48, num_experts=experts), **sizes),
            decoder=DecoderConfig(
                num_blocks=1,
                num_reverse_blocks=reverse_blocks,
                num_heads=2,
                feed_forward=FeedForwardConfig(hidden_dim=48, num_experts=experts, activation="relu"),
            ),
            reverse_weight=0.3 if reverse_blocks else 0.0,
        )
        return Candidate(name="tiny", model=model)

    return make


@pytest.fixture(scope="session")
def samples() -> NDArray[np.float32]:
    """Ten seconds of the noise that is used without audio."""
    return speech_like_noise(10 * RATE, RATE)


@pytest.fixture(scope="session")
def feats(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The features of `samples`."""
    return compute_fbank(samples, FbankConfig())
