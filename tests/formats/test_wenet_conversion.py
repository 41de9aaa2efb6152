"""WeNet's checkpoints are imported and exported again, with WeNet's outputs, bit for bit."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.formats.wenet_checkpoints import MOE, edit, own_checkpoint
from tests.formats.wenet_reference import TINY, assert_every_reference_array

from unichoir.audio.fbank import FbankConfig
from unichoir.configuration import to_mapping
from unichoir.errors import CheckpointError
from unichoir.export.checkpoint import load_any_checkpoint
from unichoir.export.wenet import export_wenet, import_wenet
from unichoir.formats.wenet.checkpoint import load_wenet
from unichoir.network.checkpoint import load_checkpoint
from unichoir.text.tokenizer import BpeTokenizer, load_tokenizer, train_bpe


def state(directory: Path) -> dict[str, torch.Tensor]:
    return torch.load(directory / "final.pt", weights_only=True)


def assert_same_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    expected = {name: tensor for name, tensor in expected.items() if not name.endswith(".pe")}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].numpy().tobytes() == tensor.numpy().tobytes(), name


def test_an_imported_checkpoint_gives_the_reference_outputs(checkpoint: Path, tmp_path: Path) -> None:
    import_wenet(checkpoint, tmp_path / "ours")
    model, sections = load_checkpoint(tmp_path / "ours")
    assert_every_reference_array(model, checkpoint)
    assert sections["fbank"] == to_mapping(FbankConfig(num_mel_bins=80, frame_length_ms=25.0, frame_shift_ms=10.0))
    assert (model.config.ctc_weight, model.config.reverse_weight, model.config.sos_id) == (0.3, 0.3, 2)


def test_there_and_back_no_bit_changes(checkpoint: Path, tmp_path: Path) -> None:
    import_wenet(checkpoint, tmp_path / "ours")
    assert export_wenet(tmp_path / "ours", tmp_path / "theirs") == []
    assert_same_bits(state(tmp_path / "theirs"), state(checkpoint))
    assert (tmp_path / "theirs" / "units.txt").read_bytes() == (checkpoint / "units.txt").read_bytes()
    before, after = (yaml.safe_load((path / "train.yaml").read_text()) for path in (checkpoint, tmp_path / "theirs"))
    for section in ("encoder_conf", "decoder_conf", "model_conf", "ctc_conf", "cmvn_conf"):
        kept = {key: value for key, value in before[section].items() if key != "activation_type"}
        assert kept.items() <= after[section].items(), section
    for key in ("encoder", "decoder", "model", "ctc", "cmvn", "input_dim", "output_dim", "tokenizer"):
        assert after[key] == before[key]
    assert after["tokenizer_conf"]["special_tokens"] == before["tokenizer_conf"]["special_tokens"]
    assert_every_reference_array(load_wenet(tmp_path / "theirs").model, checkpoint)
    import_wenet(tmp_path / "theirs", tmp_path / "again")
    for name in ("config.yaml", "model.safetensors", "units.txt"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()


def test_the_statistics_in_the_file_are_those_of_the_state(checkpoint: Path, tmp_path: Path) -> None:
    """WeNet opens `global_cmvn` first: its values by WeNet's formula, written out here."""
    import_wenet(checkpoint, tmp_path / "ours")
    export_wenet(tmp_path / "ours", tmp_path / "theirs")
    stats = json.loads((tmp_path / "theirs" / "global_cmvn").read_text())
    weights = state(checkpoint)
    for i, (total, squares) in enumerate(zip(stats["mean_stat"], stats["var_stat"], strict=True)):
        mean = total / stats["frame_num"]
        istd = 1.0 / (squares / stats["frame_num"] - mean * mean) ** 0.5
        assert mean == pytest.approx(float(weights["encoder.global_cmvn.mean"][i]), rel=1e-6)
        assert istd == pytest.approx(float(weights["encoder.global_cmvn.istd"][i]), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_without_loss(copy: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    half = {name: tensor.to(dtype) for name, tensor in state(copy).items()}
    torch.save(half, copy / "final.pt")
    import_wenet(copy, tmp_path / "ours")
    export_wenet(tmp_path / "ours", tmp_path / "theirs")
    assert_same_bits(state(tmp_path / "theirs"), {name: tensor.float() for name, tensor in half.items()})


def test_double_precision_that_would_be_rounded_is_refused(copy: Path, tmp_path: Path) -> None:
    weights = state(copy)
    doubles = {name: tensor.double() for name, tensor in weights.items()}
    torch.save(doubles, copy / "final.pt")
    import_wenet(copy, tmp_path / "ours")  # these all fit
    doubles["ctc.ctc_lo.bias"] = doubles["ctc.ctc_lo.bias"] + 1e-12
    torch.save(doubles, copy / "final.pt")
    with pytest.raises(CheckpointError, match=r"'ctc\.ctc_lo\.bias' is float64 and would be rounded"):
        import_wenet(copy, tmp_path / "other")


def test_counts_of_batch_norm_stay_whole_numbers(tmp_path: Path) -> None:
    """2^24 + 1 is no float32."""
    source = own_checkpoint(tmp_path / "own", conv_norm="batch_norm")
    export_wenet(source, tmp_path / "theirs")
    weights = state(tmp_path / "theirs")
    name = "encoder.encoders.0.conv_module.norm.num_batches_tracked"
    weights[name] = torch.tensor(2**24 + 1)
    torch.save(weights, tmp_path / "theirs" / "final.pt")
    import_wenet(tmp_path / "theirs", tmp_path / "ours")
    export_wenet(tmp_path / "ours", tmp_path / "again")
    assert_same_bits(state(tmp_path / "again"), weights)


@pytest.mark.parametrize("form", ["json", "kaldi", "old keys"])
def test_statistics_from_the_file(copy: Path, tmp_path: Path, form: str) -> None:
    weights = state(copy)
    torch.save({name: tensor for name, tensor in weights.items() if "global_cmvn" not in name}, copy / "final.pt")
    if form == "kaldi":
        stats = json.loads((copy / "global_cmvn").read_text())
        rows = [*stats["mean_stat"], stats["frame_num"]], [*stats["var_stat"], 0]
        text = " [\n" + "\n".join("  " + " ".join(map(repr, row)) for row in rows) + " ]\n"
        (copy / "global_cmvn").write_text(text)
        edit(copy, "cmvn_conf.is_json_cmvn", False)
    elif form == "old keys":  # before 2023
        edit(copy, "cmvn", None)
        edit(copy, "cmvn_conf", None)
        edit(copy, "cmvn_file", "data/train/global_cmvn")
        edit(copy, "is_json_cmvn", True)
    import_wenet(copy, tmp_path / "ours")
    encoder = load_checkpoint(tmp_path / "ours")[0].encoder
    torch.testing.assert_close(encoder.cmvn_mean, weights["encoder.global_cmvn.mean"])
    torch.testing.assert_close(encoder.cmvn_istd, weights["encoder.global_cmvn.istd"])


def test_a_model_without_normalisation(copy: Path, tmp_path: Path) -> None:
    """WeNet leaves statistics aside that its configuration does not ask for."""
    edit(copy, "cmvn", None)
    import_wenet(copy, tmp_path / "ours")
    assert torch.equal(load_checkpoint(tmp_path / "ours")[0].encoder.cmvn_istd, torch.ones(80))
    export_wenet(tmp_path / "ours", tmp_path / "theirs")
    assert not any("global_cmvn" in name for name in state(tmp_path / "theirs"))
    assert not (tmp_path / "theirs" / "global_cmvn").exists()
    assert yaml.safe_load((tmp_path / "theirs" / "train.yaml").read_text())["cmvn"] is None


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"conv_norm": "batch_norm", "conv_causal": False},
        {"decoder": {"num_reverse_blocks": 2}, "model": {"reverse_weight": 0.4, "dynamic_left_chunks": True}},
        {"decoder": {"memory": "non_blank"}},
        {"feed_forward": dataclasses.replace(MOE, bias=False), "decoder": {"feed_forward": MOE}},
        {"dropout": 0.2, "hidden_dropout": 0.2, "attention_dropout": 0.3, "model": {"label_smoothing": 0.0}},
        {"subsampling_channels": 8, "fbank": {"sample_rate": 8000, "frame_length_ms": 32.0, "frame_shift_ms": 8.0}},
        {"input_dim": 40, "fbank": {"kind": "mfcc", "num_mel_bins": 40, "low_freq": 40.0, "high_freq": -400.0}},
    ],
    ids=["plain", "batch norm", "two decoders", "lite", "experts", "dropout", "fbank", "mfcc"],
)
def test_ours_go_there_and_come_back(tmp_path: Path, changes: dict[str, Any]) -> None:
    source = own_checkpoint(tmp_path / "own", **changes)
    export_wenet(source, tmp_path / "theirs")
    import_wenet(tmp_path / "theirs", tmp_path / "again")
    (model, fbank), (back, fbank_back) = load_any_checkpoint(source), load_any_checkpoint(tmp_path / "again")
    assert fbank_back == fbank
    expected = model.config
    if expected.encoder.subsampling_channels:  # said otherwise
        expected = dataclasses.replace(
            expected, encoder=dataclasses.replace(expected.encoder, subsampling_channels=None)
        )
    assert back.config == expected
    assert_same_bits(back.state_dict(), model.state_dict())


