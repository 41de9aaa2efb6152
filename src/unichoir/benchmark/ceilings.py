"""Micro-benchmarks of the machine's limits: memory bandwidth, and matrix products in int8 and fp32.

`run` calls them first; `roofline` compares the models' times with them.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FRAMES, INPUTS, OUTPUTS = 1500, 640, 2560
"""The shape of the measured matrix product: about one layer of moe-1b on a minute of speech."""
READ_BYTES = 1 << 30
_REPEATS = 7


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """The machine's limits; each is the best of several runs."""

    bandwidth: float
    """Bytes read from memory per second."""
    products: Mapping[str, float]
    """Multiply-accumulates per second, by precision."""


@dataclass(frozen=True, kw_only=True)
class CeilingsWorker:
    """Measures the limits in a separate process, which frees its memory when it ends."""

    threads: int

    def run(self) -> Ceilings:
        """Measure all limits; takes some seconds."""
        return Ceilings(
            bandwidth=READ_BYTES / _best_time(_reader(self.threads)),
            products={
                precision: FRAMES * INPUTS * OUTPUTS / _best_time(_product(precision, self.threads))
                for precision in ("fp32", "int8")
            },
        )


def _best_time(function: Callable[[], object]) -> float:
    times = []
    for _ in range(1 + _REPEATS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _reader(threads: int) -> Callable[[], object]:
    """Return a function that reads an array far larger than any cache, split over the threads."""
    values = np.ones(READ_BYTES // 8, dtype=np.int64)
    parts = np.array_split(values, threads)
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(np.bitwise_or.reduce, parts))  # numpy releases the GIL


def _product(precision: str, threads: int) -> Callable[[], object]:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    frames: NDArray[Any]
    weight: NDArray[Any]
    if precision == "int8":
        frames = rng.integers(0, 255, (FRAMES, INPUTS), dtype=np.uint8)
        weight = rng.integers(-127, 127, (INPUTS, OUTPUTS), dtype=np.int8)
        operator, kinds = "MatMulInteger", (TensorProto.UINT8, TensorProto.INT32)
    else:
        frames = rng.standard_normal((FRAMES, INPUTS), dtype=np.float32)
        weight = rng.standard_normal((INPUTS, OUTPUTS), dtype=np.float32)
        operator, kinds = "MatMul", (TensorProto.FLOAT, TensorProto.FLOAT)
    graph = helper.make_graph(
        [helper.make_node(operator, ["frames", "weight"], ["y"])],
        "product",
        [helper.make_tensor_value_info("frames", kinds[0], frames.shape)],
        [helper.make_tensor_value_info("y", kinds[1], [FRAMES, OUTPUTS])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"frames": frames})
