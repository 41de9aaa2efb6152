"""Post-processing of an exported graph: constant folding, fusion of int8 layers, and weights stored as float16."""

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    InlinePass,
    RemoveUnusedNodesPass,
)
from onnxscript import optimizer

from unichoir.bundle.replacing import writing
from unichoir.export.functions import add_functions
from unichoir.export.fusion import fuse

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
    DeduplicateInitializersPass()(model)
    CommonSubexpressionEliminationPass()(model)
    fuse(model.graph)
    RemoveUnusedNodesPass()(model)
    add_functions(model)
    ClearMetadataAndDocStringPass()(model)


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
