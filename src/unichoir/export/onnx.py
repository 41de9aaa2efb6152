"""Export of checkpoints to model directories: ONNX graphs of the same model definition, for inference without torch."""

import copy
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim

from unichoir.audio.fbank import FbankConfig
from unichoir.bundle.replacing import replace_text, replacing_directory
from unichoir.bundle.sums import write_sums
from unichoir.configuration import to_mapping
from unichoir.engine.backend import ModelInfo
from unichoir.engine.onnx_backend import (
    CONFIG_FILE,
    CTC_FILE,
    CTC_INPUTS,
    DECODER_FILE,
    DECODER_INPUTS,
    ENCODER_FILE,
    ENCODER_INPUTS,
    FORMAT_VERSION,
    KEPT_INPUT,
    MEMORY_FILE,
    MEMORY_INPUTS,
    MEMORY_OUTPUTS,
    REVERSE_DECODER_FILE,
    REVERSE_MEMORY_FILE,
    ModelDirectoryConfig,
    OnnxBackend,
    state_inputs,
)
from unichoir.engine.torch_backend import TorchBackend, model_info
from unichoir.errors import CheckpointError
from unichoir.export import graph
from unichoir.export.card import derived_card
from unichoir.export.checkpoint import check_parts_fit, load_any_checkpoint
from unichoir.export.parity import check_parity
from unichoir.export.quantize import quantize_model
from unichoir.export.tracing import frames_dim, to_onnx
from unichoir.network.asr_model import AsrModel
from unichoir.network.ctc import Ctc
from unichoir.network.decoder import TokenTree, TransformerDecoder
from unichoir.network.encoder import Encoder, EncoderState
from unichoir.search.options import SearchOptions
from unichoir.text.english_punctuation import PUNCTUATION_FILE
from unichoir.text.tokenizer import BPE_FILE, UNITS_FILE, load_tokenizer

Quantization = Literal["float16", "int8"]


def export_onnx(
    checkpoint_dir: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    quantize: Quantization | None = None,
    ctc_weight: float | None = None,
    attention_beam: int | None = None,
    reencode: bool = False,
    trail_frames: int | None = None,
) -> dict[str, float]:
    """Write the model directory of a checkpoint, ours or WeNet's (`train.yaml`).

    quantize: float16 halves the files; weights except routers are rounded, and computation stays in float32. int8
    quarters them and computes products in integers (`export.quantize`). None: float32.
    ctc_weight, attention_beam, reencode: the model's own defaults for rescoring (`SearchOptions`), used if the caller
    doesn't set them; None: 0.5 and 0.
    trail_frames: frames of silence after the audio (`FbankConfig`); None: as in training.
    Returns the largest difference between ONNX and torch for each part. Raises CheckpointError or ConfigError if the
    checkpoint can't be read, CheckpointError if a part differs by more than `parity.TOLERANCE` or `out_dir` holds
    something else, and DecodingError for a weight or number below 0; `out_dir` is then unchanged.
    """
    source = Path(checkpoint_dir)
    model, fbank = load_any_checkpoint(source)
    return export_model(
        model,
        fbank,
        source,
        Path(out_dir),
        quantize=quantize,
        ctc_weight=ctc_weight,
        attention_beam=attention_beam,
        reencode=reencode,
        trail_frames=trail_frames,
    )


def export_model(
    model: AsrModel,
    fbank: FbankConfig,
    files_dir: Path,
    out_dir: Path,
    *,
    quantize: Quantization | None = None,
    ctc_weight: float | None = None,
    attention_beam: int | None = None,
    reencode: bool = False,
    trail_frames: int | None = None,
) -> dict[str, float]:
    """Like `export_onnx` for a model in memory. `units.txt`, `bpe.model` and the card come from `files_dir`."""
    info = own_defaults(model_info(model), ctc_weight, attention_beam, reencode)
    if out_dir.exists() and not (out_dir / CONFIG_FILE).is_file() and (out_dir.is_file() or any(out_dir.iterdir())):
        raise CheckpointError(f"{out_dir}: exists and is not a model directory")
    if trail_frames is not None:
        fbank = replace(fbank, trail_frames=trail_frames)
    check_parts_fit(model, load_tokenizer(files_dir), fbank, files_dir)
    weights = quantize or "float32"
    how = f"export to ONNX, weights in {weights}"
    card = derived_card(files_dir, out_dir, model.config, how, {"weights": weights})
    model = copy.deepcopy(model).cpu().float().eval()
    with replacing_directory(out_dir) as partial:
        write_graphs(model, fbank, partial, quantize, info)
        for name in (UNITS_FILE, BPE_FILE, PUNCTUATION_FILE):
            if (files_dir / name).is_file():
                shutil.copyfile(files_dir / name, partial / name)
        streaming = model.config.encoder.conv_causal
        differences = check_parity(TorchBackend(model), OnnxBackend(partial), fbank, streaming, quantize == "int8")
        card.write(partial)
        write_sums(partial)
    return differences


