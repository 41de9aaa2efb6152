"""Micro-benchmarks of the machine's limits: memory bandwidth, and matrix products in int8 and fp32.

`run` calls them first; `roofline` compares the models' times with them.

The machine's own rate in a precision is that of the fastest way in `WAYS` whose sums are exact. A correct model can't
use a way that is fast and wrong: without VNNI, ONNX Runtime's product of uint8 and int8 saturates
(`unichoir.saturation`), and models use a slower one. A faster exact way raises the ceiling of all models, also of those
that don't use it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from unichoir import native

FRAMES, INPUTS, OUTPUTS = 1500, 640, 2560
"""The shape of the measured matrix product: about one layer of moe-1b on a minute of speech."""
READ_BYTES = 1 << 30
_REPEATS = 15

Product = Callable[[], NDArray[Any]]
"""Computes the product of frames (N, K) and weights (K, M) that it was made with: (N, M)."""
Way = Callable[[NDArray[np.uint8], NDArray[np.int8], int], Product]
"""A way to multiply: makes the product of frames (N, K) and weights (K, M) with so many threads."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How fast one way to multiply is."""

    way: str
    per_second: float
    """Multiply-accumulates per second."""
    exact: bool
    """Whether all sums of products of bytes are exact, also the largest."""


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """The machine's limits; each is the best of several runs."""

    bandwidth: float
    """Bytes read from memory per second."""
    rates: Mapping[str, Sequence[Rate]]
    """All ways to multiply, by precision; at least one of each is exact."""

    def product(self, precision: str) -> Rate:
        """Return the fastest exact way, which is the limit of the precision."""
        return max((rate for rate in self.rates[precision] if rate.exact), key=lambda rate: rate.per_second)


@dataclass(frozen=True, kw_only=True)
class CeilingsWorker:
    """Measures the limits in a separate process, which frees its memory when it ends."""

    threads: int

    def run(self) -> Ceilings:
        """Measure all limits; takes some seconds."""
        rates = {
            precision: tuple(
                measure(name, way, self.threads) for name, way in ways.items() if name != KERNELS or native.library()
            )
            for precision, ways in WAYS.items()
        }
        return Ceilings(bandwidth=READ_BYTES / _best_time(_reader(self.threads)), rates=rates)


def measure(name: str, way: Way, threads: int) -> Rate:
    """Measure one way to multiply, and compare its product with that of float64, which represents all sums exactly."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (FRAMES, INPUTS), dtype=np.uint8, endpoint=True)
    frames[:, 0] = 255
    weights = rng.integers(-127, 127, (INPUTS, OUTPUTS), dtype=np.int8, endpoint=True)
    product = way(frames, weights, threads)
    exact = np.array_equal(product(), frames.astype(np.float64) @ weights.astype(np.float64))
    return Rate(way=name, per_second=FRAMES * INPUTS * OUTPUTS / _best_time(product), exact=exact)


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


def _matmul(frames: NDArray[np.uint8], weights: NDArray[np.int8], threads: int) -> Product:
    return _node("MatMul", frames.astype(np.float32), weights.astype(np.float32), np.float32, threads)


def _torch_matmul(frames: NDArray[np.uint8], weights: NDArray[np.int8], threads: int) -> Product:
    import torch

    torch.set_num_threads(threads)
    x, w = (torch.from_numpy(each.astype(np.float32)) for each in (frames, weights))
    return lambda: (x @ w).numpy()


def _matmul_integer(
    frames: NDArray[np.uint8], weights: NDArray[np.int8], threads: int, *, quant_precision: str
) -> Product:
    return _node("MatMulInteger", frames, weights, np.int32, threads, {"session.x64quantprecision": quant_precision})


def _kernels(frames: NDArray[np.uint8], weights: NDArray[np.int8], threads: int) -> Product:
    """The C++ kernels also quantise the frames: by 1, since the largest value of each is 255."""
    ones, zeros = np.ones(weights.shape[1], np.float32), np.zeros(weights.shape[1], np.float32)
    return _node("Linear_relu", frames.astype(np.float32), weights, np.float32, threads, more=(ones, zeros))


def _node(
    operator: str,
    frames: NDArray[Any],
    weights: NDArray[Any],
    result: DTypeLike,
    threads: int,
    settings: Mapping[str, str] | None = None,
    more: Sequence[NDArray[Any]] = (),
) -> Product:
    """Return an operator with constant weights, and more constants if it is one of the C++ kernels.

    settings: entries of the session's configuration.
    """
    import onnxruntime
    from onnx import helper, numpy_helper

    from unichoir.export.functions import DOMAIN

    kinds = [helper.np_dtype_to_tensor_dtype(np.dtype(each)) for each in (frames.dtype, result)]
    constants = dict(zip(("weights", "scale", "bias"), (weights, *more), strict=False))
    graph = helper.make_graph(
        [helper.make_node(operator, ["frames", *constants], ["y"], domain=DOMAIN if more else "")],
        "product",
        [helper.make_tensor_value_info("frames", kinds[0], frames.shape)],
        [helper.make_tensor_value_info("y", kinds[1], [len(frames), weights.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    for name, value in (settings or {}).items():
        options.add_session_config_entry(name, value)
    if more:
        options.register_custom_ops_library(str(native.library()))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"frames": frames})[0]


KERNELS = "unichoir's kernels"
WAYS: Mapping[str, Mapping[str, Way]] = {
    "fp32": {"ONNX Runtime": _matmul, "PyTorch": _torch_matmul},
    "int8": {
        "ONNX Runtime": partial(_matmul_integer, quant_precision="0"),
        "ONNX Runtime, x64quantprecision": partial(_matmul_integer, quant_precision="1"),
        KERNELS: _kernels,
    },
}
"""The ways to multiply that are known, by precision and name. The fastest exact one counts."""
