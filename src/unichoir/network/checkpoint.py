"""Checkpoint directories: `config.yaml`, `model.safetensors` and their SHA-256 checksums, verified on loading."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unichoir.bundle.replacing import replace_text, replacing_path
from unichoir.bundle.sums import check_sums, write_sums
from unichoir.configuration import from_mapping, to_mapping
from unichoir.errors import CheckpointError, ConfigError
from unichoir.network.asr_model import AsrModel
from unichoir.network.config import ModelConfig

FORMAT_VERSION = 1


def save_checkpoint(
    directory: Path,
    model: AsrModel,
    sections: Mapping[str, Any] | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the model to `directory`; `sections` are further top-level keys of config.yaml (such as `fbank`).

    weights: replace the model's own weights, for a model that only holds a part of them. Each file is written
    atomically. SHA256SUMS is written last and lists all files of the model, so write the tokenizer's files first.
    """
    directory.mkdir(parents=True, exist_ok=True)
    weights = model.state_dict() if weights is None else weights
    weights = {name: tensor.contiguous().cpu() for name, tensor in weights.items()}
    with replacing_path(directory / "model.safetensors") as partial:
        save_file(weights, partial)
    config = {"format_version": FORMAT_VERSION, "model": to_mapping(model.config), **(sections or {})}
    replace_text(directory / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    write_sums(directory)


def load_checkpoint(directory: Path) -> tuple[AsrModel, dict[str, Any]]:
    """Read a model, in evaluation mode, and the other sections of its config.yaml.

    Raises CheckpointError for files that don't match SHA256SUMS, for unreadable, missing or unexpected weights, and for
    a newer format. Raises ConfigError for an invalid configuration.
    """
    sections = read_yaml(directory / "config.yaml")
    version = sections.pop("format_version", None)
    if version != FORMAT_VERSION:
        advice = ": a newer release is needed" if isinstance(version, int) and version > FORMAT_VERSION else ""
        raise CheckpointError(f"{directory}: format version {version}, this release reads {FORMAT_VERSION}{advice}")
    check_sums(directory)
    config = from_mapping(ModelConfig, sections.pop("model", None), f"{directory / 'config.yaml'}: model")
    path = directory / "model.safetensors"
    weights = read_weights(path)
    model = AsrModel(config)
    load_weights(model, weights, path)
    return model.eval(), sections


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file by name. Raises CheckpointError if the file is unreadable."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:  # safetensors raises its own type for any damaged file
        raise CheckpointError(f"{path}: cannot be read ({error})") from None


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Fill `model` with `weights`.

    Raises CheckpointError for a weight that is missing, unexpected or of another shape.
    """
    expected = model.state_dict()
    for name in expected:
        if name not in weights:
            raise CheckpointError(f"{path}: weight '{name}' is missing")
    for name, tensor in weights.items():
        if name not in expected:
            raise CheckpointError(f"{path}: weight '{name}' is not part of the model")
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, the model needs {tuple(expected[name].shape)}"
            raise CheckpointError(f"{path}: weight '{name}' has shape {shapes}")
    model.load_state_dict(dict(weights))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping. Raises ConfigError, naming the file, otherwise."""
    if not path.is_file():  # opening a named pipe would block
        raise ConfigError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())[:300]})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping at the top level")
    return content
