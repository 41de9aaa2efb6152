"""PyTorch operators that the ONNX exporter doesn't support, written in ONNX operators (opset 18).

The functions are called while a graph is built: Python values in them are constants of that graph, and loops are
unrolled. The int8 functions use two operators of ONNX Runtime, each of which replaces several standard ones.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnx import TensorProto
from onnx.defs import OpSchema
from onnxscript import opset18
from onnxscript.values import Op, Opset

from unichoir.export.quantize import ZERO_POINT, least_peak, peak_to_scale

op: Any = opset18  # typed for eager tensors, not for graphs


def _contrib(name: str, inputs: Sequence[tuple[str, str]], attributes: Sequence[OpSchema.Attribute] = ()) -> Any:
    """Return an operator of ONNX Runtime's domain; inputs: names and types. Its output has floats."""
    formal = [OpSchema.FormalParameter(each, f"tensor({kind})") for each, kind in inputs]
    output = [OpSchema.FormalParameter("Y", "tensor(float)")]
    schema = OpSchema(name, "com.microsoft", 1, inputs=formal, outputs=output, attributes=list(attributes))
    return Op(Opset("com.microsoft", 1), name, schema)


# (A - A's zero point) times B, each column multiplied by B's scale.
_matmul_integer_to_float = _contrib(
    "MatMulIntegerToFloat",
    [("A", "uint8"), ("B", "int8"), ("a_scale", "float"), ("b_scale", "float"), ("a_zero_point", "uint8")],
)
# Rotates pairs (x[i], x[i + half]) by the angle of their position.
_rotary_embedding = _contrib(
    "RotaryEmbedding", [("X", "float"), ("position_ids", "int64"), ("cos_cache", "float"), ("sin_cache", "float")]
)
# x times the normal cumulative distribution function, in one pass
_gelu = _contrib("Gelu", [("X", "float")])
# x * sigmoid(alpha * x)
_quick_gelu = _contrib("QuickGelu", [("X", "float")], [OpSchema.Attribute("alpha", OpSchema.AttrType.FLOAT)])


def experts(x: Any, counts: Any, w_1: Any, b_1: Any, w_2: Any, b_2: Any, activation: str) -> Any:
    """Implement `unichoir::experts`, see `Experts.forward`.

    x: (S, D) sorted by expert; counts: (E,). Every expert multiplies its own rows, none if it wasn't chosen.
    """
    num_experts = w_1.shape[0]
    rest = op.Sub(op.Shape(x, start=0, end=1), op.ReduceSum(counts, keepdims=1))
    blocks = op.Split(x, op.Concat(counts, rest, axis=0), axis=0, num_outputs=num_experts + 1)
    outputs = []
    for expert, block in enumerate(blocks[:num_experts]):
        hidden = _linear(block, w_1, b_1, expert)
        hidden = _ACTIVATIONS[activation](hidden)
        outputs.append(_linear(hidden, w_2, b_2, expert))
    width = op.Shape(w_2, start=1, end=2)
    outputs.append(op.Expand(op.Constant(value_float=0.0), op.Concat(rest, width, axis=0)))
    return op.Concat(*outputs, axis=0)


def _subtract_from(x: Any, minuend: Any, alpha: float = 1) -> Any:
    return op.Sub(op.CastLike(minuend, x), x)


def _flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    first, last = start_dim % len(x.shape), end_dim % len(x.shape)
    sizes = x.shape[first:]
    if all(isinstance(size, int) for size in sizes):  # 0 means the existing size
        merged = math.prod(sizes[: last + 1 - first])
        return op.Reshape(x, op.Constant(value_ints=[0] * first + [merged, *sizes[last + 1 - first :]]))
    merged = op.ReduceProd(op.Shape(x, start=first, end=last + 1), keepdims=1)
    before = [op.Shape(x, start=0, end=first)] if first else []
    after = [op.Shape(x, start=last + 1)] if last + 1 < len(x.shape) else []
    parts = [*before, merged, *after]
    return op.Reshape(x, op.Concat(*parts, axis=0) if len(parts) > 1 else merged, allowzero=1)


def _batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, momentum: float, eps: float, cudnn: bool
) -> Any:
    return op.BatchNormalization(x, weight, bias, mean, variance, epsilon=eps)


PLAIN: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.rsub.Scalar: _subtract_from,
    torch.ops.aten.flatten.using_ints: _flatten,
    torch.ops.aten.batch_norm.default: _batch_norm,
    torch.ops.aten.__and__.Tensor: op.And,
}
"""torch's operators in our models that the exporter would decompose first, or writes in more nodes."""


def _swish(x: Any) -> Any:
    return op.Mul(x, op.Sigmoid(x))


def _erf_gelu(x: Any) -> Any:
    half = op.Mul(x, _float(0.5))
    return op.Mul(half, op.Add(op.Erf(op.Mul(x, _float(2**-0.5))), _float(1.0)))


