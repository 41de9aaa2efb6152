"""The configurations of WeNet's recipes as differences from a few bases, and what is expected of each.

Only keys and values: names are folders and files of WeNet's `examples`, without `conf/train_` and the suffix.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

from unichoir.audio.fbank import FbankConfig

CONFORMER: dict[str, Any] = {
    "output_size": 256, "attention_heads": 4, "linear_units": 2048, "num_blocks": 12, "dropout_rate": 0.1,
    "positional_dropout_rate": 0.1, "attention_dropout_rate": 0.0, "input_layer": "conv2d", "normalize_before": True,
    "cnn_module_kernel": 15, "use_cnn_module": True, "activation_type": "swish", "pos_enc_layer_type": "rel_pos",
    "selfattention_layer_type": "rel_selfattn",
}  # fmt: skip
CHUNKS = {"use_dynamic_chunk": True, "use_dynamic_left_chunk": False}
CAUSAL = {"causal": True, "cnn_module_norm": "layer_norm", **CHUNKS}
U2PP = {**CAUSAL, "cnn_module_kernel": 8, "attention_dropout_rate": 0.1}
LARGE = {"output_size": 512, "attention_heads": 8}
LAYER_NORM = {"cnn_module_norm": "layer_norm"}
TRANSFORMER: dict[str, Any] = {
    key: CONFORMER[key]
    for key in (
        "output_size", "attention_heads", "linear_units", "num_blocks", "dropout_rate", "positional_dropout_rate",
        "attention_dropout_rate", "input_layer", "normalize_before",
    )
}  # fmt: skip
DECODER: dict[str, Any] = {
    "attention_heads": 4, "linear_units": 2048, "num_blocks": 6, "dropout_rate": 0.1, "positional_dropout_rate": 0.1,
    "self_attention_dropout_rate": 0.0, "src_attention_dropout_rate": 0.0,
}  # fmt: skip
TWO = {"num_blocks": 3, "r_num_blocks": 3}
MODEL = {"ctc_weight": 0.3, "lsm_weight": 0.1, "length_normalized_loss": False}
DATASET: dict[str, Any] = {
    "filter_conf": {"max_length": 40960, "min_length": 0, "token_max_length": 200, "token_min_length": 1},
    "resample_conf": {"resample_rate": 16000},
    "speed_perturb": True,
    "fbank_conf": {"num_mel_bins": 80, "frame_shift": 10, "frame_length": 25, "dither": 0.1},
    "spec_aug": True,
    "spec_aug_conf": {"num_t_mask": 2, "num_f_mask": 2, "max_t": 50, "max_f": 10},
    "shuffle": True, "shuffle_conf": {"shuffle_size": 1500}, "sort": True, "sort_conf": {"sort_size": 500},
    "batch_conf": {"batch_type": "static", "batch_size": 16},
}  # fmt: skip
MFCC = {
    **{key: value for key, value in DATASET.items() if key != "fbank_conf"},
    "feats_type": "mfcc",
    "mfcc_conf": {"num_mel_bins": 40, "num_ceps": 40, "low_freq": 20, "high_freq": -400},
}
OLD_DATASET = {"max_length": 40960, "min_length": 0, "batch_type": "static", "batch_size": 16, "sort": True}
COLLATE: dict[str, Any] = {
    "wav_distortion_conf": {"wav_dither": 1.0, "wav_distortion_rate": 0.0, "distortion_methods": []},
    "speed_perturb": True,
    "feature_extraction_conf": {
        "feature_type": "fbank", "mel_bins": 80, "frame_shift": 10, "frame_length": 25, "using_pitch": False,
    },
    "feature_dither": 0.0,
    "spec_aug": True,
    "spec_aug_conf": {"warp_for_time": False, "num_t_mask": 2, "max_w": 80},
}  # fmt: skip
TRAINING = {
    "grad_clip": 5, "accum_grad": 4, "max_epoch": 240, "log_interval": 100, "optim": "adam",
    "optim_conf": {"lr": 0.002}, "scheduler": "warmuplr", "scheduler_conf": {"warmup_steps": 25000},
}  # fmt: skip

# The keys of features in the three eras, and the keys that WeNet's training adds when it saves a train.yaml.
WAVES = {"dataset_conf": DATASET}
TORCHAUDIO = {"raw_wav": True, "collate_conf": COLLATE, "dataset_conf": OLD_DATASET}
KALDI = {"raw_wav": False, "collate_conf": {"spec_aug": True}, "dataset_conf": OLD_DATASET}
SIZES = {"input_dim": 80, "output_dim": 4233}
SAVED_2021 = {**SIZES, "cmvn_file": "exp/global_cmvn", "is_json_cmvn": True}
ADDED: dict[str, dict[str, Any]] = {
    "2021": SAVED_2021,
    "2021, no statistics": {**SIZES, "cmvn_file": None, "is_json_cmvn": False},
    "2023-03": {
        **SAVED_2021, "lfmmi_dir": "", "rank": 0, "is_distributed": True, "is_deepspeed": False, "use_amp": False,
        "init_infos": {},
    },
    "2023-11": {
        **SAVED_2021, "lfmmi_dir": None, "train_engine": "torch_ddp", "use_amp": True, "model_dir": "exp/conformer",
        "save_states": "model_only", "dtype": "fp32", "init_infos": {"epoch": 3}, "model": "asrmodel",
    },
    "2023-12": {
        **SIZES, "vocab_size": 4233, "train_engine": "deepspeed", "use_amp": False, "model_dir": "exp/conformer",
        "save_states": "model_only", "dtype": "bf16", "model": "asr_model", "dataset": "asr", "ctc": "ctc",
        "ctc_conf": {"ctc_blank_id": 0}, "cmvn": "global_cmvn",
        "cmvn_conf": {"cmvn_file": "data/train/global_cmvn", "is_json_cmvn": True}, "tokenizer": "char",
        "tokenizer_conf": {
            "symbol_table_path": "data/dict/lang_char.txt", "split_with_space": False, "bpe_path": None,
            "non_lang_syms_path": None, "is_multilingual": False, "num_languages": 1,
            "special_tokens": {"<blank>": 0, "<unk>": 1, "<sos>": 2, "<eos>": 2},
        },
    },
}  # fmt: skip


@dataclass
class Example:
    """A recipe's configuration. `read` holds expected values of the model by their path; `refused` an error's end.

    `fbank` is what the features are read as.
    """

    name: str
    encoder: str = "conformer"
    conf: dict[str, Any] = field(default_factory=dict)
    decoder: str = "transformer"
    decoder_conf: dict[str, Any] = field(default_factory=dict)
    model_conf: dict[str, Any] = field(default_factory=dict)
    features: dict[str, Any] = field(default_factory=lambda: WAVES)
    more: dict[str, Any] = field(default_factory=dict)
    read: dict[str, Any] = field(default_factory=dict)
    fbank: FbankConfig = field(default_factory=FbankConfig)
    refused: str = ""
    notes: str = ""

    def train_yaml(self, added: dict[str, Any]) -> dict[str, Any]:
        base = {"conformer": CONFORMER, "transformer": TRANSFORMER}.get(self.encoder, {})
        own = {
            **TRAINING,
            **self.features,
            "encoder": self.encoder,
            "encoder_conf": {**base, **self.conf},
            "decoder": self.decoder,
            "decoder_conf": {**DECODER, **self.decoder_conf},
            "model_conf": {**MODEL, **self.model_conf},
        }
        return copy.deepcopy({**own, **added, **self.more})


def _u2pp(name: str, conf: dict[str, Any], read: dict[str, Any], **more: Any) -> Example:
    """A model with two decoders of three blocks each."""
    both = {"decoder.num_blocks": 3, "decoder.num_reverse_blocks": 3, "reverse_weight": 0.3}
    return Example(
        name, conf=conf, decoder="bitransformer", decoder_conf=TWO, model_conf={"reverse_weight": 0.3},
        read={**both, **read}, **more,
    )  # fmt: skip


_BATCH = {"encoder.conv_norm": "batch_norm", "encoder.conv_causal": False, "encoder.conv_kernel": 15}
_STREAM = {"encoder.conv_norm": "layer_norm", "encoder.conv_causal": True}
_RELU = {
    "encoder.block": "transformer", "encoder.position": "absolute", "encoder.feed_forward.activation": "relu",
}  # fmt: skip
_WIDE = {"encoder.dim": 512, "encoder.num_heads": 8}
_SIX, _EIGHT = ({"encoder.subsampling": rate} for rate in (6, 8))
_SPLIT = {**DATASET, "split_with_space": True}
_CEPSTRA = FbankConfig(kind="mfcc", num_mel_bins=40, low_freq=20.0, high_freq=-400.0)

READ = [
    *(
        Example(f"{name}/conformer", read=_BATCH)
        for name in (
            "aishell/NST", "aishell/s0", "aishell/s3", "aishell4/s0", "csj/s0", "hkust/s0", "wsj/s0", "multi_cn/s0",
        )
    ),
    Example("aishell/s0/conformer_no_pos", conf={"pos_enc_layer_type": "no_pos"}, read={"encoder.position": "none"}),
    *(
        Example(f"{name}/transformer", "transformer", read=_RELU)
        for name in ("aishell/s0", "aishell/s0_deprecated", "multi_cn/s0")
    ),
    *(
        Example(f"{name}/unified_transformer", "transformer", CHUNKS, read=_RELU)
        for name in ("aishell/s0", "aishell/s0_deprecate", "aishell2/s0", "multi_cn/s0")
    ),
    *(
        Example(f"{name}/unified_conformer", conf=CAUSAL, read={**_STREAM, "encoder.conv_kernel": 15})
        for name in ("aishell/s0", "aishell2/s0", "librispeech/s0", "multi_cn/s0")
    ),
    *(
        _u2pp(f"{name}/u2++_transformer", CHUNKS, _RELU, encoder="transformer")
        for name in ("aishell/s0", "aishell/s0_deprecated", "aishell2/s0")
    ),
    *(
        _u2pp(f"{name}/u2++_conformer", {**U2PP, **conf}, {**_STREAM, "encoder.conv_kernel": kernel})
        for name, kernel, conf in (
            ("aishell/s0", 8, {}),
            ("aishell2/s0", 8, {"attention_dropout_rate": 0.0}),
            ("aishell4/s0", 8, {"gradient_checkpointing": True}),
            ("librispeech/s0", 15, {"cnn_module_kernel": 15}),
            ("wenetspeech/s0", 15, {**LARGE, "cnn_module_kernel": 15, "gradient_checkpointing": True}),
            ("wenetspeech/s0, aishell4", 15, {**LARGE, "cnn_module_kernel": 15, "gradient_checkpointing": True}),
        )
    ),
    _u2pp(
        "aishell/s0/u2++_conformer_1.8B",
        {**U2PP, "output_size": 2048, "attention_heads": 16, "linear_units": 8192, "input_layer": "conv2d8"},
        {**_STREAM, **_EIGHT, "encoder.dim": 2048, "encoder.feed_forward.hidden_dim": 8192},
    ),
    _u2pp("gigaspeech/s0/u2++_conformer", {**U2PP, **LARGE, "input_layer": "conv2d6"}, {**_WIDE, **_SIX, **_STREAM}),
    Example("aishell/s0/u2++_lite_conformer", conf=U2PP, decoder="bitransformer",
            decoder_conf={**TWO, "linear_units": 1024, "self_attention_dropout_rate": 0.1},
            model_conf={"reverse_weight": 0.3, "apply_non_blank_embedding": True},
            features={"dataset_conf": {**DATASET, "spec_sub": True, "spec_trim": False}},
            read={**_STREAM, "decoder.memory": "non_blank", "decoder.num_blocks": 3, "decoder.num_reverse_blocks": 3,
                  "decoder.feed_forward.hidden_dim": 1024}),
    _u2pp("vkw2021/s0/combine_finetune_5h", {**U2PP, "use_dynamic_chunk": False}, _STREAM),
    Example(
        "gigaspeech/s0/conformer", conf={**LARGE, **LAYER_NORM, "input_layer": "conv2d6", "cnn_module_kernel": 31},
        read={**_WIDE, **_SIX, "encoder.conv_norm": "layer_norm", "encoder.conv_kernel": 31},
    ),
    *(
        _u2pp(f"{name}/conformer_bidecoder", {**LARGE, **LAYER_NORM, "cnn_module_kernel": 31},
              {**_WIDE, "encoder.conv_kernel": 31, "encoder.conv_causal": False})
        for name in ("gigaspeech/s0", "librispeech/s0, large")
    ),
    _u2pp("wenetspeech/s0/conformer_bidecoder", {**LARGE, **LAYER_NORM}, _WIDE),
    Example("wenetspeech/s0/conformer", conf={**LARGE, **LAYER_NORM}, read=_WIDE),
    Example("librispeech/s0/conformer", read=_BATCH),
    Example("swbd/s0/conformer", conf={"cnn_module_kernel": 31}, read={"encoder.conv_kernel": 31}),
    Example(
        "tedlium3/s0/conformer", conf={**LAYER_NORM, "input_layer": "conv2d6", "cnn_module_kernel": 31}, read=_SIX,
    ),
    Example("aishell/s0_ssl/base_conformer_100h", conf=LARGE, decoder_conf={"num_blocks": 2, "linear_units": 512},
            model_conf={"ctc_weight": 0.7}, read={**_WIDE, "decoder.num_blocks": 2, "ctc_weight": 0.7}),
    *(
        Example(f"librispeech/ssl/finetune/{name}", conf=LARGE, more={"pretrain": False, key: {"pretrain": False}},
                read=_WIDE, notes=key)
        for name, key in (("conformer_100h", "wav2vec_conf"), ("conformer_100h_data2vec", "data2vec_conf"))
    ),
    *(
        Example(f"{name}/conformer", conf=LARGE, features={"dataset_conf": _SPLIT}, read=_WIDE,
                notes="split_with_space")
        for name in ("chime4/s0", "commonvoice/fr")
    ),
    *(
        Example(f"{name}/conformer", features={"dataset_conf": _SPLIT}, read=_BATCH, notes="split_with_space")
        for name in ("timit", "timit/s0")
    ),
    Example("timit/transformer", "transformer", {"dropout_rate": 0.2}, features={"dataset_conf": _SPLIT},
            read={**_RELU, "encoder.dropout": 0.2}, notes="split_with_space"),
    # Keys of other copies of WeNet don't matter to recognition, and are said.
    Example("aishell/NST/conformer_nst", more={"pseudo_ratio": 0.75, "supervised_dataset_conf": DATASET}, read=_BATCH,
            notes="pseudo_ratio, supervised_dataset_conf"),
    Example("aishell/s0/conformer for other hardware", conf=LAYER_NORM, more={"ipu_conf": {"seed": 1234}},
            features={"dataset_conf": {**DATASET, "padding_conf": {"dynamic": False}}},
            read={"encoder.conv_norm": "layer_norm"}, notes="ipu_conf, dataset_conf.padding_conf"),
    # Features of 2021.
    Example("aishell/s0_deprecated/conformer_no_pos", conf={"pos_enc_layer_type": "no_pos"}, features=TORCHAUDIO,
            read={"encoder.position": "none"}),
    *(
        Example(f"{name}, torchaudio", encoder, conf, features=TORCHAUDIO, read=read)
        for name, encoder, conf, read in (
            ("aishell/s0/conformer", "conformer", {}, _BATCH),
            ("aishell/s0/transformer", "transformer", {}, _RELU),
            ("aishell2/s0/unified_conformer", "conformer", CAUSAL, _STREAM),
            ("librispeech/s0/conformer", "conformer", {}, _BATCH),
        )
    ),
    Example(
        "tedlium3/s0/conformer, torchaudio", conf={**LAYER_NORM, "input_layer": "conv2d6"}, read=_SIX,
        features={**TORCHAUDIO, "dataset_conf": {**OLD_DATASET, "token_max_length": 400, "token_min_length": 1}},
    ),
    *(
        Example(f"aishell/s1/{name}", features={"collate_conf": COLLATE, "dataset_conf": OLD_DATASET}, read=_BATCH)
        for name in ("conformer_torchaudio", "conformer_torchaudio_wav_distort")
    ),
    Example("aishell/s1/conformer", features=KALDI, read=_BATCH, notes="Kaldi"),
    Example("aishell/s1/transformer", "transformer", features=KALDI, read=_RELU, notes="Kaldi"),
    Example("aishell/s1/unified_conformer", conf=CAUSAL, features=KALDI, read=_STREAM, notes="Kaldi"),
    Example("librispeech/s1/unified_conformer", conf={**LARGE, **CAUSAL}, features=KALDI, read=_WIDE, notes="Kaldi"),
    Example("librispeech/s1/conformer_large", conf={**LARGE, "cnn_module_kernel": 31, "positional_dropout_rate": 0.0},
            features=KALDI, read={**_WIDE, "encoder.conv_kernel": 31}, notes="Kaldi"),
    Example("openasr2021/s0/conformer_large_10h", conf=LARGE, features={"dataset_conf": MFCC}, more={"input_dim": 40},
            read={**_WIDE, "encoder.input_dim": 40}, fbank=_CEPSTRA),
    Example("openasr2021/s1/conformer_large_10h", conf=LARGE, features=KALDI, more={"input_dim": 40},
            read={**_WIDE, "encoder.input_dim": 40}, fbank=_CEPSTRA, notes="Kaldi"),
]  # fmt: skip

_EFFICIENT = {"encoder": "efficientConformer", "conf": {"efficient_conf": {"stride_layer_idx": [3], "stride": [2]}}}
_BRANCHES = {"use_attn": True, "cgmlp_linear_units": 2048, "cgmlp_conv_kernel": 63, "merge_method": "concat"}
_RNNT = {
    "joint_conf": {"join_dim": 512, "joint_mode": "add"}, "predictor": "rnn", "predictor_conf": {"rnn_type": "lstm"},
}  # fmt: skip
_CIF = {"cif_predictor": "predictor_v1", "cif_predictor_conf": {"idim": 256, "threshold": 1.0}}
_WHISPER: dict[str, Any] = {
    "model": "whisper", "tokenizer": "whisper", "cmvn": None, "ctc_conf": {"ctc_blank_id": 50363},
    "dataset_conf": {"feats_type": "log_mel_spectrogram", "log_mel_spectrogram_conf": {"num_mel_bins": 128}},
}  # fmt: skip
_WHISPER_ENCODER = {"pos_enc_layer_type": "abs_pos_whisper", "activation_type": "gelu", "key_bias": False}
_SANM = {"input_layer": "paraformer_dummy", "pos_enc_layer_type": "abs_pos_paraformer", "sanm_shfit": 0}

REFUSED = [
    *(
        Example(name, "squeezeformer", {"encoder_dim": 256, "reduce_idx": 5, "normalize_before": False},
                refused="encoder: 'squeezeformer' is a Squeezeformer")
        for name in ("librispeech/s0/squeezeformer", "librispeech/s0/squeezeformer_bidecoder_large",
                     "librispeech/s0/u2++_squeezeformer", "librispeech/squeezeformer")
    ),
    *(
        Example(name, **_EFFICIENT, refused="encoder: 'efficientConformer' is an Efficient Conformer")
        for name in ("aishell/s0/u2++_efficonformer_v1", "aishell/s0/u2++_efficonformer_v1_stream",
                     "aishell/s0/u2++_efficonformer_v2", "librispeech/s0/u2++_efficonformer_v1",
                     "librispeech/s0/u2++_efficonformer_v2")
    ),
    *(
        Example(name, "branchformer", _BRANCHES, refused="encoder: 'branchformer' is a Branchformer")
        for name in ("aishell/s0/u2++_branchformer", "aishell/s0/unified_branchformer_e24_amp",
                     "librispeech/s0/u2++_branchformer")
    ),
    Example("aishell/s0/ebranchformer", "e_branchformer", {"merge_conv_kernel": 31},
            refused="encoder: 'e_branchformer' is an E-Branchformer"),
    Example("librispeech/s0/u2++_chunkformer_small", "chunkformer", {"input_layer": "dw_striding"},
            refused="encoder: 'chunkformer' is a ChunkFormer"),
    Example("aishell/s0/unified_conformer_ctl", "dual_conformer", CAUSAL,
            model_conf={"ctl_weight": 1, "logit_temp": 0.4, "n_negatives": 100}, more={"model": "ctl_model"},
            refused=r"model: 'ctl_model' is a model with contrastive learning \(CTL\)"),
    *(
        Example(name, conf=conf, model_conf={"transducer_weight": 0.75, "attention_weight": 0.15}, more=_RNNT,
                refused="predictor: 'rnn' belongs to a transducer")
        for name, conf in (
            ("aishell/rnnt/conformer_rnnt", {}), ("aishell/rnnt/conformer_u2pp_rnnt", U2PP),
            ("aishell2/rnnt/conformer_rnnt", {}), ("aishell2/rnnt/conformer_u2pp_rnnt", U2PP),
            ("librispeech/rnnt/conformer_rnnt", {}),
        )
    ),
    Example("aishell/rnnt/example_embedding_predictor", more={**_RNNT, "model": "transducer"},
            refused="model: 'transducer' is a transducer"),
    *(
        Example(f"aishell/cif/{name}", decoder=decoder, model_conf={"predictor_weight": 1.0}, more=_CIF,
                refused="cif_predictor: 'predictor_v1' belongs to a CIF model")
        for name, decoder in (
            ("cif_conformer", "transformer"), ("cif_conformer_prev1", "cif_decoder_san"),
            ("cif_conformer_prev2", "tranformer"), ("cif_conformer_sanm_prev1", "cif_decoder_sanm"),
            ("cif_conformer_sanm_prev2", "cif_decoder_sanm"), ("paraformer", "transformer"),
        )
    ),
    *(
        Example(name, "sanm_encoder", _SANM, "sanm_decoder", more={"model": "paraformer", "input_dim": 560},
                refused="model: 'paraformer' is a Paraformer")
        for name in ("aishell/paraformer", "aishell/paraformer/dynamic", "wenetspeech/paraformer/dynamic")
    ),
    Example("aishell/sensevoice", "sanm_encoder_with_tp", _SANM, more={"model": "sensevoice_small", "decoder": None},
            refused="model: 'sensevoice_small' is a SenseVoice"),
    *(
        Example(name, "transformer", {**_WHISPER_ENCODER, "input_layer": front}, more={**_WHISPER, "tokenizer": kind},
                refused="model: 'whisper' is a Whisper")
        for name, front, kind in (
            ("aishell/whisper/largev3", "conv1d2", "whisper"), ("aishell/whisper/conv2d4", "conv2d", "whisper"),
            ("aishell/whisper/conv2d4_hybridtokenizer", "conv2d", "hybrid"),
            ("aishell/whisper/conv2d4_onlyattn", "conv2d", "whisper"),
            ("aishell/whisper/onlyattn", "conv1d2", "whisper"), ("wenetspeech/whisper/largev3", "conv1d2", "whisper"),
        )
    ),
    *(
        Example(f"aishell/s0/{name}", conf={"pos_enc_layer_type": "conv_module_pos",
                                            "selfattention_layer_type": "selfattn"},
                refused="encoder_conf: pos_enc_layer_type: 'conv_module_pos' belongs to a Fast Conformer")
        for name in ("fastconformer", "unified_fastconformer")
    ),
    Example("aishell/s0/blockformer", conf={"use_se_module": True, "se_module_channel": 12},
            refused="encoder_conf: use_se_module: belongs to a Blockformer"),
    *(
        Example(f"aishell/s0/{key}_{encoder}", encoder, {key: 12}, decoder_conf={key: 6},
                refused=f"encoder_conf: {key}: belongs to a model that repeats its blocks")
        for key in ("layer_duplicate", "layer_reuse") for encoder in ("conformer", "transformer")
    ),
    *(
        Example(f"librispeech/ssl/pretrain/{name}", conf=LARGE, more={"pretrain": True, key: {"pretrain": True}},
                refused="pretrain: belongs to pretraining")
        for name, key in (("w2v", "wav2vec_conf"), ("data2vec", "data2vec_conf"))
    ),
    # Not in a recipe's file, but written when it runs so.
    Example("LF-MMI", more={"lfmmi_dir": "data/local/lfmmi"}, refused="lfmmi_dir: 'data/local/lfmmi' belongs to a"),
    Example("LoRA", more={"lora_conf": {"lora_rank": 8}}, refused="lora_conf: belongs to a model with LoRA layers"),
]  # fmt: skip

NO_FEATURES = [
    Example("features with pitch", conf=LARGE, features=KALDI, more={"input_dim": 83},
            refused="raw_wav: Kaldi computed the features, .* only input_dim 80 and 40 can be read, found 83"),
    Example("librispeech/s0/conformer_large of 2020", conf=LARGE,
            features={"collate_conf": {"norm_mean": True, "norm_var": True}, "dataset_conf": OLD_DATASET},
            refused="collate_conf: norm_mean: True cannot be represented"),
]  # fmt: skip
"""Networks that are read, with features that are not."""
