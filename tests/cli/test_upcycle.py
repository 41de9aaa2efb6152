"""`unichoir upcycle`: from a dense checkpoint to one that trains and exports."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from unichoir.cli.upcycle import upcycle
from unichoir.errors import CheckpointError, ConfigError, ManifestError, TrainingError
from unichoir.export.checkpoint import load_any_checkpoint
from unichoir.export.onnx import export_onnx
from unichoir.network.asr_model import AsrModel
from unichoir.network.checkpoint import load_checkpoint, save_checkpoint
from unichoir.network.config import DecoderConfig, EncoderConfig, FeedForwardConfig, ModelConfig
from unichoir.network.moe import MoE
from unichoir.text.tokenizer import CharTokenizer, build_char_units, load_tokenizer


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    tokenizer = CharTokenizer(build_char_units(["ABCDEF"]))
    layer = FeedForwardConfig(hidden_dim=24)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        encoder=EncoderConfig(
            input_dim=40, dim=16, num_blocks=1, num_heads=2, feed_forward=layer, subsampling_channels=4, conv_kernel=5
        ),
        decoder=DecoderConfig(num_blocks=1, num_reverse_blocks=0, num_heads=2, feed_forward=layer),
        reverse_weight=0.0,
    )
    torch.manual_seed(0)
    tokenizer.save(tmp_path / "dense")
    save_checkpoint(tmp_path / "dense", AsrModel(config), {"fbank": {"num_mel_bins": 40, "frame_length_ms": 20.0}})
    return tmp_path / "dense"


def wenet_dense(moe: Path, folder: Path) -> Path:
    """A dense WeNet checkpoint: made from one with experts by keeping the first expert of each layer."""
    shutil.copytree(moe, folder)
    conf = yaml.safe_load((folder / "train.yaml").read_text())
    for part in ("encoder_conf", "decoder_conf"):
        conf[part]["mlp_type"] = "position_wise_feed_forward"
        del conf[part]["n_expert"], conf[part]["n_expert_activated"]
    (folder / "train.yaml").write_text(yaml.safe_dump(conf))
    weights = torch.load(folder / "final.pt", weights_only=True)
    torch.save(
        {
            name.replace(".experts.0.", "."): tensor
            for name, tensor in weights.items()
            if ".gate." not in name and (".experts." not in name or ".experts.0." in name)
        },
        folder / "final.pt",
    )
    return folder


def assert_same_function(source: Path, target: Path) -> None:
    (expected, _), (found, _) = load_any_checkpoint(source), load_checkpoint(target)
    bins, tokens = expected.config.encoder.input_dim, torch.tensor([[3, 4, 5], [6, -1, -1]])
    batch = (torch.randn(2, 90, bins) * 4 + 8, torch.tensor([90, 61]), tokens, torch.tensor([3, 1]))
    with torch.no_grad():
        for field in ("loss", "ctc", "attention"):
            torch.testing.assert_close(getattr(found(*batch), field), getattr(expected(*batch), field))


@pytest.mark.slow
def test_a_checkpoint_that_trains_and_exports(dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "moe"
    upcycle(dense, out, experts=3, balance_rate=1e-3)
    assert "3 experts, top 2" in capsys.readouterr().err
    assert f"| made by | upcycling {dense} to 3 experts, top 2 |" in (out / "README.md").read_text()
    assert sorted(path.name for path in out.parent.rglob("*")) == [
        "README.md",
        "SHA256SUMS",
        "config.yaml",
        "model.safetensors",
        "moe",
        "units.txt",
    ]
    assert load_tokenizer(out).tokens == load_tokenizer(dense).tokens
    model, sections = load_checkpoint(out)
    assert sections["fbank"]["num_mel_bins"] == 40
    assert sections["fbank"]["frame_length_ms"] == 20.0
    layers = [module for module in model.modules() if isinstance(module, MoE)]
    assert [(layer.num_experts, layer.balance_rate) for layer in layers] == [(3, 1e-3)] * 3
    assert_same_function(dense, out)
    differences = export_onnx(out, tmp_path / "onnx")
    assert max(differences.values()) < 1e-4

    batch = torch.randn(2, 90, 40), torch.tensor([90, 61]), torch.tensor([[3, 4], [5, -1]]), torch.tensor([2, 1])
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        losses.append(model(*batch).loss)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_from_wenet(fixtures: Path, tmp_path: Path) -> None:
    source = wenet_dense(fixtures / "wenet_moe_tiny", tmp_path / "wenet")
    upcycle(source, tmp_path / "out", experts=4, top_k=1, seed=7)
    assert_same_function(source, tmp_path / "out")


def test_from_a_checkpoint_that_wenet_made(fixtures: Path, tmp_path: Path) -> None:
    source = fixtures / "wenet_dense"
    upcycle(source, tmp_path / "out", softmax_first=True, shared_router=True)
    assert_same_function(source, tmp_path / "out")


def test_what_is_refused_leaves_nothing_behind(dense: Path, fixtures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"wenet_moe_tiny: encoder\.feed_forward\.num_experts is 4"):
        upcycle(fixtures / "wenet_moe_tiny", out)
    with pytest.raises(ConfigError, match="dense: top_k 5 must lie between 1 and num_experts 4"):
        upcycle(dense, out, experts=4, top_k=5)
    with pytest.raises(CheckpointError, match="nowhere: no such checkpoint directory"):
        upcycle(tmp_path / "nowhere", out)
    (dense / "units.txt").rename(dense / "kept.txt")
    with pytest.raises(CheckpointError, match=r"units\.txt: no such file"):
        upcycle(dense, out)
    (dense / "kept.txt").rename(dense / "units.txt")
    assert not out.exists()
    out.mkdir()
    upcycle(dense, out, experts=4)  # an empty folder is as good as none
    with pytest.raises(CheckpointError, match="out: exists and is not an empty folder"):
        upcycle(dense, out, experts=4)
    with pytest.raises(CheckpointError, match=r"units\.txt: exists and is not an empty folder"):
        upcycle(dense, dense / "units.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "out"]


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """A manifest of ten utterances, one of which is too short for its transcript."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(10):
        samples = rng.normal(0, 0.1, 16000 if i else 2400)
        soundfile.write(tmp_path / f"u{i}.wav", samples, 16000)
        lines.append(json.dumps({"key": f"u{i}", "wav": f"u{i}.wav", "txt": "ABC" if i else "FEDCBA"}))
    (tmp_path / "speech.jsonl").write_text("\n".join(lines))
    return tmp_path / "speech.jsonl"