def test_bpe_of_before_2023(copy: Path, tmp_path: Path) -> None:
    """The tokenizer was told on the command line then; spaces are for characters alone."""
    tokenizer = train_bpe(["THE CAT SAT ON THE MAT"] * 3, 20, copy)
    for key in ("tokenizer", "tokenizer_conf"):
        edit(copy, key, None)
    edit(copy, "dataset_conf.split_with_space", True)
    assert not any("bpe" in note for note in import_wenet(copy, tmp_path / "ours"))
    assert load_tokenizer(tmp_path / "ours").encode("the mat") == tokenizer.encode("the mat")
    edit(copy, "dataset_conf.split_with_space", None)
    (copy / "bpe.model").unlink()
    assert any("bpe.model" in note for note in import_wenet(copy, tmp_path / "decodes"))
    assert load_tokenizer(tmp_path / "decodes").decode(tokenizer.encode("the mat")) == "THE MAT"


def test_pieces_in_lower_case_are_said(tmp_path: Path) -> None:
    """WeNet turns text into upper case before BPE, which then finds no such piece."""
    for text, count in (("the cat sat on the mat", 1), ("THE CAT SAT ON THE MAT", 0)):
        tokenizer = train_bpe([text] * 3, 20, tmp_path / text[:1] / "bpe")
        source = own_checkpoint(tmp_path / text[:1] / "own", tokenizer=tokenizer)
        notes = export_wenet(source, tmp_path / text[:1] / "theirs")
        assert [note.partition(" before BPE")[0] for note in notes] == ["WeNet turns text into upper case"] * count


