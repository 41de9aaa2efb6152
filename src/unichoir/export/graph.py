"""What an exported graph goes through before it is saved: folding, and weights stored as float16."""

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    InlinePass,
    RemoveUnusedNodesPass,
)
from onnxscript import optimizer

MIN_SIZE = 256
"""Weights with fewer values than this stay in float32: nothing would be gained."""
MAX_FILE_SIZE = 1 << 26
"""Graphs with more bytes of weights than this have them in a file of their own, which is opened by memory map: loading
takes no more memory than the weights. Within the graph's file they would be read into memory a second time, and that
file's format ends at 2 GiB."""


def finish(model: ir.Model) -> None:
    """Fold what depends on weights alone, and drop what the exporter recorded about the exporting machine."""
    for node in model.graph:
        # Without sizes the exporter needs `num_outputs` to know how many there are; with sizes ONNX forbids it.
        if node.op_type == "Split" and len(node.inputs) == 2:
            node.attributes.pop("num_outputs", None)
    InlinePass()(model)
    optimizer.fold_constants(model, input_size_limit=sys.maxsize, output_size_limit=sys.maxsize)
    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    ClearMetadataAndDocStringPass()(model)


def store_as_float16(model: ir.Model) -> None:
    """Store as float16, behind a Cast to float32, every weight that loses nothing by it."""
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
    """Write the graph to `path`, and weights too large for one file to a second file beside it."""
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    ir.save(model, path, external_data=f"{path.name}.data" if size > MAX_FILE_SIZE else None)
