"""PyTorch operators that the ONNX exporter doesn't support, written in ONNX operators (opset 18).

The functions are called while a graph is built: Python values in them are constants of that graph, and loops are
unrolled.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnx.defs import OpSchema
from onnxscript import opset18
from onnxscript.values import Op, Opset

from unichoir.export import functions

op: Any = opset18  # typed for eager tensors, not for graphs


def _operator(
    domain: str, name: str, inputs: Sequence[tuple[str, str]], attributes: Sequence[OpSchema.Attribute] = ()
) -> Any:
    """Return an operator of another domain than ONNX; inputs: names and types. Its output has floats."""
    formal = [OpSchema.FormalParameter(each, f"tensor({kind})") for each, kind in inputs]
    output = [OpSchema.FormalParameter("Y", "tensor(float)")]
    schema = OpSchema(name, domain, 1, inputs=formal, outputs=output, attributes=list(attributes))
    return Op(Opset(domain, 1), name, schema)


_contrib = functools.partial(_operator, "com.microsoft")
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


FUSED_ACTIVATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.silu.default: lambda x: _quick_gelu(x, alpha=1.0),
    torch.ops.aten.gelu.default: _gelu,
}
"""Implementations of torch's operators in one pass, for graphs that need ONNX Runtime anyway."""


def int8_linear(x: Any, weight: Any, scale: Any, bias: Any, codes: str) -> Any:
    """Implement `unichoir::int8_linear`, see `quantize.Int8Linear`."""
    return _linear_of(codes)(x, weight, scale, bias)


def int8_experts(
    x: Any,
    gates: Any,
    experts: Any,
    w_1: Sequence[Any],
    w_2: Sequence[Any],
    scale_1: Any,
    bias_1: Any,
    scale_2: Any,
    bias_2: Any,
    activation: str,
) -> Any:
    """Implement `unichoir::int8_experts`, see `quantize.Int8Experts`."""
    return _experts_of(activation, len(w_1))(x, gates, experts, scale_1, bias_1, scale_2, bias_2, *w_1, *w_2)


@functools.cache
def _linear_of(codes: str) -> Any:
    types = [("x", "float"), ("weight", "int8"), ("scale", "float"), ("bias", "float")]
    return _operator(functions.DOMAIN, functions.linear_name(codes), types)


@functools.cache
def _experts_of(activation: str, num_experts: int) -> Any:
    types = [("x", "float"), ("gates", "float"), ("experts", "int64")]
    types += [(f"{name}_{layer}", "float") for layer in (1, 2) for name in ("scale", "bias")]
    types += [(f"w_{layer}_{e}", "int8") for layer in (1, 2) for e in range(num_experts)]
    return _operator(functions.DOMAIN, f"{functions.EXPERTS}_{activation}", types)


def _float(value: float) -> Any:
    return op.Constant(value_float=value)
