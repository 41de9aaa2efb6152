"""Convert an int8 model directory back to a checkpoint: python dequantize.py MODEL CONFIG OUT.

CONFIG is the experiment that the model was trained with, because graphs don't describe their original layers. OUT is a
checkpoint for `init` in another experiment. This lets you fine-tune a model if you only have its graphs. Each weight is
its code times its scale, so it differs from the original by the int8 rounding.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from unichoir.errors import CheckpointError
from unichoir.network.asr_model import AsrModel
from unichoir.network.checkpoint import load_weights, save_checkpoint
from unichoir.text.tokenizer import load_tokenizer
from unichoir.training.config import load_experiment
from unichoir.training.setup import fit_vocabulary

GRAPHS = {
    "encoder": "",
    "ctc": "",
    "decoder_memory": "left_",
    "decoder": "left_",
    "reverse_decoder_memory": "right_",
    "reverse_decoder": "right_",
}
"""The graphs of a model directory, and the prefixes of their parameters in a checkpoint."""


def parameters(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a graph with their names in the model: 'encoder.blocks.0.norm_ff.weight'."""
    graph = onnx.load(path).graph
    named = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        # A float weight was transposed in the graph and lost its name, but its bias was not.
        product, bias = (*node.input, "", "")[:2]
        if node.op_type == "Add" and bias.endswith(".bias") and products.get(product) in named:
            yield bias.removesuffix("bias") + "weight", named[products[product]].t()
    yield from ((name, tensor) for name, tensor in named.items() if "." in name)


def separate(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Split tensors of several layers that a graph has joined (`Int8Mixture`, joined products).

    Weights are dequantised here: (outputs, inputs) in float32.
    """
    for joined, tensor in tensors.items():
        names = joined.split("+")
        if joined.endswith(".scale") or ".scale_" in joined:
            continue
        if tensor.dtype == torch.int8:
            tensor = tensor.t() * _scale(tensors, joined).unsqueeze(1)
        moe, _, leaf = joined.rpartition(".")
        if f"{moe}.experts.{leaf[:3]}" in expected:  # separate experts: w_1_0, w_1_1, ...
            yield f"{moe}.experts.{leaf}", tensor
            continue
        widths = [len(expected[name]) for name in names] if len(names) > 1 else [len(tensor)]
        for name, part in zip(names, tensor.split(widths), strict=True):
            parent, _, layer = name.removesuffix(".weight").removesuffix(".bias").rpartition(".")
            stack = expected.get(f"{parent}.experts.{layer}")
            if stack is None or stack.ndim != 3:
                yield name, part
            elif name != f"{parent}.w_2.bias":  # zeros: the biases are bias_2 and shared_bias_2
                yield from _of_mixture(parent, layer, part, name.endswith("weight"), stack)
        if leaf in ("bias_1", "bias_2", "shared_bias_2"):
            yield (f"{moe}.shared_expert.w_2.bias" if leaf == "shared_bias_2" else f"{moe}.experts.{leaf}"), tensor


def _scale(tensors: Mapping[str, Tensor], joined: str) -> Tensor:
    """Return the scales of the outputs of a weight."""
    moe, _, leaf = joined.rpartition(".")
    if leaf.startswith("w_"):  # one row for each expert
        _, layer, expert = leaf.split("_")
        return tensors[f"{moe}.scale_{layer}"][int(expert)]
    return tensors["+".join(name.removesuffix("weight") + "scale" for name in joined.split("+"))]


def _of_mixture(moe: str, layer: str, tensor: Tensor, is_weight: bool, stack: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the shared expert's part of a wide layer and the rest. stack: a tensor like the experts' weights."""
    num_experts, outputs, inputs = stack.shape
    if layer == "w_1":
        hidden = num_experts * outputs
        shared, others = tensor[:-hidden], tensor[-hidden:].unflatten(0, (num_experts, outputs))
    else:
        hidden = num_experts * inputs
        shared, others = tensor[:, :-hidden], tensor[:, -hidden:].unflatten(1, (num_experts, inputs)).transpose(0, 1)
    kind = "weight" if is_weight else "bias"
    yield f"{moe}.shared_expert.{layer}.{kind}", shared
    yield f"{moe}.experts.{layer if is_weight else layer.replace('w', 'bias')}", others


def whole(tensors: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    """Return the parameter `name`, with the shape of `like`.

    Raises CheckpointError if the graphs don't have it.
    """
    if name.rpartition(".")[0].endswith(".experts") and name not in tensors:  # experts are separate
        return torch.stack([whole(tensors, f"{name}_{expert}", each) for expert, each in enumerate(like)])
    if name not in tensors:
        raise CheckpointError(f"the graphs have no {name}: is this the configuration of the model?")
    tensor = tensors[name]
    if tensor.numel() != like.numel():
        raise CheckpointError(f"{name} has {tensor.numel()} values, but the configuration needs {like.numel()}")
    # Convolutions are products of adjacent frames.
    if like.ndim == 3 and like.shape[2] == 3 and tensor.ndim == 2:
        return tensor.unflatten(1, (like.shape[2], like.shape[1])).transpose(1, 2)
    return tensor.reshape(like.shape)


def main() -> None:
    """Convert according to the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model directory")
    parser.add_argument("config", type=Path, help="the experiment's YAML file")
    parser.add_argument("output", type=Path, help="checkpoint to write")
    arguments = parser.parse_args()
    experiment = load_experiment(arguments.config)
    tokenizer = load_tokenizer(arguments.model)
    model = AsrModel(fit_vocabulary(experiment.model, tokenizer))
    tensors: dict[str, Tensor] = {}
    for graph, side in GRAPHS.items():
        path = arguments.model / f"{graph}.onnx"
        if path.is_file():
            for name, tensor in parameters(path):
                tensors["+".join(side + each for each in name.split("+"))] = tensor
    expected = model.state_dict()
    found = dict(separate(tensors, expected))
    weights = {name: whole(found, name, like).to(like.dtype) for name, like in expected.items()}
    load_weights(model, weights, arguments.model)
    arguments.output.mkdir(parents=True, exist_ok=True)
    tokenizer.save(arguments.output)
    save_checkpoint(arguments.output, model, {"fbank": asdict(experiment.fbank)})


if __name__ == "__main__":
    main()
