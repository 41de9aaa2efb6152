"""WeNet's models with other front ends and blocks, in the engine without torch, recognise what they do in WeNet."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tests.formats.wenet_checkpoints import edit
from tests.formats.wenet_reference import LEFT_CHUNKS, decoded_as_wenet

from unichoir.engine.encoding import encode_utterance
from unichoir.engine.onnx_backend import OnnxBackend
from unichoir.export.onnx import export_onnx
from unichoir.export.wenet import import_wenet
from unichoir.formats.wenet.checkpoint import load_wenet
from unichoir.network.encoder import Encoder
from unichoir.text.wer import align, count_errors


@pytest.mark.parametrize(
    ("name", "quantize", "tolerance"),
    [("wenet_conv2d6", None, 1e-4), ("wenet_conv2d8", "int8", 0.2), ("wenet_transformer", "int8", 0.2)],
)
def test_exported_models_recognise_as_wenet(
    fixtures: Path, tmp_path: Path, name: str, quantize: str | None, tolerance: float
) -> None:
    reference = np.load(fixtures / name / "reference.npz")
    import_wenet(fixtures / name, tmp_path / "checkpoint")
    export_onnx(tmp_path / "checkpoint", tmp_path / "model", quantize=quantize)
    backend = OnnxBackend(tmp_path / "model", num_threads=1)
    feats, lengths = reference["feats"], reference["feats_lengths"]
    for chunk_size, expected in ((0, "encoder_out_full"), (4, "encoder_out_chunk4_left2")):
        encoder_out, lens = encode_utterance(backend, feats, lengths, chunk_size, LEFT_CHUNKS[chunk_size])
        assert lens.tolist() == reference["encoder_out_full_lens"].tolist()
        for row, length in enumerate(lens):
            difference = np.abs(encoder_out[row, :length] - reference[expected][row, :length])
            assert float(difference.max()) < tolerance
    wrong = tokens = 0
    for hyps, wanted in decoded_as_wenet(backend, fixtures / name):
        wrong += count_errors(align(list(map(str, wanted["tokens"])), list(map(str, hyps[0].tokens)))).errors
        tokens += len(wanted["tokens"])
    assert tokens > 50
    assert wrong <= (0.1 * tokens if quantize else 0)


def encoded(encoder: Encoder, reference: dict[str, np.ndarray]) -> torch.Tensor:
    with torch.no_grad():
        feats, lengths = torch.from_numpy(reference["feats"][:1]), torch.from_numpy(reference["feats_lengths"][:1])
        out: torch.Tensor = encoder(feats, lengths)[0]
        return out


@pytest.mark.parametrize("attention", ["rel_selfattn", "selfattn"])
def test_a_model_without_positions(fixtures: Path, tmp_path: Path, attention: str) -> None:
    """`no_pos` with `rel_selfattn` is `rel_pos` with a map of positions that is 0, on frames that are not scaled.

    A width of 64 makes the scale 8, and a division by 8 loses nothing.
    """
    source, reference = fixtures / "wenet_dense", np.load(fixtures / "wenet_dense" / "reference.npz")
    weights = torch.load(source / "final.pt", weights_only=True)
    encoder = load_wenet(source).model.encoder
    with torch.no_grad():
        encoder.subsampling.out.weight /= 8
        encoder.subsampling.out.bias /= 8
        for block in encoder.blocks:
            block.self_attn.linear_pos.weight.zero_()
            if attention == "selfattn":
                block.self_attn.pos_bias_u.zero_()
    if attention == "selfattn":  # such a model has none of these
        weights = {name: each for name, each in weights.items() if "linear_pos" not in name and "pos_bias" not in name}
    folder = tmp_path / "without"
    folder.mkdir()
    for name in ("units.txt", "global_cmvn", "train.yaml"):
        (folder / name).write_bytes((source / name).read_bytes())
    torch.save(weights, folder / "final.pt")
    edit(folder, "encoder_conf.pos_enc_layer_type", "no_pos")
    edit(folder, "encoder_conf.selfattention_layer_type", attention)
    assert yaml.safe_load((folder / "train.yaml").read_text())["encoder_conf"]["output_size"] == 64
    found = encoded(load_wenet(folder).model.encoder, reference)
    torch.testing.assert_close(found, encoded(encoder, reference), rtol=0, atol=2e-5)
    assert float((found - torch.from_numpy(reference["encoder_out_full"][:1])).abs().max()) > 1e-2


def test_layers_that_older_releases_saved_and_did_not_use(fixtures: Path, tmp_path: Path) -> None:
    source = fixtures / "wenet_transformer"
    weights = torch.load(source / "final.pt", weights_only=True)
    for block in (0, 1):
        weights[f"encoder.encoders.{block}.concat_linear.weight"] = torch.ones(48, 96)
        weights[f"encoder.encoders.{block}.concat_linear.bias"] = torch.ones(48)
    for side in ("left", "right"):
        for layer in (1, 2):
            weights[f"decoder.{side}_decoder.decoders.0.concat_linear{layer}.weight"] = torch.ones(48, 96)
            weights[f"decoder.{side}_decoder.decoders.0.concat_linear{layer}.bias"] = torch.ones(48)
    for name in ("units.txt", "global_cmvn", "train.yaml"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    torch.save(weights, tmp_path / "final.pt")
    reference = np.load(source / "reference.npz")
    found = encoded(load_wenet(tmp_path).model.encoder, reference)
    torch.testing.assert_close(found, torch.from_numpy(reference["encoder_out_full"][:1]), rtol=0, atol=1e-4)
