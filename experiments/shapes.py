"""Compare shapes of 225M parameters, dense and with experts (docs/results/cpu.md, "The shape of 225M parameters").

python experiments/shapes.py [OPTIONS OF unichoir benchmark]
"""

import sys

from unichoir.cli import main
from unichoir.network.config import NAMED_CONFIGS, DecoderConfig, EncoderConfig, FeedForwardConfig, ModelConfig

SHAPES = ((11, 768, 12, 2752, 128), (15, 704, 11, 2304, 192), (21, 640, 10, 1920, 128))
"""Blocks, width, heads, hidden units of a feed-forward layer, channels of the front end."""


def shape(blocks: int, dim: int, heads: int, hidden: int, channels: int, experts: int) -> ModelConfig:
    """Return a configuration of this shape, with a vocabulary of 8,000 and decoders of three blocks."""
    feed_forward = FeedForwardConfig(hidden_dim=hidden, num_experts=experts)
    encoder = EncoderConfig(
        dim=dim, num_blocks=blocks, num_heads=heads, feed_forward=feed_forward, subsampling_channels=channels
    )
    decoder = DecoderConfig(
        num_heads=heads, feed_forward=FeedForwardConfig(hidden_dim=hidden, num_experts=experts, activation="relu")
    )
    return ModelConfig(vocab_size=8000, encoder=encoder, decoder=decoder)


for each in SHAPES:  # also in the processes that the benchmark starts
    for experts in (0, 8):
        NAMED_CONFIGS[f"{each[0]}x{each[1]}-{experts}"] = shape(*each, experts)

if __name__ == "__main__":
    names = ",".join(f"{blocks}x{dim}-{experts}" for blocks, dim, *_ in SHAPES for experts in (0, 8))
    usual = ["--engine", "onnx", "--precision", "int8", "--seconds", "10", "--batch", "1", "--streams", "1"]
    sys.argv = ["unichoir", "benchmark", "--configs", names, *usual, *sys.argv[1:]]
    main()
