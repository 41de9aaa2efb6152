"""The C++ kernels against arithmetic number by number, each version that this processor has."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from unichoir import native
from unichoir.errors import ConfigError
from unichoir.export import functions
from unichoir.export.quantize import ZERO_POINT
from unichoir.native import build

Array = NDArray[np.float64]
VERSIONS = native.supported_versions()
pytestmark = pytest.mark.skipif(not VERSIONS, reason="there are no kernels for this processor")


def activate(x: Array, activation: str) -> Array:
    if activation == "swish":
        return x / (1 + np.exp(-x))
    if activation == "gelu":
        return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
    if activation == "relu":
        return np.maximum(x, 0)
    if activation == "glu":
        value, gate = np.split(x, 2, axis=-1)
        return value / (1 + np.exp(-gate))
    return x


def encode(x: Array, codes: str) -> tuple[NDArray[np.int64], Array]:
    """Codes without their zero point, and scales; float32 decides what is in the middle of two codes."""
    if codes == "symmetric":
        scale = np.maximum(np.abs(x).max(axis=1, keepdims=True), 1e-20).astype(np.float32) * np.float32(1 / 127)
    else:
        highest = 255 - ZERO_POINT[codes]
        floor = {"swish": 0.27847, "gelu": 0.16998, "relu": 0.0}[codes]
        least = floor * highest / ZERO_POINT[codes] if floor else 1e-20
        scale = np.maximum(x.max(axis=1, keepdims=True), least).astype(np.float32) * np.float32(1 / highest)
    steps = np.rint(x.astype(np.float32) / scale).astype(np.int64)
    return np.clip(steps, -ZERO_POINT[codes], 255 - ZERO_POINT[codes]), scale.astype(np.float64)


def linear(x: Array, layer: Mapping[str, NDArray[np.generic]], codes: str) -> Array:
    steps, scale = encode(x, codes)
    return (steps @ layer["weight"].astype(np.int64)) * scale * layer["scale"] + layer["bias"]


def session(
    name: str,
    feeds: dict[str, Sequence[int | str | None]],
    weights: dict[str, NDArray[np.generic]],
    constant: bool = True,
    threads: int = 1,
) -> onnxruntime.InferenceSession:
    """Return a session of one node. Its function has no body, so nothing but a kernel can compute it."""
    kinds = {name: TensorProto.INT64 if name == "experts" else TensorProto.FLOAT for name in feeds}
    inputs = [helper.make_tensor_value_info(name, kinds[name], shape) for name, shape in feeds.items()]
    constants = [numpy_helper.from_array(value, key) for key, value in weights.items()]
    if not constant:
        inputs += [helper.make_tensor_value_info(key, TensorProto.INT8, [None, None]) for key in ("weight",)]
        constants = [each for each in constants if each.name != "weight"]
    node = helper.make_node(name, [*feeds, *weights], ["y"], domain=functions.DOMAIN)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "layer", inputs, [output], constants)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(functions.DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    options.register_custom_ops_library(str(native.library()))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def linear_weights(inputs: int, outputs: int, seed: int = 0) -> dict[str, NDArray[np.generic]]:
    rng = np.random.default_rng(seed)
    weight = rng.integers(-127, 128, (inputs, outputs), dtype=np.int8)
    weight[:, 0] = 127  # sums of pairs with the largest codes don't fit in 16 bits
    scale = rng.uniform(1e-3, 2e-3, outputs).astype(np.float32)
    return {"weight": weight, "scale": scale, "bias": rng.normal(size=outputs).astype(np.float32)}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("activation", ["", "swish", "gelu", "relu", "glu"])
@pytest.mark.parametrize("codes", ["symmetric", "swish", "gelu", "relu"])
def test_linear(monkeypatch, version: str, codes: str, activation: str) -> None:
    """Sizes around those of panels, tiles and tasks; one frame is all zeros."""
    monkeypatch.setenv(native.ENVIRONMENT_VARIABLE, version)
    assert native.version() == version
    rng = np.random.default_rng(1)
    for rows, inputs, outputs in [(1, 1, 2), (5, 63, 34), (6, 64, 32), (13, 65, 18), (101, 30, 130), (250, 2, 14)]:
        weights = linear_weights(inputs, outputs)
        x = rng.normal(scale=3, size=(rows, inputs))
        x = activate(x, codes).astype(np.float32)
        x[rows // 2] = 0
        kernel = session(functions.linear_name(codes, activation), {"x": [None, inputs]}, weights)
        (found,) = kernel.run(None, {"x": x})
        exact = activate(linear(x.astype(np.float64), weights, codes), activation)
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5, err_msg=f"{rows} {inputs} {outputs}")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("activation", ["swish", "gelu", "relu"])
@pytest.mark.parametrize(("rows", "top_k", "experts"), [(2, 1, 2), (9, 2, 4), (250, 2, 8), (30, 3, 3)])
def test_experts(monkeypatch, version: str, activation: str, rows: int, top_k: int, experts: int) -> None:
    """Frame by frame. Some copies go to no expert (number E), and so do all copies of the last frame."""
    monkeypatch.setenv(native.ENVIRONMENT_VARIABLE, version)
    rng, dim, hidden = np.random.default_rng(rows), 37, 50
    layers = [[linear_weights(*shape, seed=e) for e in range(experts)] for shape in ((dim, hidden), (hidden, dim))]
    stacked = {
        f"{name}_{number}": np.stack([each[name] for each in layer])
        for number, layer in enumerate(layers, 1)
        for name in ("scale", "bias")
    }
    matrices = {
        f"w_{number}_{e}": each["weight"] for number, layer in enumerate(layers) for e, each in enumerate(layer)
    }
    x = rng.normal(size=(rows, dim)).astype(np.float32)
    gates = rng.uniform(size=(rows, top_k)).astype(np.float32)
    chosen = np.stack([rng.permutation(experts + 1)[:top_k] for _ in range(rows)])
    chosen[-1] = experts
    kernel = session(
        f"Experts_{activation}",
        {"x": [None, dim], "gates": [None, top_k], "experts": [None, top_k]},
        {**stacked, **matrices},
        threads=2,
    )
    (found,) = kernel.run(None, {"x": x, "gates": gates, "experts": chosen})
    exact = np.zeros((rows, dim))
    for n in range(rows):
        for gate, e in zip(gates[n], chosen[n], strict=True):
            if e < experts:
                units = activate(linear(x[n : n + 1].astype(np.float64), layers[0][e], "symmetric"), activation)
                exact[n] += gate * linear(units, layers[1][e], activation)[0]
    assert not found[-1].any()
    # A unit between two codes may fall to either side.
    assert np.quantile(np.abs(found - exact), 0.9) < 1e-4 * np.abs(exact).max()
    np.testing.assert_allclose(found, exact, rtol=0, atol=0.02 * np.abs(exact).max())


def test_no_frames() -> None:
    kernel = session("Linear_symmetric", {"x": ["batch", None, 8]}, linear_weights(8, 5))
    assert kernel.run(None, {"x": np.zeros((2, 0, 8), np.float32)})[0].shape == (2, 0, 5)
    assert kernel.run(None, {"x": np.zeros((2, 3, 8), np.float32)})[0].shape == (2, 3, 5)


def test_frames_that_are_no_numbers_harm_no_others() -> None:
    weights = linear_weights(8, 5)
    kernel = session("Linear_symmetric", {"x": [None, 8]}, weights)
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    (before,) = kernel.run(None, {"x": x})
    for bad in (np.nan, np.inf, -np.inf, 3e38):
        x[1, 2] = bad
        np.testing.assert_array_equal(kernel.run(None, {"x": x})[0][[0, 2, 3]], before[[0, 2, 3]])


def test_a_frame_of_another_size() -> None:
    kernel = session("Linear_symmetric", {"x": [None, None]}, linear_weights(8, 5))
    with pytest.raises(Exception, match=r"a frame has 9 values, but the weights need 8"):
        kernel.run(None, {"x": np.zeros((2, 9), np.float32)})


def test_weights_that_are_no_constants() -> None:
    with pytest.raises(Exception, match="weights must be constants"):
        session("Linear_symmetric", {"x": [None, 8]}, linear_weights(8, 5), constant=False)


def test_calls_from_several_threads() -> None:
    kernel = session("Linear_symmetric_swish", {"x": [None, 64]}, linear_weights(64, 96), threads=2)
    frames = [np.random.default_rng(seed).normal(size=(seed + 1, 64)).astype(np.float32) for seed in range(40)]
    alone = [kernel.run(None, {"x": x})[0] for x in frames]
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(lambda x: kernel.run(None, {"x": x})[0], frames), alone, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_a_function_without_the_library_computes_the_same() -> None:
    """The bodies of all functions are valid ONNX, and ONNX Runtime computes them as the kernels do."""
    x = np.random.default_rng(0).normal(size=(7, 64)).astype(np.float32)
    for activation in ("", "swish", "gelu", "relu", "glu"):
        name, weights = functions.linear_name("symmetric", activation), linear_weights(64, 32)
        (fast,) = session(name, {"x": [None, 64]}, weights).run(None, {"x": x})
        node = helper.make_node(name, ["x", *weights], ["y"], domain=functions.DOMAIN)
        graph = helper.make_graph(
            [node],
            "layer",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 64])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
            [numpy_helper.from_array(value, key) for key, value in weights.items()],
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(functions.DOMAIN, 1)]
        model = onnx.parser.parse_function(functions._linear("symmetric", *filter(None, [activation])))
        whole = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=[model])
        onnx.checker.check_model(whole)
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.x64quantprecision", "1")
        plain = onnxruntime.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(plain.run(None, {"x": x})[0], fast, rtol=1e-5, atol=1e-5)


def test_the_environment_chooses(monkeypatch) -> None:
    monkeypatch.delenv(native.ENVIRONMENT_VARIABLE, raising=False)
    assert native.library() == native.LIBRARY
    assert native.version() == VERSIONS[0]
    monkeypatch.setenv(native.ENVIRONMENT_VARIABLE, "0")
    assert native.library() is native.version() is None
    monkeypatch.setenv(native.ENVIRONMENT_VARIABLE, "sse2")
    with pytest.raises(ConfigError, match=f"UNICHOIR_NATIVE: no kernels named 'sse2' here; supported: {VERSIONS[0]}"):
        native.library()


def test_a_library_of_another_system(monkeypatch, tmp_path: Path) -> None:
    broken = tmp_path / "kernels.bin"
    broken.write_bytes(b"\x7fELF")
    monkeypatch.setattr(native, "LIBRARY", broken)
    with pytest.warns(UserWarning, match=r"kernels\.bin: cannot be loaded \(.*\); int8 models are slower"):
        assert native.supported_versions.__wrapped__() == ()
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "nowhere.so")
    assert native.supported_versions.__wrapped__() == ()


def test_build(monkeypatch, tmp_path: Path) -> None:
    try:
        build.find_compiler()
    except build.BuildError as error:
        pytest.skip(str(error))
    library = tmp_path / "kernels.bin"
    assert set(VERSIONS) <= set(build.build(library))
    assert [path.name for path in tmp_path.iterdir()] == ["kernels.bin"]
    monkeypatch.setattr(native, "LIBRARY", library)
    assert native.supported_versions.__wrapped__() == VERSIONS


def test_build_without_a_compiler(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(build.BuildError, match=r"there is no C\+\+ compiler \(no-such-compiler\)"):
        build.build(tmp_path / "kernels.bin")
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(build.BuildError, match=r"doesn't know the instructions|operators\.cpp"):
        build.build(tmp_path / "kernels.bin")
    monkeypatch.setattr(build.platform, "machine", lambda: "riscv64")
    with pytest.raises(build.BuildError, match="there are no kernels for riscv64"):
        build.build(tmp_path / "kernels.bin")
    assert not list(tmp_path.iterdir())
