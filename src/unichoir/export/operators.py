"""PyTorch operators that the ONNX exporter does not know, written in standard ONNX operators (opset 18).

The functions are called while a graph is built: Python values in them are constants of that graph, loops are unrolled.
"""

from typing import Any

from onnxscript import opset18

op: Any = opset18  # its types are those of eager tensors, not of a graph being built


def experts(x: Any, counts: Any, w_1: Any, b_1: Any, w_2: Any, b_2: Any, activation: str) -> Any:
    """`unichoir::experts`: see `Experts.forward`.

    x: (S, D) sorted by expert; counts: (E,). Every expert multiplies its own rows only, none if it was not chosen.
    """
    num_experts = w_1.shape[0]
    rest = op.Sub(op.Shape(x, start=0, end=1), op.ReduceSum(counts, keepdims=1))
    blocks = op.Split(x, op.Concat(counts, rest, axis=0), axis=0, num_outputs=num_experts + 1)
    outputs = []
    for expert, block in enumerate(blocks[:num_experts]):
        hidden = _linear(block, w_1, b_1, expert)
        hidden = op.Mul(hidden, op.Sigmoid(hidden)) if activation == "swish" else op.Relu(hidden)
        outputs.append(_linear(hidden, w_2, b_2, expert))
    width = op.Shape(w_2, start=1, end=2)
    outputs.append(op.Expand(op.Constant(value_float=0.0), op.Concat(rest, width, axis=0)))
    return op.Concat(*outputs, axis=0)


def _linear(x: Any, weights: Any, biases: Any, expert: int) -> Any:
    """One expert's linear layer; taking it out of the stack is folded away before the graph is saved."""
    which = op.Constant(value_int=expert)
    y = op.MatMul(x, op.Transpose(op.Gather(weights, which, axis=0), perm=[1, 0]))
    return y if biases is None else op.Add(y, op.Gather(biases, which, axis=0))


def stable_sort(x: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """`aten::sort.stable` of a vector. TopK puts the lower index first among equals, which is what stable means."""
    if len(x.shape) != 1 or dim not in (0, -1):
        raise ValueError("only vectors are sorted in this model")
    return op.TopK(x, op.Shape(x), axis=0, largest=int(descending), sorted=1)
