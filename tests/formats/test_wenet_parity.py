"""WeNet's checkpoints give WeNet's outputs: encoder to 1e-4, log-probabilities and losses to 1e-3."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from tests.formats.wenet_reference import assert_every_reference_array

from unichoir.errors import CheckpointError, ConfigError
from unichoir.formats.wenet.checkpoint import load_wenet


def test_every_reference_array(checkpoint: Path) -> None:
    assert_every_reference_array(load_wenet(checkpoint).model, checkpoint)


def edit_config(directory: Path, section: str, key: str, value: object) -> None:
    path = directory / "train.yaml"
    content = yaml.safe_load(path.read_text())
    (content[section] if section else content)[key] = value
    path.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("encoder_conf", "cnn_module_kernle", 7),
        ("encoder_conf", "pos_enc_layer_type", "rope"),
        ("encoder_conf", "mlp_type", "gated"),
        ("encoder_conf", "activation_type", "gelu"),
        ("encoder_conf", "activation_type", "relu"),  # WeNet's convolution would be relu, too
        ("encoder_conf", "n_kv_head", 1),
        ("encoder_conf", "input_layer", "conv2d2"),
        ("encoder_conf", "num_blocks", "two"),
        ("decoder_conf", "activation_type", "tanh"),
        ("decoder_conf", "r_num_blocks", 0),
        ("decoder_conf", "tie_word_embedding", True),
        ("model_conf", "apply_non_blank_embedding", "yes"),
        ("", "encoder", "branchformer"),
        ("", "lfmmi_dir", "x"),
        ("", "cmvn", "per_utterance"),
        ("", "output_dim", None),
    ],
)
def test_a_configuration_that_cannot_be_represented_is_refused_by_name(
    copy: Path, section: str, key: str, value: object
) -> None:
    edit_config(copy, section, key, value)
    with pytest.raises(ConfigError, match=key):
        load_wenet(copy)


def test_missing_extra_and_misshapen_weights_are_refused_by_name(copy: Path) -> None:
    path = copy / "final.pt"
    weights = torch.load(path, weights_only=True)
    name = "encoder.encoders.1.feed_forward.experts.2.w_1.weight"
    torch.save({key: value for key, value in weights.items() if key != name}, path)
    with pytest.raises(CheckpointError, match=re.escape(name)):
        load_wenet(copy)
    torch.save({**weights, "encoder.surplus": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"encoder\.surplus"):
        load_wenet(copy)
    torch.save({**weights, "ctc.ctc_lo.bias": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"ctc\.ctc_lo\.bias.*shape"):
        load_wenet(copy)


@pytest.mark.parametrize("size", [6, 10**30])
@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("encoder_conf", "num_blocks"),
        ("encoder_conf", "output_size"),
        ("encoder_conf", "linear_units"),
        ("encoder_conf", "cnn_module_kernel"),
        ("encoder_conf", "n_expert"),
        ("decoder_conf", "num_blocks"),
        ("decoder_conf", "r_num_blocks"),
        ("decoder_conf", "linear_units"),
        ("decoder_conf", "n_expert"),
        ("", "input_dim"),
        ("", "output_dim"),
    ],
)
def test_sizes_are_compared_before_a_model_is_built(
    copy: Path, monkeypatch: pytest.MonkeyPatch, section: str, key: str, size: int
) -> None:
    monkeypatch.setattr(
        "unichoir.formats.wenet.checkpoint.AsrModel", lambda config: pytest.fail(f"a model of {config}")
    )
    edit_config(copy, section, key, size)
    edit_config(copy, "", "cmvn", None)  # then no statistics have the size of the features
    named = f"{section}: {key}: asks for {size} " if section else f"{key}( {size})?: asks for "
    with pytest.raises(
        (CheckpointError, ConfigError), match=rf"train\.yaml: ({named}|.*must (lie between|be at least))"
    ):
        load_wenet(copy)


def test_weights_whose_size_is_compared_may_be_missing_or_numbers(copy: Path) -> None:
    weights = torch.load(copy / "final.pt", weights_only=True)
    name = "ctc.ctc_lo.weight"
    torch.save({**weights, name: torch.tensor(1.0)}, copy / "final.pt")
    with pytest.raises(CheckpointError, match=rf"final\.pt: weight '{name}' has shape \(\)"):
        load_wenet(copy)
    torch.save({key: value for key, value in weights.items() if key != name}, copy / "final.pt")
    with pytest.raises(CheckpointError, match=rf"final\.pt: weight '{name}' is missing"):
        load_wenet(copy)


def test_damaged_and_missing_files_are_refused(copy: Path) -> None:
    (copy / "final.pt").write_bytes((copy / "final.pt").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"final\.pt: cannot be read"):
        load_wenet(copy)
    (copy / "final.pt").unlink()
    with pytest.raises(CheckpointError, match=r"final\.pt: no such file"):
        load_wenet(copy)
    (copy / "train.yaml").unlink()
    with pytest.raises(ConfigError, match=r"train\.yaml: no such file"):
        load_wenet(copy)


def test_position_buffers_and_statistics_may_be_left_out(copy: Path) -> None:
    before = load_wenet(copy).model.encoder
    weights = torch.load(copy / "final.pt", weights_only=True)
    weights = {key: value for key, value in weights.items() if "global_cmvn" not in key}
    weights["encoder.embed.pos_enc.pe"] = torch.zeros(1, 5000, 32)
    torch.save(weights, copy / "final.pt")
    after = load_wenet(copy).model.encoder
    torch.testing.assert_close(after.cmvn_mean, before.cmvn_mean)
    torch.testing.assert_close(after.cmvn_istd, before.cmvn_istd)