_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"swish": _swish, "gelu": _erf_gelu, "relu": op.Relu}


def _linear(x: Any, weights: Any, biases: Any, expert: int) -> Any:
    """Apply one expert's linear layer. Its selection from the stack is folded before the graph is saved."""
    which = op.Constant(value_int=expert)
    y = op.MatMul(x, op.Transpose(op.Gather(weights, which, axis=0), perm=[1, 0]))
    return y if biases is None else op.Add(y, op.Gather(biases, which, axis=0))


def rotate(x: Any, cos: Any, sin: Any) -> Any:
    """Implement `unichoir::rotate`, see `network.attention.rotate`."""
    first, second = op.Split(x, axis=-1, num_outputs=2)
    turned = op.Sub(op.Mul(first, cos), op.Mul(second, sin)), op.Add(op.Mul(second, cos), op.Mul(first, sin))
    return op.Concat(*turned, axis=-1)


def fused_rotate(x: Any, cos: Any, sin: Any) -> Any:
    """Implement `rotate` in one pass, for graphs that need ONNX Runtime anyway."""
    return _rotary_embedding(x, op.Constant(value_ints=[0]), cos, sin)


_FUSED_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "swish": lambda x: _quick_gelu(x, alpha=1.0),
    "gelu": _gelu,
    "relu": op.Relu,
}
"""Implementations in one pass, for graphs that need ONNX Runtime anyway."""
FUSED_ACTIVATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.silu.default: _FUSED_ACTIVATIONS["swish"],
    torch.ops.aten.gelu.default: _FUSED_ACTIVATIONS["gelu"],
}
"""The same for torch's operators."""


def int8_linear(x: Any, weight: Any, scale: Any, bias: Any, codes: str) -> Any:
    """Implement `unichoir::int8_linear`, see `quantize.Int8Linear`."""
    return _product(*_quantize_frames(x, codes), weight, scale, bias, codes)


def int8_experts(
    x: Any,
    source: Any,
    counts: Any,
    w_1: Sequence[Any],
    scale_1: Sequence[Any],
    bias_1: Sequence[Any],
    w_2: Sequence[Any],
    scale_2: Sequence[Any],
    bias_2: Sequence[Any],
    activation: str,
) -> Any:
    """Implement `unichoir::int8_experts`. All experts share one activation between the two products."""
    num_experts = len(w_1)
    rest = op.Sub(op.Shape(source), op.ReduceSum(counts, keepdims=1))
    blocks = op.Concat(counts, rest, axis=0)

    def split(rows: Any) -> Sequence[Any]:
        parts: Sequence[Any] = op.Split(rows, blocks, axis=0, num_outputs=num_experts + 1)
        return parts[:num_experts]

    def products(codes: Any, scales: Any, w: Any, scale: Any, bias: Any, kind: str) -> Any:
        """Multiply all rows; rows without an expert become zeros."""
        codes, scales = split(codes), split(scales)
        y = [_product(codes[e], scales[e], w[e], scale[e], bias[e] if bias else None, kind) for e in range(num_experts)]
        width = op.Constant(value_ints=[w[0].shape[1]])
        return op.Concat(*y, op.Expand(_float(0.0), op.Concat(rest, width, axis=0)), axis=0)

    codes, scales = (op.Gather(each, source, axis=0) for each in _quantize_frames(x, "symmetric"))
    hidden = products(codes, scales, w_1, scale_1, bias_1, "symmetric")
    hidden = _FUSED_ACTIVATIONS[activation](hidden)
    return products(*_quantize_frames(hidden, activation), w_2, scale_2, bias_2, activation)


def _quantize_frames(x: Any, codes: str) -> tuple[Any, Any]:
    """Quantise frames as in `quantize.quantize_frames`: (..., K) to codes (..., K) and scales, here (..., 1).

    QuantizeLinear with a scale per frame would include the division, but requires frames in rows and one zero point per
    frame. That takes more nodes, which dominate the time with few frames.
    """
    values = op.Abs(x) if codes == "symmetric" else x
    peak = op.ReduceMax(values, op.Constant(value_ints=[-1]), keepdims=1)
    scale = op.Mul(op.Max(peak, _float(least_peak(codes))), _float(peak_to_scale(codes)))
    return op.QuantizeLinear(op.Div(x, scale), _float(1.0), _zero_point(codes)), scale


def _product(codes: Any, scales: Any, weight: Any, scale: Any, bias: Any, kind: str) -> Any:
    """Multiply as in `quantize.product`; scales: (..., 1)."""
    y = op.Mul(_matmul_integer_to_float(codes, weight, _float(1.0), scale, _zero_point(kind)), scales)
    return y if bias is None else op.Add(y, bias)


def _float(value: float) -> Any:
    return op.Constant(value_float=value)


def _zero_point(codes: str) -> Any:
    return op.Cast(op.Constant(value_int=ZERO_POINT[codes]), to=TensorProto.UINT8)
