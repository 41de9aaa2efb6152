"""A tiny Whisper with random weights under OpenAI's names, written in each format, and its formulas in plain code."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

DIM, HEADS, HIDDEN, BINS, BLOCKS, POSITIONS = 32, 2, 48, 80, 3, 20
WORDS = ["Ġthe", "Ġa", "he", "Ġc", "at", "'s", "ing", "Ġcat", "ĠThe", "Ã©"]


def vocabulary() -> list[str]:
    """Every byte, some pieces, and the special tokens that matter."""
    from unichoir.formats.whisper.vocabulary import byte_characters

    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|startofprev|>"]
    return [*sorted(byte_characters()), *WORDS, *special]


def sinusoids(length: int, channels: int) -> Tensor:
    """As in `whisper/model.py`."""
    increment = np.log(10000) / (channels // 2 - 1)
    inverse = np.exp(-increment * np.arange(channels // 2))
    scaled = np.arange(length)[:, np.newaxis] * inverse[np.newaxis, :]
    return torch.from_numpy(np.concatenate([np.sin(scaled), np.cos(scaled)], axis=1)).float()


def random_weights(seed: int = 0) -> dict[str, Tensor]:
    """The whole state of a model, as in `model_state_dict` of OpenAI's files."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float | None = None, around: float = 0.0) -> Tensor:
        scale = 1 / math.sqrt(math.prod(shape[1:])) if scale is None else scale
        return around + scale * torch.randn(*shape, generator=generator)

    state = {
        "encoder.positional_embedding": sinusoids(1500, DIM),
        "encoder.conv1.weight": draw(DIM, BINS, 3),
        "encoder.conv1.bias": draw(DIM, scale=0.1),
        "encoder.conv2.weight": draw(DIM, DIM, 3),
        "encoder.conv2.bias": draw(DIM, scale=0.1),
        "decoder.token_embedding.weight": draw(len(vocabulary()), DIM, scale=0.3),
        "decoder.positional_embedding": draw(POSITIONS, DIM, scale=0.3),
    }
    for part, last in (("encoder", "ln_post"), ("decoder", "ln")):
        norms = [f"{part}.{last}"]
        for i in range(BLOCKS):
            block = f"{part}.blocks.{i}"
            attentions = ["attn"] if part == "encoder" else ["attn", "cross_attn"]
            norms += [f"{block}.{each}_ln" for each in (*attentions, "mlp")]
            for attention in attentions:
                for linear in ("query", "key", "value", "out"):
                    state[f"{block}.{attention}.{linear}.weight"] = draw(DIM, DIM, scale=0.4)
                    if linear != "key":
                        state[f"{block}.{attention}.{linear}.bias"] = draw(DIM, scale=0.1)
            state[f"{block}.mlp.0.weight"], state[f"{block}.mlp.0.bias"] = draw(HIDDEN, DIM), draw(HIDDEN, scale=0.1)
            state[f"{block}.mlp.2.weight"], state[f"{block}.mlp.2.bias"] = draw(DIM, HIDDEN), draw(DIM, scale=0.1)
        for norm in norms:
            state[f"{norm}.weight"], state[f"{norm}.bias"] = draw(DIM, scale=0.1, around=1), draw(DIM, scale=0.1)
    return state


def write_openai(folder: Path, state: dict[str, Tensor]) -> Path:
    dims = {"n_mels": BINS, "n_audio_ctx": 1500, "n_audio_state": DIM, "n_audio_head": HEADS, "n_audio_layer": BLOCKS}
    dims |= {"n_vocab": len(vocabulary()), "n_text_ctx": POSITIONS, "n_text_state": DIM}
    dims |= {"n_text_head": HEADS, "n_text_layer": BLOCKS}
    folder.mkdir()
    torch.save({"dims": dims, "model_state_dict": state}, folder / "tiny.pt")
    return folder / "tiny.pt"


