"""Time the encoder with a wide and a narrow convolutional front end, for docs/results/cpu.md.

    python experiments/front.py [CONFIG]

The two convolutions of the front end process half and a quarter of the input frames, but at many frequency positions
each. Both encoders run in PyTorch in fp32 on 10 s of random features with two threads, alternating. Prints a Markdown
table.
"""

import argparse
import dataclasses
import statistics
import time

import torch

from unichoir.network.config import NAMED_CONFIGS
from unichoir.network.encoder import Encoder

FRAMES, REPEATS = 998, 9


def main() -> None:
    """Measure the configuration with both front ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default="dense-225m", choices=sorted(NAMED_CONFIGS))
    config = NAMED_CONFIGS[parser.parse_args().config].encoder
    torch.set_num_threads(2)
    widths = [config.dim, config.subsampling_channels or config.dim]
    encoders = [Encoder(dataclasses.replace(config, subsampling_channels=width)).eval() for width in widths]
    feats, lengths = torch.randn(1, FRAMES, config.input_dim), torch.tensor([FRAMES])
    times: list[list[float]] = [[] for _ in widths]
    with torch.inference_mode():
        for _ in range(REPEATS + 1):
            for taken, encoder in zip(times, encoders, strict=True):
                began = time.perf_counter()
                encoder(feats, lengths)
                taken.append(time.perf_counter() - began)
    print("| channels in front | encoder, ms for 10 s |\n|---:|---:|")
    for width, taken in zip(widths, times, strict=True):
        print(f"| {width} | {1000 * statistics.median(taken[1:]):.0f} |")


if __name__ == "__main__":
    main()
