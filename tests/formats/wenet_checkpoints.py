"""Small checkpoints with changed settings, in WeNet's format and in ours."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
import yaml

from unichoir.network.asr_model import AsrModel
from unichoir.network.checkpoint import save_checkpoint
from unichoir.network.config import DecoderConfig, EncoderConfig, FeedForwardConfig, ModelConfig
from unichoir.text.tokenizer import CharTokenizer

SPECIAL = ["<blank>", "<unk>", "<sos/eos>"]
MOE = FeedForwardConfig(hidden_dim=12, num_experts=3, top_k=2)


def edit(directory: Path, key: str, value: object) -> None:
    """Set a key of train.yaml, given as a path with dots; None removes it."""
    path = directory / "train.yaml"
    content = yaml.safe_load(path.read_text())
    *sections, name = key.split(".")
    section = content
    for each in sections:
        section = section.setdefault(each, {})
    section.pop(name, None)
    if value is not None:
        section[name] = value
    path.write_text(yaml.safe_dump(content))


def own_checkpoint(
    folder: Path, tokenizer: Any = None, fbank: dict[str, Any] | None = None, model: dict[str, Any] | None = None,
    decoder: dict[str, Any] | None = None, **encoder: Any,
) -> Path:  # fmt: skip
    """A small unichoir checkpoint that WeNet can express, except for the changed settings."""
    tokenizer = tokenizer or CharTokenizer([*SPECIAL, *"ABCDEF"])
    layer = FeedForwardConfig(hidden_dim=12)
    sizes: dict[str, Any] = {"input_dim": 80, "dim": 8, "num_blocks": 1, "num_heads": 2, "conv_kernel": 5}
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        encoder=EncoderConfig(
            **{**sizes, "feed_forward": layer, "position": "absolute_key", "hidden_dropout": 0.1, **encoder}
        ),
        decoder=DecoderConfig(
            **{
                **{"num_blocks": 1, "num_reverse_blocks": 0, "num_heads": 2, "hidden_dropout": 0.1},
                **{"feed_forward": dataclasses.replace(layer, activation="relu"), **(decoder or {})},
            }
        ),
        **{"reverse_weight": 0.0, **(model or {})},
    )
    torch.manual_seed(3)
    made = AsrModel(config)
    with torch.no_grad():
        made.encoder.cmvn_mean.normal_(8.0)
        made.encoder.cmvn_istd.uniform_(0.2, 0.4)
    tokenizer.save(folder)
    save_checkpoint(folder, made, {"fbank": fbank or {}})
    return folder
