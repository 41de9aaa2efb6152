"""What an imported model does not keep of WeNet's `train.yaml`."""

from collections.abc import Mapping
from typing import Any

# The known keys of the sections where an unknown one changes no result. At the top level: what is read, what recipes
# set, and what WeNet's training added in different years. Of `dataset_conf`: what is read, what selects, orders, groups
# or varies training data, and the same in 2021. `collate_conf` is from 2021 too.
_KNOWN = {
    "": {
        "cmvn", "cmvn_conf", "cmvn_file", "collate_conf", "ctc", "ctc_conf", "dataset", "dataset_conf", "decoder",
        "decoder_conf", "encoder", "encoder_conf", "input_dim", "is_json_cmvn", "model", "model_conf", "output_dim",
        "raw_wav", "tokenizer", "tokenizer_conf", "vocab_size",

        "accum_grad", "dtype", "grad_clip", "init_bias", "log_interval", "max_epoch", "optim", "optim_conf",
        "save_interval", "scheduler", "scheduler_conf",

        "cv_loss", "epoch", "init_infos", "is_deepspeed", "is_distributed", "lfmmi_dir", "lora_conf", "lr",
        "model_dir", "rank", "save_states", "save_time", "step", "tag", "train_engine", "use_amp",
    },
    "dataset_conf": {
        "fbank_conf", "feats_type", "resample_conf", "split_with_space",

        "batch_conf", "cycle", "filter_conf", "language_conf", "list_shuffle", "list_shuffle_conf",
        "log_mel_spectrogram_conf", "mfcc_conf", "shuffle", "shuffle_conf", "sort", "sort_conf", "spec_aug",
        "spec_aug_conf", "spec_sub", "spec_sub_conf", "spec_trim", "spec_trim_conf", "speed_perturb",

        "batch_size", "batch_type", "max_frames_in_batch", "max_length", "min_length", "token_max_length",
        "token_min_length",
    },
    "collate_conf": {
        "feature_dither", "feature_extraction_conf", "norm_mean", "norm_var", "spec_aug", "spec_aug_conf", "spec_sub",
        "spec_sub_conf", "speed_perturb", "wav_distortion_conf",
    },
}  # fmt: skip


def notes_of_import(conf: Mapping[str, Any], of_characters: bool) -> list[str]:
    """Return notes about the settings of a train.yaml that are not kept, or that have another effect here.

    conf: a train.yaml whose network, features and tokenizer could be read; of_characters: its tokenizer isn't BPE.
    """
    return [
        *_differences_in_training(conf),
        *_features(conf),
        *_tokenizer(conf, of_characters),
        *_unknown_keys(conf),
    ]


def is_from_kaldi(conf: Mapping[str, Any]) -> bool:
    """Return whether Kaldi computed the features (`raw_wav: false` of 2021). Then train.yaml doesn't describe them."""
    collate = conf.get("collate_conf")
    return conf.get("raw_wav") is False or (
        bool(collate) and not _section(conf, "collate_conf", "feature_extraction_conf")
    )


def _section(conf: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        content = conf.get(name)
        conf = content if isinstance(content, Mapping) else {}
    return conf


def _differences_in_training(conf: Mapping[str, Any]) -> list[str]:
    encoder, decoder = _section(conf, "encoder_conf"), _section(conf, "decoder_conf")
    notes = []
    for name, section, other, kept in (
        ("encoder_conf.positional_dropout_rate", encoder, "dropout_rate", 0.1),
        ("decoder_conf.positional_dropout_rate", decoder, "dropout_rate", 0.1),
        ("decoder_conf.src_attention_dropout_rate", decoder, "self_attention_dropout_rate", 0.0),
    ):
        own, instead = section.get(name.partition(".")[2], kept), section.get(other, kept)
        if own != instead:
            notes.append(f"{name} {own}: further training uses {other}, {instead}")
    if not encoder.get("use_dynamic_chunk", False):
        notes.append("encoder_conf.use_dynamic_chunk false: further training draws chunks")
    return notes


def _features(conf: Mapping[str, Any]) -> list[str]:
    notes = []
    feats_type = _section(conf, "dataset_conf").get("feats_type", "fbank")
    for *names, key in (
        ("dataset_conf", f"{feats_type}_conf", "dither"),
        ("collate_conf", "wav_distortion_conf", "wav_dither"),
    ):
        if dither := _section(conf, *names).get(key):
            notes.append(f"{'.'.join(names)}.{key} {dither}: for further training set augment.dither")
    collate = _section(conf, "collate_conf")
    if is_from_kaldi(conf):
        kind = "its mfcc_hires.conf (40 cepstra)" if conf.get("input_dim") == 40 else "80 mel bins"
        notes.append(f"raw_wav false: Kaldi computed the features; its settings are assumed: {kind}, 16 kHz")
    elif collate and "resample" not in _section(collate, "feature_extraction_conf"):
        notes.append("collate_conf without resample: a sample rate of 16 kHz is assumed")
    return notes


def _tokenizer(conf: Mapping[str, Any], of_characters: bool) -> list[str]:
    section, notes = _section(conf, "tokenizer_conf"), []
    splits = section.get("split_with_space") or _section(conf, "dataset_conf").get("split_with_space")
    if of_characters and splits:
        notes.append(
            "split_with_space true: recognition joins the tokens, as in WeNet; training, alignment and hotwords split "
            "text into characters, so they don't fit tokens of several characters"
        )
    if section.get("non_lang_syms_path"):
        notes.append(
            "tokenizer_conf.non_lang_syms_path: symbols such as [NOISE] are recognised, but text for training is not "
            "encoded to them"
        )
    return notes


def _unknown_keys(conf: Mapping[str, Any]) -> list[str]:
    unknown: list[str] = []
    for section, known in _KNOWN.items():
        content, prefix = (_section(conf, section), f"{section}.") if section else (conf, "")
        unknown += sorted(f"{prefix}{key}" for key in content if key not in known)
    return [f"unknown keys of train.yaml, which are not kept: {', '.join(unknown)}"] if unknown else []