def write_huggingface(folder: Path, state: dict[str, Tensor], shards: int = 1) -> Path:
    config = {"model_type": "whisper", "d_model": DIM, "encoder_attention_heads": HEADS, "activation_function": "gelu"}
    config |= {"decoder_attention_heads": HEADS, "encoder_layers": BLOCKS, "decoder_layers": BLOCKS}
    config |= {"scale_embedding": False, "num_mel_bins": BINS, "vocab_size": len(vocabulary())}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {_huggingface_name(name): tensor for name, tensor in state.items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    files: dict[str, dict[str, Tensor]] = {f"model-{i:05}.safetensors": {} for i in range(shards)}
    places = {name: list(files)[i % shards] for i, name in enumerate(tensors)}
    for name, file in places.items():
        files[file][name] = tensors[name]
    for file, part in files.items():
        save_file(part, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def _huggingface_name(name: str) -> str:
    part, *rest = name.split(".")
    if rest[0] != "blocks":
        names = {"ln_post": "layer_norm", "ln": "layer_norm", "token_embedding": "embed_tokens"}
        if rest[0] == "positional_embedding":
            return f"model.{part}.embed_positions.weight"
        return ".".join(["model", part, names.get(rest[0], rest[0]), *rest[1:]])
    block = {
        "attn_ln": "self_attn_layer_norm",
        "cross_attn_ln": "encoder_attn_layer_norm",
        "mlp_ln": "final_layer_norm",
        "attn": "self_attn",
        "cross_attn": "encoder_attn",
    }
    linear = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    _, number, module, *tail = rest
    if module == "mlp":
        inner = ["fc1" if tail[0] == "0" else "fc2", tail[1]]
    elif module.endswith("_ln"):
        inner = [block[module], tail[0]]
    else:
        inner = [block[module], linear[tail[0]], tail[1]]
    return ".".join(["model", part, "layers", number, *inner])


def write_ctranslate2(folder: Path, state: dict[str, Tensor], quantization: str | None = None) -> Path:
    """Write the model with CTranslate2's own writer."""
    from ctranslate2.specs import WhisperSpec

    state = {name: tensor.clone() for name, tensor in state.items()}  # quantising writes into what it is given
    spec = WhisperSpec(BLOCKS, HEADS, BLOCKS, HEADS)

    def fill(target: Any, *names: str, weights: tuple[str, str] = ("weight", "bias")) -> None:
        tensors = [state[f"{name}.weight"] for name in names]
        biases = [state.get(f"{name}.bias", torch.zeros(DIM)) for name in names]
        setattr(target, weights[0], torch.cat(tensors).numpy())
        setattr(target, weights[1], torch.cat(biases).numpy())

    for conv in ("conv1", "conv2"):
        fill(getattr(spec.encoder, conv), f"encoder.{conv}")
    for part, last in (("encoder", "ln_post"), ("decoder", "ln")):
        target = getattr(spec, part)
        target.position_encodings.encodings = state[f"{part}.positional_embedding"].numpy()
        fill(target.layer_norm, f"{part}.{last}", weights=("gamma", "beta"))
        for i, layer in enumerate(target.layer):
            block = f"{part}.blocks.{i}"
            attention = layer.self_attention
            fill(attention.layer_norm, f"{block}.attn_ln", weights=("gamma", "beta"))
            fill(attention.linear[0], *(f"{block}.attn.{each}" for each in ("query", "key", "value")))
            fill(attention.linear[1], f"{block}.attn.out")
            if part == "decoder":
                fill(layer.attention.layer_norm, f"{block}.cross_attn_ln", weights=("gamma", "beta"))
                fill(layer.attention.linear[0], f"{block}.cross_attn.query")
                fill(layer.attention.linear[1], *(f"{block}.cross_attn.{each}" for each in ("key", "value")))
                fill(layer.attention.linear[2], f"{block}.cross_attn.out")
            fill(layer.ffn.layer_norm, f"{block}.mlp_ln", weights=("gamma", "beta"))
            fill(layer.ffn.linear_0, f"{block}.mlp.0")
            fill(layer.ffn.linear_1, f"{block}.mlp.2")
    spec.decoder.embeddings.weight = state["decoder.token_embedding.weight"].numpy()
    spec.decoder.projection.weight = state["decoder.token_embedding.weight"].numpy()
    spec.register_vocabulary(vocabulary())
    spec.validate()
    spec.optimize(quantization)
    folder.mkdir()
    spec.save(str(folder))
    return folder


def decoder_logits(state: dict[str, Tensor], memory: Tensor, x: Tensor, heads: int = HEADS) -> Tensor:
    """OpenAI's `TextDecoder.forward` after its embeddings: x (U, D) and memory (S, D) to the last norm's output (U, D),
    which the rows of the token embedding turn into logits."""

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (x.shape[-1],), state[f"{name}.weight"], state[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def attention(x: Tensor, of: Tensor, name: str, causal: bool) -> Tensor:
        q, k, v = linear(x, f"{name}.query"), linear(of, f"{name}.key"), linear(of, f"{name}.value")
        outs = []
        for qh, kh, vh in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
            scores = qh @ kh.T / math.sqrt(qh.shape[-1])
            if causal:
                scores = scores + torch.full_like(scores, -torch.inf).triu(1)
            outs.append(torch.softmax(scores, -1) @ vh)
        return linear(torch.cat(outs, -1), f"{name}.out")

    blocks = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("decoder.blocks."))
    for i in range(blocks):
        block = f"decoder.blocks.{i}"
        normed = norm(x, f"{block}.attn_ln")
        x = x + attention(normed, normed, f"{block}.attn", causal=True)
        x = x + attention(norm(x, f"{block}.cross_attn_ln"), memory, f"{block}.cross_attn", causal=False)
        hidden = functional.gelu(linear(norm(x, f"{block}.mlp_ln"), f"{block}.mlp.0"))
        x = x + linear(hidden, f"{block}.mlp.2")
    return norm(x, "decoder.ln")
