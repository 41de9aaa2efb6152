"""Settings that only one of WeNet and unichoir can express, or that make no sense, are refused by name."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tests.formats.wenet_checkpoints import MOE, SPECIAL, edit, own_checkpoint

from unichoir.audio.fbank import FbankConfig
from unichoir.errors import CheckpointError, ConfigError
from unichoir.export.checkpoint import load_any_checkpoint
from unichoir.export.wenet import export_wenet, import_wenet
from unichoir.text.tokenizer import CharTokenizer


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"position": "rotary"}, "model.encoder.position: 'rotary'"),
        ({"subsampling_channels": 4}, "model.encoder.subsampling_channels: 4"),
        ({"feed_forward": dataclasses.replace(MOE, activation="relu")}, "model.encoder.feed_forward.activation"),
        ({"feed_forward": dataclasses.replace(MOE, shared_hidden_dim=4)}, "encoder.feed_forward.shared_hidden_dim: 4"),
        ({"feed_forward": dataclasses.replace(MOE, softmax_first=True)}, "encoder.feed_forward.softmax_first: True"),
        ({"feed_forward": dataclasses.replace(MOE, shared_router=True)}, "encoder.feed_forward.shared_router: True"),
        ({"feed_forward": dataclasses.replace(MOE, balance_rate=0.1)}, "encoder.feed_forward.balance_rate: 0.1"),
        ({"decoder": {"feed_forward": dataclasses.replace(MOE, load_loss_weight=0.1)}},
         r"decoder.feed_forward.load_loss_weight: 0.1 .* set it to 0.0 in config.yaml"),
        ({"hidden_dropout": 0.0}, r"model.encoder.hidden_dropout: 0.0 .* set it to 0.1 in config.yaml"),
        ({"decoder": {"hidden_dropout": 0.0}}, "model.decoder.hidden_dropout: 0.0"),
        ({"feed_forward": MOE, "model": {"dynamic_top_k": True}}, "model.dynamic_top_k: True"),
        ({"front": "conv1d"}, "model.encoder.front: 'conv1d'"),
        ({"block": "transformer"}, r"model.encoder.position: 'absolute_key' .* \(only 'absolute' and 'none' with a"),
        ({"num_top_blocks": 1}, "model.encoder.num_top_blocks: 1"),
        ({"decoder": {"position": "learned"}}, "model.decoder.position: 'learned'"),
        ({"fbank": {"high_freq": -400.0}}, "fbank.high_freq: -400.0"),
        ({"fbank": {"snip_edges": False}}, "fbank.snip_edges: False"),
        ({"fbank": {"low_freq": 0.0}}, "fbank.low_freq: 0.0"),
        ({"fbank": {"kind": "whisper", "num_mel_bins": 80}}, r"fbank.kind: 'whisper' .* \(only 'kaldi', 'mfcc'\)"),
        ({"fbank": {"kind": "mfcc", "snip_edges": False}}, "fbank.snip_edges: False"),
        ({"fbank": {"lead_frames": 2}}, "fbank.lead_frames: 2"),
        ({"tokenizer": CharTokenizer([*SPECIAL, "<|en|>", *"AB"])}, r"units.txt: .*'<\|en\|>'"),
        ({"tokenizer": CharTokenizer([*SPECIAL, "<0x00>", *"AB"])}, r"units.txt: .*'<0x00>'"),
    ],
)  # fmt: skip
def test_what_wenet_cannot_express_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    source = own_checkpoint(tmp_path / "own", **changes)
    with pytest.raises((ConfigError, CheckpointError), match=named):
        export_wenet(source, tmp_path / "theirs")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("encoder_conf.pos_enc_layer_type", "rope_pos"),
        ("encoder_conf.selfattention_layer_type", "rel_shift_selfattn"),
        ("dataset_conf.feats_type", "log_mel_spectrogram"),
        ("cmvn", "local_cmvn"),
        ("cmvn_conf.no_such_key", 1),
        ("dataset_conf.resample_conf.no_such_key", 1),
        ("dataset_conf.fbank_conf.window_type", "hamming"),
        ("dataset_conf.fbank_conf.high_freq", -400),
        ("dataset_conf.fbank_conf.num_mel_bins", 40),
        ("tokenizer", "whisper"),
        ("tokenizer_conf.connect_symbol", "_"),
        ("tokenizer_conf.is_multilingual", True),
        ("tokenizer_conf.no_such_key", 1),
        ("tokenizer_conf.special_tokens.<blank>", 3),
        ("tokenizer_conf.special_tokens.<transcribe>", 4),
    ],
)
def test_what_we_cannot_express_is_refused_by_name(copy: Path, tmp_path: Path, key: str, value: object) -> None:
    edit(copy, key, value)
    with pytest.raises((ConfigError, CheckpointError), match=key.rpartition(".")[2]):
        import_wenet(copy, tmp_path / "ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokenizer_conf", 5),
        ("tokenizer_conf.special_tokens", [2]),
        ("dataset_conf", ["fbank"]),
        ("cmvn_conf", ["global_cmvn"]),
        ("dataset_conf.fbank_conf", "fbank"),
        ("encoder_conf", [1]),
        ("output_dim", -4),
        ("encoder_conf.output_size", 0),
        ("encoder_conf.attention_heads", 0),
        ("encoder_conf.dropout_rate", float("nan")),
        ("decoder_conf.n_expert_activated", 99),
    ],
)
def test_values_that_make_no_sense_are_named_with_their_file(
    copy: Path, tmp_path: Path, key: str, value: object
) -> None:
    edit(copy, key, value)
    section = key.split(".")[0]
    with pytest.raises(ConfigError, match=rf"train\.yaml: {section}: "):
        import_wenet(copy, tmp_path / "ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]


def test_what_matters_to_training_alone_is_said(copy: Path, tmp_path: Path) -> None:
    edit(copy, "decoder_conf.src_attention_dropout_rate", 0.2)
    edit(copy, "encoder_conf.use_dynamic_chunk", False)
    notes = import_wenet(copy, tmp_path / "ours")
    assert [note.partition(" ")[0] for note in notes] == [
        "decoder_conf.src_attention_dropout_rate",
        "encoder_conf.use_dynamic_chunk",
        "dataset_conf.fbank_conf.dither",
    ]


def test_what_matters_to_encoding_text_alone_is_said(copy: Path, tmp_path: Path) -> None:
    edit(copy, "tokenizer_conf.split_with_space", True)
    edit(copy, "tokenizer_conf.non_lang_syms_path", "data/nlsyms.txt")
    split, symbols = import_wenet(copy, tmp_path / "ours")[-2:]
    assert split.startswith("split_with_space true: recognition joins the tokens")
    assert symbols.startswith("tokenizer_conf.non_lang_syms_path: symbols such as [NOISE] are recognised")


def test_unknown_keys_that_cannot_matter_are_said_in_one_note(copy: Path, tmp_path: Path) -> None:
    edit(copy, "new_training_conf", {"a": 1})
    edit(copy, "dataset_conf.new_augmentation", True)
    edit(copy, "collate_conf", {"feature_extraction_conf": {}, "new_noise": 0.1})
    *_, note = import_wenet(copy, tmp_path / "ours")
    unknown = "new_training_conf, dataset_conf.new_augmentation, collate_conf.new_noise"
    assert note == f"unknown keys of train.yaml, which are not kept: {unknown}"


def test_settings_of_training_are_no_obstacle(copy: Path, tmp_path: Path) -> None:
    """What the `dataset_conf` of WeNet's recipes holds, and its dataset reads, without a change to features."""
    for key, value in {
        "filter_conf": {"max_length": 40960, "token_max_length": 200, "max_output_input_ratio": 0.25},
        "speed_perturb": True,
        "spec_aug": True,
        "spec_aug_conf": {"num_t_mask": 2, "max_t": 50},
        "spec_sub": True,
        "spec_sub_conf": {"num_t_sub": 3},
        "spec_trim": False,
        "spec_trim_conf": {"max_t": 50},
        "shuffle": True,
        "shuffle_conf": {"shuffle_size": 1500},
        "sort": True,
        "sort_conf": {"sort_size": 500},
        "batch_conf": {"batch_type": "dynamic", "max_frames_in_batch": 36000},
        "list_shuffle": True,
        "cycle": 1,
        "split_with_space": False,
        "feats_type": "fbank",
        "mfcc_conf": {"num_ceps": 40},
    }.items():
        edit(copy, f"dataset_conf.{key}", value)
    assert not any("unknown" in note for note in import_wenet(copy, tmp_path / "ours"))
    assert load_any_checkpoint(tmp_path / "ours")[1] == FbankConfig()


def test_another_kind_of_model_is_named_before_all_that_it_has_differently(copy: Path, tmp_path: Path) -> None:
    for key, value in {
        "model": "whisper",
        "tokenizer": "whisper",
        "cmvn": "no",
        "encoder": "x",
        "input_dim": 0,
    }.items():
        edit(copy, key, value)
    (copy / "final.pt").unlink()
    (copy / "units.txt").unlink()
    with pytest.raises(ConfigError, match=r"train\.yaml: model: 'whisper' is a Whisper; only U2 and U2\+\+ models"):
        import_wenet(copy, tmp_path / "ours")


def test_a_tokenizer_is_checked_without_an_import_too(copy: Path) -> None:
    edit(copy, "tokenizer", "whisper")
    with pytest.raises(ConfigError, match="tokenizer: 'whisper'"):
        load_any_checkpoint(copy)
