from importlib.resources import files

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.samples import SMALL_MODEL

from unichoir import saturation
from unichoir.engine import onnx_backend
from unichoir.engine.onnx_backend import OnnxBackend


def product(depth: int, outputs: int) -> onnx.ModelProto:
    """x (M, depth) in uint8 times weights of 127."""
    weights = numpy_helper.from_array(np.full((depth, outputs), 127, np.int8), "weights")
    node = helper.make_node("MatMulInteger", ["x", "weights"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [None, depth])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [None, outputs])
    graph = helper.make_graph([node], "saturation", [x], [y], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_the_graph_is_what_it_says() -> None:
    packaged = files("unichoir").joinpath("saturation.onnx").read_bytes()
    assert packaged == product(64, 16).SerializeToString()


def test_it_is_true_of_this_processor() -> None:
    """All of the ways that ONNX Runtime multiplies here, against numpy's int64."""
    session = onnx_backend.onnxruntime.InferenceSession(product(512, 48).SerializeToString())
    rng = np.random.default_rng(0)
    wrong = 0
    for rows in (1, 2, 3, 4, 5, 16, 100):
        x = rng.integers(200, 256, (rows, 512)).astype(np.uint8)
        wrong += (session.run(None, {"x": x})[0] != 127 * x.sum(1, dtype=np.int64)[:, None]).sum()
    assert saturation.saturates() == (wrong > 0)


@pytest.mark.parametrize("saturates", [False, True])
def test_weights_become_unsigned_only_where_products_saturate(saturates: bool, monkeypatch) -> None:
    monkeypatch.setattr(onnx_backend, "saturates", lambda: saturates)
    options = OnnxBackend(SMALL_MODEL)._encoder.get_session_options()
    assert options.get_session_config_entry("session.x64quantprecision") == str(int(saturates))
