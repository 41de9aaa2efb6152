"""Time the products of experts with few rows in fp32, int8 and int4, for docs/results/cpu.md.

    python experiments/expert_products.py

The graph has six layers of eight experts (640 to 2560 to 640, 26 million weights per layer, about as many as moe-1b
has), more than caches hold. Each expert gets the same number of rows, on ONNX Runtime with two threads. Prints a
Markdown table of ms per layer.
"""

import statistics
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from unichoir.engine.onnx_backend import _session_options

DIM, HIDDEN, EXPERTS, LAYERS, BLOCK = 640, 2560, 8, 6, 128
ROWS = (1, 4, 8, 16, 62)


def make_session(kind: str) -> onnxruntime.InferenceSession:
    """Return a session with two products per expert, all independent. kind: fp32, int8, or int4 (blocks of 128)."""
    rng = np.random.default_rng(0)
    nodes, weights, outputs = [], [], []
    constants = {"one": np.float32(1), "zero": np.uint8(128)}
    constants |= {f"scale{width}": np.full(width, 1e-3, np.float32) for width in (DIM, HIDDEN)}
    for i in range(LAYERS * EXPERTS):
        for inputs, width in ((DIM, HIDDEN), (HIDDEN, DIM)):
            x, w, y = f"x{inputs}", f"w{i}_{inputs}", f"y{i}_{inputs}"
            if kind == "fp32":
                weight = rng.normal(size=(inputs, width)).astype(np.float32)
                node = helper.make_node("MatMul", [x, w], [y])
            elif kind == "int8":
                weight = rng.integers(-127, 128, (inputs, width)).astype(np.int8)
                given = [x, w, "one", f"scale{width}", "zero"]
                node = helper.make_node("MatMulIntegerToFloat", given, [y], domain="com.microsoft")
            else:
                blocks = inputs // BLOCK
                weight = rng.integers(0, 256, (width, blocks, BLOCK // 2)).astype(np.uint8)
                weights.append(numpy_helper.from_array(np.full(width * blocks, 1e-3, np.float32), f"{w}_scale"))
                sizes = {"K": inputs, "N": width, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
                node = helper.make_node("MatMulNBits", [x, w, f"{w}_scale"], [y], domain="com.microsoft", **sizes)
            weights.append(numpy_helper.from_array(weight, w))
            nodes.append(node)
            outputs.append(helper.make_tensor_value_info(y, TensorProto.FLOAT, ["rows", width]))
    weights += [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    element = TensorProto.UINT8 if kind == "int8" else TensorProto.FLOAT
    feeds = [helper.make_tensor_value_info(f"x{width}", element, ["rows", width]) for width in (DIM, HIDDEN)]
    graph = helper.make_graph(nodes, "experts", feeds, outputs, weights)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), _session_options(2), ["CPUExecutionProvider"])


def milliseconds(session: onnxruntime.InferenceSession, kind: str, rows: int) -> float:
    """Return the time for one layer: the median of 15 runs after two warm-up runs."""
    element = np.uint8 if kind == "int8" else np.float32
    feed = {f"x{width}": np.ones((rows, width), element) for width in (DIM, HIDDEN)}
    times = []
    for _ in range(17):
        began = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times[2:]) / LAYERS


def main() -> None:
    """Measure all kinds."""
    print("| weights | " + " | ".join(f"{rows} rows" for rows in ROWS) + " |")
    print("|---|" + "---:|" * len(ROWS))
    for kind in ("fp32", "int8", "int4"):
        session = make_session(kind)
        cells = [f"{milliseconds(session, kind, rows):.2f}" for rows in ROWS]
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
