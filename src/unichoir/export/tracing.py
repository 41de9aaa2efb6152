"""A module traced to an ONNX graph."""

import contextlib
import gc
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir as ir
import torch
import torch._dynamo
from torch import Tensor, nn

from unichoir.decoding.onnx_backend import TOP_K_INPUT
from unichoir.export import graph, operators

OPSET = 18


def to_onnx(
    module: nn.Module,
    inputs: Sequence[Tensor],
    shapes: Sequence[dict[int, Any]],
    names: Sequence[str],
    outputs: Sequence[str],
    *,
    num_fixed: int,
    experts: bool = False,
    fused: bool = False,
) -> ir.Model:
    """The graph of a module whose `forward` takes `num_fixed` arguments by name and the others as one *tuple.

    experts: the last of these is how many of them a frame goes to; fused: with operators of ONNX Runtime's own.
    """
    if experts:
        inputs, shapes, names = [*inputs, torch.tensor([2])], [*shapes, {}], [*names, TOP_K_INPUT]
    if len(inputs) > num_fixed:
        shapes = [*shapes[:num_fixed], tuple(shapes[num_fixed:])]  # type: ignore[list-item]
    with _quiet(), _quick():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=tuple(shapes),
            input_names=list(names),
            output_names=list(outputs),
            custom_translation_table={
                torch.ops.unichoir.experts.default: operators.experts,
                torch.ops.unichoir.rotate.default: operators.fused_rotate if fused else operators.rotate,
                torch.ops.unichoir.int8_linear.default: operators.int8_linear,
                torch.ops.unichoir.int8_experts.default: operators.int8_experts,
                **(operators.FUSED_ACTIVATIONS if fused else {}),
            },
            verbose=False,
            optimize=False,  # takes most of the time, and what matters of it `finish` does, too
        )
        assert program is not None  # only the exporter of before dynamo returns nothing
        graph.finish(program.model)
    return program.model


@contextlib.contextmanager
def _quick() -> Iterator[None]:
    """A fifth faster: tracing makes millions of small objects, and sizes that are expressions."""
    gc.freeze()  # what is there, much of it torch's, is not looked through again and again
    try:
        # With sizes that are expressions, remembering results costs more than it saves.
        with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
            yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about itself and about packages that are not needed here."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        # torch.export uses a class of torch's own pytree that torch has deprecated.
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning)
        # Inputs that share a dimension share its name, which is what is wanted.
        warnings.filterwarnings("ignore", message=r"# The axis name: .* will not be used", category=UserWarning)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
