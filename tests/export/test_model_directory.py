"""A checkpoint is exported to a model directory that is complete, checked and never half written."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx_ir
import pytest

from unichoir.audio.fbank import FbankConfig
from unichoir.bundle.sums import write_sums
from unichoir.engine.onnx_backend import OnnxBackend
from unichoir.errors import CheckpointError, ConfigError, DecodingError
from unichoir.export.onnx import export_model, export_onnx
from unichoir.network.checkpoint import load_checkpoint, save_checkpoint


def test_a_model_directory_tells_whether_it_can_stream(exports) -> None:
    assert exports["not_causal"].backend.config.streaming is False
    assert exports["rotary_moe"].backend.config.streaming is True


@pytest.fixture
def checkpoint(exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint directory of `rotary_moe` whose export reuses the existing graphs instead of tracing again."""
    good, folder = exports["rotary_moe"], tmp_path / "checkpoint"
    folder.mkdir()
    shutil.copy(good.directory / "units.txt", folder)
    save_checkpoint(folder, good.model, {"fbank": {"num_mel_bins": 16, "snip_edges": False}})
    (folder / "README.md").write_text("trained on nothing\n")
    ready = {path.name: path for path in good.directory.glob("*.onnx")}
    monkeypatch.setattr(
        "unichoir.export.onnx._graphs",
        lambda _, fused: {name: partial(onnx_ir.load, path) for name, path in ready.items()},
    )
    return folder


def test_model_directory(exports, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # the second replaces the first
        differences = export_onnx(checkpoint, out)
        assert set(differences) == {"encoder", "streaming encoder", "CTC", "decoder", "reverse decoder"}
        assert all(difference < 1e-5 for difference in differences.values())
    backend = OnnxBackend(out)
    assert backend.config.fbank == FbankConfig(num_mel_bins=16, snip_edges=False)
    assert backend.config.parameters == sum(each.numel() for each in exports["rotary_moe"].model.parameters())
    card = (out / "README.md").read_text()
    assert "\ntrained on nothing\n" in card
    assert "| weights | float32 |\n| made by | export to ONNX, weights in float32 |" in card
    assert "## Licence\n\nNot stated." in card
    listed = {line.split()[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
    assert listed == {path.name for path in out.iterdir()} - {"README.md", "SHA256SUMS"}
    (out / "encoder.onnx").write_bytes((out / "encoder.onnx").read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"encoder\.onnx: truncated"):
        OnnxBackend(out)
    assert (out / "units.txt").read_bytes() == (checkpoint / "units.txt").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "out"]


def test_what_rescoring_takes_for_its_own(checkpoint: Path, tmp_path: Path, run_command) -> None:
    """From the command line to the model that is loaded; a configuration that says nothing of it is read as before."""
    out = tmp_path / "out"
    own = ["--ctc-weight", 0.25, "--attention-beam", 7, "--reencode", "--trail-frames", 12]
    code, _, errors = run_command("export", checkpoint, out, *own)
    assert code == 0, errors
    info = OnnxBackend(out).info
    assert (info.ctc_weight, info.attention_beam, info.reencode) == (0.25, 7, True)
    content = json.loads((out / "config.json").read_text())
    assert content["fbank"].pop("trail_frames") == 12
    assert [content["model"].pop(name) for name in ("ctc_weight", "attention_beam", "reencode")] == [0.25, 7, True]
    for name in ("config.json", "SHA256SUMS"):
        (out / name).unlink()
    (out / "config.json").write_text(json.dumps(content))
    assert OnnxBackend(out).info == replace(info, ctc_weight=0.5, attention_beam=0, reencode=False)
    export_onnx(checkpoint, out)
    assert OnnxBackend(out).info == replace(info, ctc_weight=0.5, attention_beam=0, reencode=False)
    for name in ("ctc_weight", "attention_beam"):
        with pytest.raises(DecodingError, match=f"{name}: .*, found -1"):
            export_onnx(checkpoint, out, **{name: -1})  # type: ignore[arg-type]
        flag = "--" + name.replace("_", "-")
        code, _, errors = run_command("export", checkpoint, out, flag, 1, "--target", "sherpa-onnx")
        assert code == 2
        assert flag in errors
        assert "sherpa-onnx does not rescore" in errors
    code, _, errors = run_command("export", checkpoint, out, "--trail-frames", 1, "--target", "sherpa-onnx")
    assert code == 2
    assert "sherpa-onnx adds no silence" in errors


def test_a_bad_export_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """The graphs are those of other weights: what was there before stays, and nothing is left behind."""
    model, sections = load_checkpoint(checkpoint)
    model.right_decoder.output_layer.bias.data[3] += 1e-3
    save_checkpoint(checkpoint, model, sections)
    out = tmp_path / "out"
    out.mkdir()
    out.joinpath("config.json").write_text("as it was")
    with pytest.raises(CheckpointError, match="reverse decoder differs from the model by"):
        export_onnx(checkpoint, out)
    assert [path.read_text() for path in out.iterdir()] == ["as it was"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "out"]


def test_large_graphs_have_their_weights_beside_them(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unichoir.export.graph.MAX_FILE_SIZE", 10_000)
    export_onnx(checkpoint, tmp_path / "out")
    assert (tmp_path / "out" / "encoder.onnx.data").stat().st_size > 10_000
    (tmp_path / "out").rename(tmp_path / "moved")
    OnnxBackend(tmp_path / "moved")


def test_bad_input(exports, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: no such checkpoint directory"):
        export_onnx(tmp_path / "nowhere", tmp_path / "out")
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="occupied: exists and is not a model directory"):
        export_onnx(checkpoint, occupied)
    assert (occupied / "thesis.txt").exists()
    with (checkpoint / "units.txt").open("a") as file:
        file.write("z 11\n")
    write_sums(checkpoint)
    with pytest.raises(CheckpointError, match=r"units\.txt: 12 tokens, the model has 11"):
        export_onnx(checkpoint, tmp_path / "out")
    model = exports["rotary_moe"].model
    files = exports["rotary_moe"].directory
    with pytest.raises(CheckpointError, match="num_mel_bins is 80, the model needs 16"):
        export_model(model, FbankConfig(), files, tmp_path / "out")
    model, _ = load_checkpoint(checkpoint)
    save_checkpoint(checkpoint, model, {"fbank": {"mel": 16}})
    with pytest.raises(ConfigError, match="unknown key 'mel'"):
        export_onnx(checkpoint, tmp_path / "out")
    model.encoder.blocks[0].self_attn.linear_q.weight.data[0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"self_attn\.linear_q\.weight' is too large for float16"):
        export_model(model, FbankConfig(num_mel_bins=16), files, tmp_path / "out", quantize="float16")
    assert not (tmp_path / "out").exists()
