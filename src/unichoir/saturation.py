"""Detection of processors whose int8 products are inexact.

Older x86 processors add pairs of products of uint8 and int8 in 16 bits, where large ones saturate. VNNI adds them in 32
bits. ONNX Runtime can make weights unsigned when it loads them, whose products are exact everywhere. But these take
more than twice the time, and the setting also affects processors that don't need it (AMD's Zen 4). Therefore this
module tests the processor.
"""

from functools import cache
from importlib.resources import files

import numpy as np
import onnxruntime

ROWS = (1, 16)
"""ONNX Runtime uses different code for a single row."""
LARGEST = (255, 127)
"""The left factors, and the weights in the graph."""


@cache
def saturates() -> bool:
    """Return whether ONNX Runtime's products of uint8 and int8 can be wrong on this processor."""
    graph = files("unichoir").joinpath("saturation.onnx").read_bytes()  # (M, 64) times 64 x 16 weights of 127
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    depth, exact = session.get_inputs()[0].shape[1], LARGEST[0] * LARGEST[1]
    rows = [np.full((count, depth), LARGEST[0], np.uint8) for count in ROWS]
    return any((session.run(None, {"x": each})[0] != depth * exact).any() for each in rows)