def test_bpe_under_other_names(copy: Path, tmp_path: Path) -> None:
    tokenizer = train_bpe(["THE CAT SAT ON THE MAT"] * 3, 20, tmp_path / "bpe")
    assert isinstance(tokenizer, BpeTokenizer)
    (copy / "units.txt").unlink()
    shutil.copyfile(tmp_path / "bpe" / "units.txt", copy / "train_units.txt")
    shutil.copyfile(tmp_path / "bpe" / "bpe.model", copy / "train.model")
    edit(copy, "tokenizer", "bpe")
    edit(copy, "tokenizer_conf.symbol_table_path", "data/lang/train_units.txt")
    edit(copy, "tokenizer_conf.bpe_path", "data/lang/train.model")
    import_wenet(copy, tmp_path / "ours")
    found = load_tokenizer(tmp_path / "ours")
    assert found.encode("the mat") == tokenizer.encode("the mat")
    export_wenet(tmp_path / "ours", tmp_path / "theirs")
    conf = yaml.safe_load((tmp_path / "theirs" / "train.yaml").read_text())
    assert (conf["tokenizer"], conf["tokenizer_conf"]["bpe_path"]) == ("bpe", "bpe.model")
    assert (tmp_path / "theirs" / "bpe.model").read_bytes() == (tmp_path / "bpe" / "bpe.model").read_bytes()
    (copy / "train.model").unlink()
    assert any("bpe_path" in note for note in import_wenet(copy, tmp_path / "decodes"))


def test_a_state_of_something_else_is_refused(copy: Path, tmp_path: Path) -> None:
    for content in ([torch.zeros(1)], {"epoch": 3}):
        torch.save(content, copy / "final.pt")
        with pytest.raises(CheckpointError, match=r"final\.pt: not the state of a model"):
            import_wenet(copy, tmp_path / "ours")
    # A pickle that would call a function when it is loaded.
    (copy / "final.pt").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "run").encode() + b"'\ntR.")
    with pytest.raises(CheckpointError, match=r"final\.pt: cannot be read"):
        import_wenet(copy, tmp_path / "ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]


def test_the_commands(fixtures: Path, tmp_path: Path, run_command: Callable[..., tuple[int, str, str]]) -> None:
    code, _, errors = run_command("import-wenet", fixtures / TINY, tmp_path / "ours")
    assert code == 0
    assert errors.splitlines()[-1] == f"{tmp_path / 'ours'}: written"
    code, _, errors = run_command("export-wenet", tmp_path / "ours", tmp_path / "theirs")
    assert (code, errors) == (0, f"{tmp_path / 'theirs'}: written\n")
    before = (tmp_path / "ours" / "config.yaml").read_bytes()
    for command, source in (("import-wenet", fixtures / TINY), ("export-wenet", tmp_path / "ours")):
        code, _, errors = run_command(command, source, tmp_path / "ours")
        assert code == 1
        assert re.search(r"ours: exists and is not an empty folder", errors)
    assert (tmp_path / "ours" / "config.yaml").read_bytes() == before