def with_two_decoders(dense: Path) -> Path:
    """A model whose right-to-left decoder does not contribute to its loss."""
    model, sections = load_checkpoint(dense)
    config = dataclasses.replace(model.config, decoder=dataclasses.replace(model.config.decoder, num_reverse_blocks=1))
    save_checkpoint(dense, AsrModel(config), {"fbank": sections["fbank"]})
    return dense


def test_split_on_speech(dense: Path, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "split"
    before, _ = load_checkpoint(with_two_decoders(dense))
    upcycle(dense, out, split=True, manifest=str(speech), experts=3, top_k=1, balance_rate=1e-3)
    written = capsys.readouterr().err
    assert "speech.jsonl: u0 left out: 6 tokens do not fit in 2 encoder frames" in written
    assert "split: 3 experts, top 1" in written
    how = f"splitting {dense} into 3 experts, top 1, 50% shared, by 9 utterances of {speech}"
    assert f"| made by | {how} |" in (out / "README.md").read_text()
    after, sections = load_checkpoint(out)
    assert sections["fbank"]["frame_length_ms"] == 20.0
    layers = [module for module in after.modules() if isinstance(module, MoE)]
    shapes = [(layer.num_experts, layer.top_k, layer.balance_rate, tuple(layer.experts.w_1.shape)) for layer in layers]
    assert shapes == [(3, 1, 1e-3, (3, 4, 16))] * 4
    assert load_tokenizer(out).tokens == load_tokenizer(dense).tokens
    # All that is no feed-forward layer is as it was.
    weights = after.state_dict()
    for name, tensor in before.state_dict().items():
        if ".feed_forward" not in name:
            torch.testing.assert_close(weights[name], tensor, rtol=0, atol=0)


def test_the_seed_draws_the_utterances(dense: Path, speech: Path, tmp_path: Path) -> None:
    def split(name: str, seed: int) -> dict[str, torch.Tensor]:
        upcycle(dense, tmp_path / name, split=True, manifest=str(speech), experts=2, utterances=3, seed=seed)
        assert "by 3 utterances of" in (tmp_path / name / "README.md").read_text()
        return load_checkpoint(tmp_path / name)[0].state_dict()

    first, again, other = split("first", 1), split("again", 1), split("other", 2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_what_does_not_go_together(
    dense: Path, fixtures: Path, speech: Path, tmp_path: Path, run_command: Callable[..., tuple[int, str, str]]
) -> None:
    out = tmp_path / "out"
    for arguments, wrong, why in (
        (["--split"], "--split", "needs --on MANIFEST"),
        (["--on", speech], "--on", "needs --split"),
        (["--shared-share", "0"], "--shared-share", "needs --split"),
        (["--utterances", "9"], "--utterances", "needs --split"),
        (["--split", "--on", speech, "--softmax-first"], "--softmax-first", "cannot be used with --split"),
        (["--split", "--on", speech, "--shared-router"], "--shared-router", "cannot be used with --split"),
    ):
        code, _, written = run_command("upcycle", dense, out, *arguments)
        assert code == 2
        assert f"Invalid value for {wrong}" in written
        assert why in written
    with pytest.raises(ConfigError, match=r"dense: encoder\.feed_forward: 12 units cannot be divided into 5 experts"):
        upcycle(dense, out, split=True, manifest=str(speech), experts=5)
    with pytest.raises(ConfigError, match=r"wenet_moe_tiny: encoder\.feed_forward\.num_experts is 4: only a dense"):
        upcycle(fixtures / "wenet_moe_tiny", out, split=True, manifest=str(speech))
    with pytest.raises(ManifestError, match="nowhere"):
        upcycle(dense, out, split=True, manifest=str(tmp_path / "nowhere.jsonl"), experts=3)
    speech.write_text(speech.read_text().splitlines()[0])
    with pytest.raises(TrainingError, match=r"speech\.jsonl: none of 1 utterances can be used; u0: 6 tokens do not"):
        upcycle(dense, out, split=True, manifest=str(speech), experts=3)
    assert not out.exists()
