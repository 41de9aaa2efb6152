"""Tracing of a module to an ONNX graph."""

import contextlib
import copy
import functools
import gc
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import onnx_ir as ir
import torch
import torch._dynamo
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram

from unichoir.engine.onnx_backend import TOP_K_INPUT
from unichoir.export import graph, operators
from unichoir.network.config import EncoderConfig

OPSET = 18
_CHECKS = (torch.ops.aten._assert_scalar.default, torch.ops.aten._assert_tensor_metadata.default)
"""Checks that the exporter drops."""


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
    """Return the graph of a module whose `forward` takes `num_fixed` named arguments and the others as one *tuple.

    experts: whether the last argument is the number of experts per frame; fused: whether to use operators of ONNX
    Runtime.
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
                **operators.PLAIN,
                **(operators.FUSED_ACTIVATIONS if fused else {}),
            },
            verbose=False,
            optimize=False,  # this takes most of the time, and `finish` does what matters
        )
        assert program is not None  # only the exporter before dynamo returns None
        graph.finish(program.model)
    return program.model


def frames_dim(config: EncoderConfig) -> Dim:
    """Return the dynamic dimension of feature frames, which are enough for two encoder frames."""
    return Dim("frames", min=config.right_context + 1 + config.subsampling_rate)


@contextlib.contextmanager
def _quick() -> Iterator[None]:
    """Reduce the time to a third: tracing creates millions of small objects and symbolic sizes."""
    gc.freeze()  # existing objects, many of them torch's, are not scanned again
    try:
        # With symbolic sizes, caching results costs more than it saves.
        with torch._dynamo.config.patch(fake_tensor_cache_enabled=False), contextlib.ExitStack() as stack:
            _take_shortcuts(stack)
            yield
    finally:
        gc.unfreeze()


def _take_shortcuts(stack: contextlib.ExitStack) -> None:
    """Avoid tracing each program twice, which took half of the time, and rebuilding the registry, which took a fifth.

    With a torch release whose exporter is structured differently, this has no effect.
    """
    try:
        from torch.onnx._internal.exporter import _decomp, _fx_passes, _registration

        known_operators, decompose = _decomp.get_onnx_implemented_overloads, _fx_passes.decompose_with_registry
        make_registry = _registration.ONNXRegistry.from_torchlib
    except (ImportError, AttributeError):
        return

    def decompose_if_needed(program: ExportedProgram, registry: Any) -> ExportedProgram:
        return program if _is_plain(program, {*known_operators(registry), *_CHECKS}) else decompose(program, registry)

    def copied_registry(**options: Any) -> Any:
        made = copy.copy(_registry(make_registry, **options))
        made.functions = {name: list(functions) for name, functions in made.functions.items()}
        return made

    stack.enter_context(mock.patch.object(_fx_passes, "decompose_with_registry", decompose_if_needed))
    stack.enter_context(mock.patch.object(_registration.ONNXRegistry, "from_torchlib", staticmethod(copied_registry)))


@functools.cache
def _registry(make: Callable[..., Any], **options: Any) -> Any:
    return make(**options)


def _is_plain(program: ExportedProgram, known: set[Any]) -> bool:
    """Return whether a program only has operators that the exporter knows.

    Conversions and reshapes are replaced by such.
    """
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.to.dtype:
            source, dtype = node.args
            if source.meta["val"].dtype == dtype:
                node.replace_all_uses_with(source)
            else:
                node.target, node.args, node.kwargs = torch.ops.aten._to_copy.default, (source,), {"dtype": dtype}
        elif node.target is torch.ops.aten.reshape.default:
            node.target = torch.ops.aten.view.default  # in which 0 doesn't mean the existing size
        elif node.op == "call_function" and (node.target not in known or _changes_its_arguments(node.target)):
            return False
    program.graph.eliminate_dead_code()
    return True


def _changes_its_arguments(target: Any) -> bool:
    return isinstance(target, OpOverload) and target._schema.is_mutable


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what the exporter says about itself and about packages that aren't needed here."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        # torch.export uses a class of torch's pytree that torch has deprecated.
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning)
        # Inputs that share a dimension intentionally share its name.
        warnings.filterwarnings("ignore", message=r"# The axis name: .* will not be used", category=UserWarning)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
