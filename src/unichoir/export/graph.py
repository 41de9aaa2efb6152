"""Post-processing of an exported graph: constant folding, and weights stored as float16."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    InlinePass,
    RemoveUnusedNodesPass,
)
from onnxscript import optimizer

from unichoir.bundle.replacing import writing

MIN_SIZE = 256
"""Weights with fewer values than this stay in float32, because they save nothing."""
MAX_FILE_SIZE = 1 << 26
"""Graphs with more bytes of weights than this store them in a separate file, which is memory-mapped: loading takes no
more memory than the weights. Weights inside the graph's file would be copied to memory a second time, and its format is
limited to 2 GiB."""


def finish(model: ir.Model) -> None:
    """Fold everything that only depends on weights, and remove what the exporter recorded about its machine."""
    for node in model.graph:
        # Without sizes, the exporter needs `num_outputs` to know the number of outputs; with sizes, ONNX forbids it.
        if node.op_type == "Split" and len(node.inputs) == 2:
            node.attributes.pop("num_outputs", None)
    InlinePass()(model)
    optimizer.fold_constants(model, input_size_limit=sys.maxsize, output_size_limit=sys.maxsize)
    DeduplicateInitializersPass()(model)  # lets products of the same frames share their codes
    CommonSubexpressionEliminationPass()(model)
    _join_products(model.graph)
    RemoveUnusedNodesPass()(model)
    ClearMetadataAndDocStringPass()(model)


def _join_products(graph: ir.Graph) -> None:
    """Join products of the same codes with several weights into one, and split its result.

    A product of few frames takes as long with twice the columns. The values are the same to the bit. Queries, keys and
    values are such products, and so are a decoder's keys and values of all blocks.

    The function looks for the chain that `operators.int8_linear` writes: MatMulIntegerToFloat, times the frames'
    scales, plus a bias. New weights are named after the old ones, joined by +.
    """
    chains: dict[tuple[ir.Value | None, ...], list[tuple[ir.Node, ir.Node, ir.Node]]] = {}
    for node in graph:
        if node.op_type == "MatMulIntegerToFloat":
            times = _only_user(node, "Mul")
            plus = times and _only_user(times, "Add")
            if times and plus and all(map(_is_constant, (*node.inputs[1::2], plus.inputs[1]))):
                frames, _, one, _, zero_point = node.inputs
                chains.setdefault((frames, one, zero_point, times.inputs[1]), []).append((node, times, plus))
    for (frames, one, zero_point, scales), found in chains.items():
        if len(found) == 1:
            continue
        products, _, sums = zip(*found, strict=True)
        first = products[0]
        weight, scale, bias = (
            _joined(graph, values)
            for values in (
                [node.inputs[1] for node in products],
                [node.inputs[3] for node in products],
                [node.inputs[1] for node in sums],
            )
        )
        widths = _constant(
            graph, f"{first.outputs[0].name}.widths", np.array([_array(node.inputs[1]).size for node in sums])
        )
        product = ir.node(first.op_type, [frames, weight, one, scale, zero_point], domain=first.domain)
        scaled = ir.node("Mul", [product.outputs[0], scales])
        whole = ir.node("Add", [scaled.outputs[0], bias])
        parts = ir.node("Split", [whole.outputs[0], widths], {"axis": -1}, num_outputs=len(found))
        graph.insert_before(first, [product, scaled, whole, parts])
        for each, part in zip(sums, parts.outputs, strict=True):
            part.dtype, part.shape = each.outputs[0].dtype, each.outputs[0].shape
            each.outputs[0].replace_all_uses_with(part, replace_graph_outputs=True)


def _only_user(node: ir.Node, op_type: str) -> ir.Node | None:
    """Return the only user of `node`, if it has type `op_type` and takes the node's output as its first input."""
    uses = list(node.outputs[0].uses())
    return uses[0].node if len(uses) == 1 and uses[0].node.op_type == op_type and uses[0].idx == 0 else None


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None


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


def store_as_float16(model: ir.Model) -> None:
    """Store every weight that float16 represents exactly as float16, followed by a Cast to float32."""
    for name, value in list(model.graph.initializers.items()):
        if value.dtype != ir.DataType.FLOAT or value.const_value is None or value.const_value.size < MIN_SIZE:
            continue
        array = value.const_value.numpy()
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), array):
            continue
        stored = ir.Value(name=f"{name}.float16", const_value=ir.tensor(half, name=f"{name}.float16"))
        stored.dtype, stored.shape = ir.DataType.FLOAT16, ir.Shape(half.shape)
        model.graph.register_initializer(stored)
        cast = ir.node("Cast", [stored], attributes={"to": ir.DataType.FLOAT})
        cast.outputs[0].dtype, cast.outputs[0].shape = ir.DataType.FLOAT, ir.Shape(half.shape)
        value.replace_all_uses_with(cast.outputs[0])
        del model.graph.initializers[name]
        cast.outputs[0].name = name
        model.graph.insert_before(model.graph[0], cast)


def save(model: ir.Model, path: Path) -> None:
    """Write the graph to `path`, and weights too large for one file to a second file in the same folder."""
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    with writing(path):
        ir.save(model, path, external_data=f"{path.name}.data" if size > MAX_FILE_SIZE else None)
