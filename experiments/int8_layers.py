"""Time the encoder of moe-1b in int8 with static scales, a scale per frame, and the C++ kernels (docs/results/cpu.md).

    python experiments/int8_layers.py [CONFIG]

Random weights, 10 s of noise, two threads, all variants in turn. With static scales the product of ONNX Runtime applies
scale and bias itself, and no pass over the frames looks for their peaks. The scale is a made-up constant, so only the
time means something. Prints a Markdown table of ms (median, quartiles).
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np

from unichoir import native
from unichoir.audio.fbank import FbankConfig
from unichoir.benchmark.calibrate import build_model
from unichoir.engine.encoding import encode_utterance
from unichoir.engine.onnx_backend import OnnxBackend
from unichoir.export import functions
from unichoir.export.onnx import write_graphs
from unichoir.network.config import NAMED_CONFIGS

THREADS, SECONDS, ROUNDS = 2, 10, 9
STATIC = "0.05"


@contextmanager
def static_scales() -> Iterator[None]:
    """Let the functions of int8 layers use one constant scale for all frames."""

    def quantize(x: str, codes: str, q: str, s: str) -> str:
        return f"""
        {s} = Constant <value = float {{{STATIC}}}> ()
        {q} = QuantizeLinear ({x}, {s}, zero_{codes})"""

    def product(q: str, s: str, codes: str, weight: str, scale: str, bias: str, y: str) -> str:
        return f"""
        static_{y} = Constant <value = float {{{STATIC}}}> ()
        {y} = com.microsoft.MatMulIntegerToFloat ({q}, {weight}, static_{y}, {scale}, zero_{codes}, , {bias})"""

    split = functions._experts

    def experts(num_experts: int, activation: str) -> str:
        """There are no scales of frames to sort or to split."""
        lines = split(num_experts, activation).splitlines()
        return "\n".join(each for each in lines if not each.strip().startswith(("s_1_0,", "s_2_0,", "s_1 = Gather")))

    patches = {"_quantize": quantize, "_product": product, "_experts": experts}
    with mock.patch.multiple(functions, **patches):
        yield


def main() -> None:
    """Export both ways, and time."""
    config = sys.argv[1] if len(sys.argv) > 1 else "moe-1b"
    fbank = FbankConfig()
    feats = np.random.default_rng(0).normal(size=(SECONDS * 100, fbank.num_mel_bins)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        backends = {}
        for name, kernels in [("a scale per frame", "0"), ("static scales", "0"), ("C++ kernels", "1")]:
            directory = Path(folder) / name
            if kernels == "0":
                directory.mkdir()
                with static_scales() if name == "static scales" else mock.patch.dict(os.environ):
                    write_graphs(build_model(NAMED_CONFIGS[config]), fbank, directory, "int8")
            else:
                directory = Path(folder) / "a scale per frame"
            with mock.patch.dict(os.environ, {native.ENVIRONMENT_VARIABLE: kernels}):
                backends[name] = OnnxBackend(directory, THREADS)
        times: dict[str, list[float]] = {name: [] for name in backends}
        for round_ in range(ROUNDS + 1):
            for name, backend in backends.items():
                start = time.perf_counter()
                encode_utterance(backend, feats[None], np.array([len(feats)]))
                if round_:
                    times[name].append(1e3 * (time.perf_counter() - start))
    print("| int8 layers | ms |\n| --- | ---: |")
    for name, each in times.items():
        first, median, third = statistics.quantiles(each, n=4)
        print(f"| {name} | {median:.0f} ({first:.0f} to {third:.0f}) |")


if __name__ == "__main__":
    main()
