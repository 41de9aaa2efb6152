"""Kinds of models that WeNet trains besides U2 and U2++, recognised by the keys of their `train.yaml`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unichoir.errors import ConfigError

_CTL = "a model with contrastive learning (CTL)"
_K2 = "a model trained with LF-MMI (k2)"
_PARAFORMER = "a Paraformer"
_SENSEVOICE = "a SenseVoice"
_TRANSDUCER = "a transducer"
_CIF = "a CIF model"

# The kind by key, or by key and value. The keys that say most come first: a Whisper also is a `transformer`.
_KINDS: dict[str, str | dict[str, str]] = {
    "model": {
        "transducer": _TRANSDUCER,
        "paraformer": _PARAFORMER,
        "whisper": "a Whisper",
        "sensevoice_small": _SENSEVOICE,
        "firered": "a FireRedASR",
        "ctl_model": _CTL,
        "ctlmodel": _CTL,
        "k2_model": _K2,
        "k2model": _K2,
        "wav2vec_model": "a wav2vec 2.0 model for pretraining",
        "w2vbert_model": "a w2v-BERT model for pretraining",
        "bestrq_model": "a BEST-RQ model for pretraining",
        "causal_lm": "a language model",
    },
    "paraformer": _PARAFORMER,
    "cif_predictor": _CIF,
    "cif_predictor_conf": _CIF,
    "predictor": _TRANSDUCER,
    "predictor_conf": _TRANSDUCER,
    "joint_conf": _TRANSDUCER,
    "pretrain": "pretraining (wav2vec 2.0 or data2vec)",
    "lfmmi_dir": _K2,
    "model_conf.lfmmi_dir": _K2,
    "lora_conf": "a model with LoRA layers beside the others",
    "encoder": {
        "squeezeformer": "a Squeezeformer",
        "efficientConformer": "an Efficient Conformer",
        "branchformer": "a Branchformer",
        "e_branchformer": "an E-Branchformer",
        "chunkformer": "a ChunkFormer",
        "dual_conformer": _CTL,
        "dual_transformer": _CTL,
        "sanm_encoder": "an encoder of Paraformer",
        "sanm_encoder_with_tp": "an encoder of SenseVoice",
        "firered_conformer": "a FireRedASR",
    },
    "decoder": {"sanm_decoder": _PARAFORMER, "cif_decoder_san": _CIF, "cif_decoder_sanm": _CIF},
    "encoder_conf.pos_enc_layer_type": {
        "conv_module_pos": "a Fast Conformer, without positions beside its convolutions"
    },
    "encoder_conf.use_se_module": "a Blockformer",
    "encoder_conf.layer_reuse": "a model that repeats its blocks",
    "encoder_conf.layer_duplicate": "a model that repeats its blocks",
}


def refuse_other_kinds(conf: Mapping[str, Any], path: Path) -> None:
    """Raise ConfigError, saying which kind, for a train.yaml (`conf`, read from `path`) of another kind of model."""
    for key, kinds in _KINDS.items():
        section, _, name = key.rpartition(".")
        content = conf.get(section) if section else conf
        value = content.get(name) if isinstance(content, Mapping) else None
        if isinstance(kinds, str):
            kind = kinds if value else None
        else:
            kind = kinds.get(value) if isinstance(value, str) else None
        if kind:
            where = f"{section}: {name}" if section else name
            found = f"{value!r} " if isinstance(value, str) else ""
            verb = "is" if name in ("model", "encoder") else "belongs to"
            only = "only U2 and U2++ models (Conformer and Transformer encoders) can be read"
            raise ConfigError(f"{path}: {where}: {found}{verb} {kind}; {only}")