def own_defaults(info: ModelInfo, ctc_weight: float | None, attention_beam: int | None, reencode: bool) -> ModelInfo:
    """Return the info with these defaults of the model; None keeps a value. Raises DecodingError for values below 0."""
    SearchOptions(ctc_weight=ctc_weight, attention_beam=attention_beam)
    info = replace(info, reencode=reencode)
    if ctc_weight is not None:
        info = replace(info, ctc_weight=float(ctc_weight))
    return info if attention_beam is None else replace(info, attention_beam=attention_beam)


def write_graphs(
    model: AsrModel,
    fbank: FbankConfig,
    out_dir: Path,
    quantize: Quantization | None,
    info: ModelInfo | None = None,
) -> None:
    """Write the graphs of a model and config.json into the folder `out_dir`, without checks.

    `model`, in evaluation mode, is modified for the export: rounded to float16, or its products converted to int8.
    info: the content of config.json; None describes the model.
    """
    parameters = sum(each.numel() for each in model.parameters())
    if quantize == "float16":
        _round_to_float16(model)
    elif quantize == "int8":
        quantize_model(model)
    for name, make in _graphs(model, fused=quantize == "int8").items():
        each = make()
        if quantize == "float16":
            graph.store_as_float16(each)
        graph.save(each, out_dir / name)
    config = ModelDirectoryConfig(
        format_version=FORMAT_VERSION,
        model=info or model_info(model),
        fbank=fbank,
        streaming=model.config.encoder.conv_causal,
        weights=quantize or "float32",
        parameters=parameters,
        num_blocks=model.encoder.num_caches[0],
        num_convolutions=model.encoder.num_caches[1],
        num_top_blocks=model.config.encoder.num_top_blocks,
    )
    replace_text(out_dir / CONFIG_FILE, json.dumps(to_mapping(config), indent=2) + "\n")


def _graphs(model: AsrModel, fused: bool) -> dict[str, Callable[[], ir.Model]]:
    """Return the functions that build each graph of a model directory, by file name."""
    experts = bool(model.config.encoder.feed_forward.num_experts)
    graphs: dict[str, Callable[[], ir.Model]] = {
        ENCODER_FILE: partial(_encoder_graph, model.encoder, experts, fused),
        CTC_FILE: partial(_ctc_graph, model.ctc, model.config.encoder.dim),
        MEMORY_FILE: partial(_memory_graph, model.left_decoder),
        DECODER_FILE: partial(_decoder_graph, model.left_decoder, experts, fused),
    }
    if model.right_decoder is not None:
        graphs[REVERSE_MEMORY_FILE] = partial(_memory_graph, model.right_decoder)
        graphs[REVERSE_DECODER_FILE] = partial(_decoder_graph, model.right_decoder, experts, fused)
    return graphs


class _StreamingEncoder(nn.Module):
    """The encoder with its state as separate tensors, then kept and optionally top_k."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, feats: Tensor, feats_lengths: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        blocks, convolutions = self.encoder.num_caches
        att_cache, rest = rest[:blocks], rest[blocks:]
        cnn_cache, (att_cache_lens, offset, kept, *top_k) = rest[:convolutions], rest[convolutions:]
        state = EncoderState(att_cache, att_cache_lens, cnn_cache, offset)
        encoder_out, lens, state = self.encoder(
            feats, feats_lengths, state, top_k=top_k[0] if top_k else None, kept=kept
        )
        return encoder_out, lens, *state.att_cache, *state.cnn_cache, state.att_cache_lens, state.offset


class _WholeEncoder(nn.Module):
    """The encoder of a model that can't stream."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, feats: Tensor, feats_lengths: Tensor, *top_k: Tensor) -> tuple[Tensor, Tensor]:
        encoder_out, lens, _ = self.encoder(feats, feats_lengths, top_k=top_k[0] if top_k else None)
        return encoder_out, lens


class _CtcLogProbs(nn.Module):
    def __init__(self, ctc: Ctc) -> None:
        super().__init__()
        self.ctc = ctc

    def forward(self, encoder_out: Tensor) -> Tensor:
        return self.ctc.log_probs(encoder_out)


class _DecoderMemory(nn.Module):
    """The memory of a decoder's steps for one utterance, as separate tensors."""

    def __init__(self, decoder: TransformerDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, encoder_out: Tensor) -> tuple[Tensor, ...]:
        return tuple(each for both in self.decoder.read(encoder_out) for each in both)


