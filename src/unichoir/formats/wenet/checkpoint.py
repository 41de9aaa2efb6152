"""Import and export of WeNet checkpoint directories (`train.yaml`, `final.pt`, `units.txt`, `global_cmvn`).

`config` translates the keys and `weights` the names of the weights. Every weight is used exactly once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from unichoir.bundle.replacing import replace_text, replacing
from unichoir.formats.wenet.config import translate_config, wenet_config
from unichoir.formats.wenet.sizes import check_sizes
from unichoir.formats.wenet.weights import (
    CMVN_FILE,
    WEIGHTS_FILE,
    is_identity,
    is_normalised,
    read_wenet_weights,
    translate_weights,
    wenet_weights,
    write_cmvn,
)
from unichoir.network.asr_model import AsrModel
from unichoir.network.checkpoint import load_weights, read_yaml

CONFIG_FILE = "train.yaml"


@dataclass(frozen=True)
class WenetModel:
    """A loaded WeNet checkpoint: the model, and train.yaml, which also describes filterbank and tokenizer."""

    model: AsrModel
    conf: dict[str, Any]


def load_wenet(directory: Path) -> WenetModel:
    """Load a U2 or U2++ model, dense or MoE, in float32.

    Raises ConfigError for a configuration key or value that can't be represented, CheckpointError for a weight that is
    missing, unexpected or of another size than configured. Both name it.
    """
    path = directory / CONFIG_FILE
    conf = read_yaml(path)
    config, checkpoint = translate_config(conf, path), directory / WEIGHTS_FILE
    weights = read_wenet_weights(directory, conf)
    check_sizes(config, weights, path, checkpoint)
    model = AsrModel(config)
    load_weights(model, translate_weights(weights, model, checkpoint, is_normalised(conf)), checkpoint)
    return WenetModel(model.eval(), conf)


def save_wenet(directory: Path, model: AsrModel, sections: Mapping[str, Any]) -> None:
    """Write train.yaml, final.pt and, if features are normalised, global_cmvn.

    `sections` are further keys of train.yaml (`dataset_conf`, `tokenizer`, ...). Raises ConfigError, naming the key of
    the model that WeNet has no counterpart for; nothing is written then.
    """
    conf = {**wenet_config(model.config), **sections}
    if is_identity(model):
        conf["cmvn"] = None
    else:
        conf |= {"cmvn": "global_cmvn", "cmvn_conf": {"cmvn_file": CMVN_FILE, "is_json_cmvn": True}}
        write_cmvn(model, directory / CMVN_FILE)
    with replacing(directory / WEIGHTS_FILE) as file:
        torch.save(wenet_weights(model), file)
    replace_text(directory / CONFIG_FILE, yaml.safe_dump(conf, allow_unicode=True))
