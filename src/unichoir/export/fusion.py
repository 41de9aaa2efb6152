"""Fusion of int8 layers in an exported graph with what surrounds them. See `functions.py` for the layers' nodes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from unichoir.export.functions import DOMAIN, LINEAR, linear_name

_ACTIVATIONS = {"QuickGelu": "swish", "Gelu": "gelu", "Relu": "relu"}


def fuse(graph: ir.Graph) -> None:
    """Give linear layers their activation, and join layers that have the same input."""
    for node in graph:
        if _is_linear(node):
            _take_activation(graph, node)
    _join(graph)


def _is_linear(node: ir.Node) -> bool:
    """Return whether the node is a linear layer without an activation and with constant weights."""
    constant = all(value is not None and value.const_value is not None for value in node.inputs[1:])
    return node.domain == DOMAIN and node.op_type.split("_")[0] == LINEAR and node.op_type.count("_") == 1 and constant


def _take_activation(graph: ir.Graph, linear: ir.Node) -> None:
    """Replace a linear layer and the activation that alone uses its output by one node."""
    users = [each.node for each in linear.outputs[0].uses()]
    if len(users) != 1:
        return
    if users[0].op_type in _ACTIVATIONS:
        activation, last = _ACTIVATIONS[users[0].op_type], users[0]
    else:
        product = _glu(users[0])
        if product is None:
            return
        activation, last = "glu", product
    name = linear_name(linear.op_type.split("_")[1], activation)
    fused = ir.node(name, linear.inputs, domain=DOMAIN)
    graph.insert_before(last, fused)
    _replace(last.outputs[0], fused.outputs[0])


def _glu(split: ir.Node) -> ir.Node | None:
    """Return the product at the end of a GLU that begins with `split`."""
    if split.op_type != "Split" or len(split.outputs) != 2:
        return None
    value, gate = ([each.node for each in output.uses()] for output in split.outputs)
    if len(value) != 1 or len(gate) != 1 or value[0].op_type != "Mul" or gate[0].op_type != "Sigmoid":
        return None
    opened = [each.node for each in gate[0].outputs[0].uses()]
    return value[0] if opened == value else None


def _join(graph: ir.Graph) -> None:
    """Join linear layers with the same input into one, and split its result.

    A product of few frames takes as long with twice the columns, and the frames are quantised once. The values are the
    same to the bit. Queries, keys and values are such products, and so are a decoder's keys and values of all blocks.
    New weights are named after the old ones, joined by +.
    """
    groups: dict[tuple[ir.Value | None, str], list[ir.Node]] = {}
    for node in graph:
        if _is_linear(node) and node.outputs[0].uses():
            groups.setdefault((node.inputs[0], node.op_type), []).append(node)
    for (x, name), linears in groups.items():
        if len(linears) == 1:
            continue
        joined = [_joined(graph, [each.inputs[place] for each in linears]) for place in (1, 2, 3)]
        widths = np.array([_array(each.inputs[2]).size for each in linears])
        whole = ir.node(name, [x, *joined], domain=DOMAIN)
        parts = ir.node(
            "Split",
            [whole.outputs[0], _constant(graph, f"{linears[0].outputs[0].name}.widths", widths)],
            {"axis": -1},
            num_outputs=len(linears),
        )
        graph.insert_before(linears[0], [whole, parts])
        for each, part in zip(linears, parts.outputs, strict=True):
            _replace(each.outputs[0], part)


def _replace(old: ir.Value, new: ir.Value) -> None:
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def _array(value: ir.Value | None) -> NDArray[Any]:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def _joined(graph: ir.Graph, values: Sequence[ir.Value | None]) -> ir.Value:
    name = "+".join(str(value and value.name) for value in values)
    return _constant(graph, name, np.concatenate([_array(value) for value in values], axis=-1))


def _constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Add an initializer."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))
    graph.register_initializer(value)
    return value
