"""WeNet's checkpoints give WeNet's outputs: encoder to 1e-4, log-probabilities and losses to 1e-3."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from unichoir.errors import CheckpointError, ConfigError
from unichoir.model.conformer import places_kept
from unichoir.model.masks import ChunkMask
from unichoir.model.wenet import load_wenet

TINY = "wenet_moe_tiny"
NAMES = [TINY, "wenet_dense", "wenet_moe", "wenet_moe_top1_nobias"]


@pytest.fixture(params=NAMES)
def checkpoint(request: pytest.FixtureRequest) -> Path:
    if request.param == TINY:
        return Path(request.getfixturevalue("fixtures")) / TINY
    return Path(request.getfixturevalue("shared")) / "fixtures" / "wenet" / request.param


def assert_rows_close(ours: Tensor, reference: Tensor, lengths: Tensor, tolerance: float) -> None:
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(ours[row, :length], reference[row, :length], rtol=0, atol=tolerance)


@torch.no_grad()
def test_every_reference_array(checkpoint: Path) -> None:
    model = load_wenet(checkpoint).model
    arrays = np.load(checkpoint / "reference.npz")
    reference = {name: torch.from_numpy(arrays[name]) for name in arrays}
    feats, lengths = reference["feats"], reference["feats_lengths"]
    compared = {"waveform_int16", "fbank", "feats", "feats_lengths"}  # the filterbank has a test of its own
    for name in reference:
        if match := re.fullmatch(r"encoder_out_(full|chunk(\d+)_left(-?\d+))", name):
            chunk = None if match[1] == "full" else ChunkMask(int(match[2]), int(match[3]))
            out, lens, _ = model.encoder(feats, lengths, chunk=chunk)
            assert torch.equal(lens, reference[f"{name}_lens"])
            assert_rows_close(out, reference[name], lens, 1e-4)
            compared |= {name, f"{name}_lens"}
        elif match := re.fullmatch(r"encoder_out_streaming_chunk(\d+)_left(-?\d+)", name):
            size, left = int(match[1]), int(match[2])
            state, chunks = model.encoder.initial_state(1), []
            utterance = feats[:1, : int(lengths[0])]
            for start in range(0, utterance.shape[1] - 6, 4 * size):
                window = utterance[:, start : start + 4 * (size - 1) + 7]
                num_frames = window.shape[1]
                kept = places_kept(state.num_past, (num_frames - 3) // 4, left * size if left >= 0 else -1)
                out, _, state = model.encoder(window, torch.tensor([num_frames]), state=state, kept=torch.tensor(kept))
                chunks.append(out)
            torch.testing.assert_close(torch.cat(chunks, dim=1), reference[name], rtol=0, atol=1e-4)
            compared.add(name)
    encoder_out, encoder_out_lens, _ = model.encoder(feats, lengths)
    assert_rows_close(model.ctc.log_probs(encoder_out), reference["ctc_log_probs_full"], encoder_out_lens, 1e-3)
    for decoder, prefix in ((model.left_decoder, ""), (model.right_decoder, "reverse_")):
        assert decoder is not None
        token_lens = reference["decoder_in_lens"]
        logits = decoder(encoder_out, encoder_out_lens, reference[f"{prefix}decoder_in"], token_lens)
        ours, expected = torch.log_softmax(logits, dim=-1), reference[f"{prefix}decoder_log_probs"]
        assert_rows_close(ours, expected, token_lens, 1e-3)
    losses = model(feats, lengths, reference["target"], reference["target_lengths"])
    for ours, name in ((losses.loss, "loss"), (losses.ctc, "loss_ctc"), (losses.attention, "loss_att")):
        torch.testing.assert_close(ours, reference[name], rtol=0, atol=1e-3)
    compared |= {"ctc_log_probs_full", "decoder_in", "reverse_decoder_in", "decoder_in_lens", "decoder_log_probs"}
    compared |= {"reverse_decoder_log_probs", "target", "target_lengths", "loss", "loss_ctc", "loss_att"}
    assert compared == set(reference)


@pytest.fixture
def copy(fixtures: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fixtures / TINY, tmp_path / "copy"))


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
        ("decoder_conf", "tie_word_embedding", True),
        ("model_conf", "apply_non_blank_embedding", True),
        ("", "encoder", "branchformer"),
        ("", "lfmmi_dir", "x"),
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