class _DecoderStep(nn.Module):
    """A decoder over new tokens of a tree of hypotheses. `rest` is its memory and optionally top_k."""

    def __init__(self, decoder: TransformerDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, tokens: Tensor, positions: Tensor, visible: Tensor, past: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor]:
        end = 2 * len(self.decoder.blocks)
        memory, top_k = list(zip(rest[:end:2], rest[1:end:2], strict=True)), rest[end:]
        tree = TokenTree(positions, visible)
        logits, states = self.decoder.step(memory, tokens, tree, past, top_k[0] if top_k else None)
        return torch.log_softmax(logits.float(), dim=-1), states


# The sizes of the examples below are arbitrary, but must differ from each other and from 0 and 1: the exporter treats
# equal sizes as the same dimension, and 0 and 1 as constants. The graphs also accept these sizes.
def _encoder_graph(encoder: Encoder, experts: bool, fused: bool) -> ir.Model:
    batch, frames, past, kept = 2, 67, 5, 9
    rows = Dim("batch")
    inputs: list[Tensor] = [torch.zeros(batch, frames, encoder.config.input_dim), torch.tensor([frames, frames - 9])]
    shapes: list[dict[int, Any]] = [{0: rows, 1: frames_dim(encoder.config)}, {0: rows}]
    names, outputs = list(ENCODER_INPUTS), ["encoder_out", "encoder_out_lens"]
    if encoder.config.conv_causal:
        start, lens = encoder.initial_state(batch), torch.tensor([past, 2])
        places = Dim("past")
        for cache, each in zip(start.att_cache, encoder.config.frames_of_blocks, strict=True):
            inputs.append(cache.new_zeros(batch, cache.shape[1], each * past, cache.shape[3]))
            shapes.append({0: rows, 2: each * places if each > 1 else places})
        inputs += [*start.cnn_cache, lens, lens, torch.arange(kept)]
        shapes += [*[{0: rows}] * (len(start.cnn_cache) + 2), {0: Dim("kept")}]
        names += [*state_inputs(*encoder.num_caches), KEPT_INPUT]
        outputs += [f"next_{name}" for name in state_inputs(*encoder.num_caches)]
    module = _StreamingEncoder(encoder) if encoder.config.conv_causal else _WholeEncoder(encoder)
    return to_onnx(module, inputs, shapes, names, outputs, num_fixed=2, experts=experts, fused=fused)


def _ctc_graph(ctc: Ctc, dim: int) -> ir.Model:
    shapes = [{0: Dim("batch"), 1: Dim("frames")}]
    return to_onnx(_CtcLogProbs(ctc), [torch.zeros(2, 3, dim)], shapes, CTC_INPUTS, ["log_probs"], num_fixed=1)


def _memory_names(decoder: TransformerDecoder) -> list[str]:
    return [f"{name}_{number}" for number in range(len(decoder.blocks)) for name in MEMORY_OUTPUTS]


def _memory_graph(decoder: TransformerDecoder) -> ir.Model:
    encoder_out = torch.zeros(1, 7, decoder.embedding.embedding_dim)
    names = _memory_names(decoder)
    shapes = [{1: Dim("frames")}]
    return to_onnx(_DecoderMemory(decoder), [encoder_out], shapes, MEMORY_INPUTS, names, num_fixed=1)


def _decoder_graph(decoder: TransformerDecoder, experts: bool, fused: bool) -> ir.Model:
    frames, tokens, past, blocks = 7, 5, 9, len(decoder.blocks)
    dim, heads = decoder.embedding.embedding_dim, decoder.num_heads
    inputs = [
        torch.zeros(1, tokens, dtype=torch.int64),
        torch.zeros(1, tokens, dtype=torch.int64),
        torch.ones(1, tokens, past + tokens, dtype=torch.bool),
        torch.zeros(1, past, blocks, 2 * dim),
        *(torch.zeros(1, heads, frames, dim // heads) for _ in range(2 * blocks)),
    ]
    places, before = Dim("tokens"), Dim("past")
    shapes: list[dict[int, Any]] = [{1: places}, {1: places}, {1: places, 2: Dim("visible")}, {1: before}]
    shapes += [{2: Dim("frames")}] * (2 * blocks)
    names = [*DECODER_INPUTS, *_memory_names(decoder)]
    outputs = ["log_probs", "states"]
    module = _DecoderStep(decoder)
    return to_onnx(module, inputs, shapes, names, outputs, num_fixed=4, experts=experts, fused=fused)


def _round_to_float16(model: AsrModel) -> None:
    """Round matrices to float16 values. Routers are not rounded, because a changed tie would choose another expert."""
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2 and ".router." not in name:
            rounded = parameter.data.half().float()
            if not torch.isfinite(rounded).all():
                raise CheckpointError(f"weight '{name}' is too large for float16")
            parameter.data = rounded
