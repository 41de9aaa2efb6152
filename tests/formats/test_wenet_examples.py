"""Each configuration of WeNet's recipes is read, or refused with its kind, as each year's training writes it."""

import functools
import itertools
from pathlib import Path
from typing import Any

import pytest
from tests.formats.wenet_examples import ADDED, NO_FEATURES, READ, REFUSED, Example

from unichoir.audio.fbank import FbankConfig
from unichoir.errors import ConfigError
from unichoir.export.checkpoint import wenet_fbank, wenet_tokenizer_files
from unichoir.formats.wenet.config import translate_config, wenet_config
from unichoir.formats.wenet.notes import notes_of_import
from unichoir.network.config import DecoderConfig, EncoderConfig, FeedForwardConfig, ModelConfig

PATH = Path("train.yaml")
ONLY = r"; only U2 and U2\+\+ models \(Conformer and Transformer encoders\) can be read$"


def mfcc(**conf: Any) -> dict[str, Any]:
    return {"dataset_conf": {"feats_type": "mfcc", "mfcc_conf": conf, "fbank_conf": {"dither": 0.5}}}


def named(examples: list[Example]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("example", examples, ids=[each.name for each in examples])


def value_at(config: object, path: str) -> object:
    return functools.reduce(getattr, path.split("."), config)


@named(READ)
def test_a_u2_model_is_read(example: Example, tmp_path: Path) -> None:
    expected = {
        "encoder.front": "conv2d",
        "encoder.block": example.encoder,
        "encoder.position": "absolute_key",
        "encoder.subsampling": 4,
        "encoder.num_blocks": 12,
        "encoder.feed_forward.activation": "swish",
        "decoder.num_blocks": 6,
        "decoder.num_reverse_blocks": 0,
        "decoder.feed_forward.activation": "relu",
        "decoder.memory": "all",
        "vocab_size": 4233,
        **example.read,
    }
    (tmp_path / "units.txt").write_text("<blank> 0\n")
    for era, added in ADDED.items():
        conf = example.train_yaml(added)
        config = translate_config(conf, PATH)
        assert {path: value_at(config, path) for path in expected} == expected, era
        # Before 2023-12, one token was both: the last one.
        assert (config.sos_id, config.eos_id) == ((2, 2) if "tokenizer" in added else (4232, 4232)), era
        assert wenet_fbank(conf, PATH) == example.fbank, era
        assert wenet_tokenizer_files(tmp_path, conf, PATH) == {"units.txt": tmp_path / "units.txt"}, era


@named(READ)
def test_only_what_is_unusual_is_said(example: Example) -> None:
    usual = ("dropout", "use_dynamic_chunk", "dither", "sample rate")
    for era, added in ADDED.items():
        notes = notes_of_import(example.train_yaml(added), of_characters=True)
        unusual = [note for note in notes if not any(word in note for word in usual)]
        assert [example.notes in note for note in unusual] == [True] * bool(example.notes), era


@named(REFUSED)
def test_another_kind_of_model_is_refused_with_its_name(example: Example) -> None:
    for added in ADDED.values():
        with pytest.raises(ConfigError, match=f"^train.yaml: {example.refused}.*{ONLY}"):
            translate_config(example.train_yaml(added), PATH)


@named(NO_FEATURES)
def test_other_features_are_refused(example: Example) -> None:
    for added in ADDED.values():
        conf = example.train_yaml(added)
        translate_config(conf, PATH)
        with pytest.raises(ConfigError, match=f"^train.yaml: {example.refused}"):
            wenet_fbank(conf, PATH)


@pytest.mark.parametrize(
    ("encoder", "changes", "named"),
    [
        ("conformer", {"macaron_style": False}, "macaron_style: False"),
        ("conformer", {"use_cnn_module": False}, "use_cnn_module: False"),
        ("conformer", {"concat_after": True}, "concat_after: True"),
        ("conformer", {"positionwise_conv_kernel_size": 3}, "positionwise_conv_kernel_size: 3"),
        ("conformer", {"activation_type": "relu"}, "activation_type: 'relu'"),
        ("conformer", {"conv_inner_factor": 4}, "conv_inner_factor: 4"),
        ("conformer", {"final_norm": False}, "final_norm: False"),
        ("conformer", {"static_chunk_size": 16}, "static_chunk_size: 16"),
        ("conformer", {"input_layer": "conv2d2"}, "input_layer: 'conv2d2'"),
        ("conformer", {"input_layer": "linear"}, "input_layer: 'linear'"),
        ("conformer", {"pos_enc_layer_type": "rope_pos"}, "'rope_pos' with 'rel_selfattn'"),
        ("conformer", {"pos_enc_layer_type": "abs_pos"}, "'abs_pos' with 'rel_selfattn'"),
        ("conformer", {"selfattention_layer_type": "selfattn"}, "'rel_pos' with 'selfattn'"),
        ("transformer", {"selfattention_layer_type": "rel_selfattn"}, "'abs_pos' with 'rel_selfattn'"),
        ("transformer", {"pos_enc_layer_type": "rel_pos"}, "'rel_pos' with 'selfattn'"),
        ("transformer", {"cnn_module_kernel": 15}, "unknown key 'cnn_module_kernel'"),
        ("transformer", {"activation_type": "tanh"}, "activation_type: 'tanh'"),
        ("transformer", {"no_such_key": 1}, "unknown key 'no_such_key'"),
    ],
)
def test_what_an_encoder_cannot_have_is_named(encoder: str, changes: dict[str, Any], named: str) -> None:
    example = Example("changed", encoder, changes)
    with pytest.raises(ConfigError, match=f"^train.yaml: encoder_conf: .*{named}"):
        translate_config(example.train_yaml(ADDED["2023-12"]), PATH)


def test_keys_of_old_versions_that_change_nothing_are_read() -> None:
    old = {"concat_after": False, "macaron_style": True, "positionwise_conv_kernel_size": 1, "static_chunk_size": -1}
    plain, changed = (Example("old", conf=conf).train_yaml(ADDED["2021"]) for conf in ({}, old))
    assert translate_config(changed, PATH) == translate_config(plain, PATH)


@pytest.mark.parametrize(
    ("example", "named"),
    [
        (Example("unknown encoder", "zipformer"), "encoder: 'zipformer' cannot be represented"),
        (Example("unknown model", more={"model": "new_model"}), "model: 'new_model' cannot be represented"),
        (Example("unknown decoder", decoder="lstm"), "decoder: 'lstm' cannot be represented"),
        (Example("statistics", more={"cmvn": "local_cmvn"}), "cmvn: 'local_cmvn' cannot be represented"),
        (Example("no statistics", more={"model_conf": [1]}), "model_conf: expected a mapping"),
    ],
)
def test_what_nobody_knows_is_refused(example: Example, named: str) -> None:
    with pytest.raises(ConfigError, match=f"^train.yaml: {named}"):
        translate_config(example.train_yaml(ADDED["2023-12"]), PATH)


@pytest.mark.parametrize(
    ("features", "named"),
    [
        ({"collate_conf": {"feature_extraction_conf": {"feature_type": "mfcc"}}}, "feature_type: 'mfcc'"),
        ({"collate_conf": {"feature_extraction_conf": {"using_pitch": True}}}, "using_pitch: True"),
        ({"collate_conf": {"feature_extraction_conf": {"no_such_key": 1}}}, "unknown key 'no_such_key'"),
        ({"dataset_conf": {"fbank_conf": {"frame_shift": 0}}}, "fbank_conf: frame_shift_ms"),
        ({"dataset_conf": {"feats_type": "log_mel_spectrogram"}}, r"feats_type: .* \(only 'fbank', 'mfcc'\)"),
        (
            mfcc(num_mel_bins=40, num_ceps=13),
            r"mfcc_conf: num_ceps: 13 cannot be represented \(only as many as num_mel_bins, 40\)",
        ),
        (mfcc(), "mfcc_conf: num_ceps: 40 .* num_mel_bins, 23"),
        (mfcc(num_ceps=23, window_type="povey"), "mfcc_conf: unknown key 'window_type'"),
        (mfcc(num_ceps=23, low_freq=9000), "mfcc_conf: low_freq 9000.0"),
    ],
)
def test_features_that_we_cannot_compute_are_named(features: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"^train.yaml: .*{named}"):
        wenet_fbank({**features, "input_dim": 80}, PATH)


def test_the_sample_rate_of_old_features_is_read_or_said() -> None:
    conf: dict[str, Any] = {"collate_conf": {"feature_extraction_conf": {"mel_bins": 40, "frame_length": 20}}}
    assert wenet_fbank(conf, PATH) == FbankConfig(num_mel_bins=40, frame_length_ms=20.0)
    assert any("16 kHz is assumed" in note for note in notes_of_import(conf, of_characters=True))
    conf["collate_conf"]["feature_extraction_conf"]["resample"] = 8000
    assert wenet_fbank(conf, PATH).sample_rate == 8000
    assert not any("16 kHz" in note for note in notes_of_import(conf, of_characters=True))


def test_the_settings_of_cepstra_are_read_with_wenets_defaults() -> None:
    assert wenet_fbank(mfcc(num_mel_bins=40), PATH) == FbankConfig(kind="mfcc", num_mel_bins=40)
    conf = mfcc(num_ceps=23, dither=1.0, frame_length=20, frame_shift=8, low_freq=64, high_freq=3800)
    expected = FbankConfig(
        kind="mfcc", num_mel_bins=23, frame_length_ms=20.0, frame_shift_ms=8.0, low_freq=64.0, high_freq=3800.0
    )
    assert wenet_fbank(conf, PATH) == expected
    assert any("mfcc_conf.dither 1.0" in note for note in notes_of_import(conf, of_characters=True))


def representable(block: str, position: str, activation: str, subsampling: int, norm: str, causal: bool) -> ModelConfig:
    convolution: dict[str, Any] = {}
    if block == "conformer":
        convolution = {"conv_norm": norm, "conv_causal": causal, "conv_kernel": 9}
    encoder: dict[str, Any] = {"block": block, "position": position, "subsampling": subsampling, **convolution}
    return ModelConfig(
        vocab_size=7,
        encoder=EncoderConfig(hidden_dropout=0.1, feed_forward=FeedForwardConfig(activation=activation), **encoder),
        decoder=DecoderConfig(hidden_dropout=0.1, feed_forward=FeedForwardConfig(activation="gelu")),
        sos_id=6,
        eos_id=6,
    )


CONFORMERS = itertools.product(
    ["conformer"],
    ["absolute_key", "absolute", "none"],
    ["swish"],
    [4, 6, 8],
    ["batch_norm", "layer_norm"],
    [True, False],
)
TRANSFORMERS = itertools.product(
    ["transformer"], ["absolute", "none"], ["relu", "swish", "gelu"], [4, 6, 8], ["layer_norm"], [True]
)


@pytest.mark.parametrize("kinds", [*CONFORMERS, *TRANSFORMERS], ids=str)
def test_what_wenet_can_express_comes_back(kinds: tuple[Any, ...]) -> None:
    config = representable(*kinds)
    assert translate_config(wenet_config(config), PATH) == config


@pytest.mark.parametrize(
    ("kinds", "keys"),
    [
        (("conformer", "absolute_key", "swish", 4, "layer_norm", True), ("conv2d", "rel_pos", "rel_selfattn")),
        (("conformer", "absolute", "swish", 6, "layer_norm", True), ("conv2d6", "abs_pos", "selfattn")),
        (("transformer", "absolute", "relu", 8, "layer_norm", True), ("conv2d8", "abs_pos", "selfattn")),
        (("transformer", "none", "gelu", 4, "layer_norm", True), ("conv2d", "no_pos", "selfattn")),
    ],
)
def test_the_keys_are_those_of_wenet(kinds: tuple[Any, ...], keys: tuple[str, ...]) -> None:
    written = wenet_config(representable(*kinds))
    section = written["encoder_conf"]
    assert (section["input_layer"], section["pos_enc_layer_type"], section["selfattention_layer_type"]) == keys
    assert (written["encoder"], section["activation_type"]) == (kinds[0], kinds[2])
    # WeNet's Transformer takes no keys of a convolution.
    assert ("cnn_module_kernel" in section) == ("causal" in section) == (kinds[0] == "conformer")
