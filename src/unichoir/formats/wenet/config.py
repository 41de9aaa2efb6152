"""Translation between WeNet's `train.yaml` and ModelConfig.

Every key of the sections that define the network (`encoder_conf`, `decoder_conf`, `model_conf`, `ctc_conf`,
`cmvn_conf`, special tokens) is translated, known not to affect a trained model, or rejected by name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from unichoir.errors import ConfigError
from unichoir.formats.wenet.kinds import refuse_other_kinds
from unichoir.formats.wenet.section import Section
from unichoir.network.config import DecoderConfig, EncoderConfig, FeedForwardConfig, ModelConfig

# The values of each key that can be represented, WeNet's default first.
_SAME_IN_BOTH: dict[str, tuple[Any, ...]] = {
    "normalize_before": (True,),
    "concat_after": (False,),
    "layer_norm_type": ("layer_norm",),
    "norm_eps": (1e-5,),
    "query_bias": (True,),
    "key_bias": (True,),
    "value_bias": (True,),
    "n_kv_head": (None,),
    "head_dim": (None,),
    "gradient_checkpointing": (False, True),
    "use_sdpa": (False, True),
}
_ENCODER: dict[str, tuple[Any, ...]] = {
    **_SAME_IN_BOTH,
    "final_norm": (True,),
    "use_dynamic_chunk": (False, True),
    "static_chunk_size": (0, -1),  # both mean none
}
_CONFORMER: dict[str, tuple[Any, ...]] = {
    "macaron_style": (True,),
    "use_cnn_module": (True,),
    "conv_bias": (True,),
    "conv_norm_eps": (1e-5,),
    "conv_inner_factor": (2,),
    "positionwise_conv_kernel_size": (1,),
    # It also applies to the convolution, which always uses swish here.
    "activation_type": ("swish",),
}
_DECODER: dict[str, tuple[Any, ...]] = {
    **_SAME_IN_BOTH,
    "input_layer": ("embed",),
    "use_output_layer": (True,),
    "src_attention": (True,),
    "src_query_bias": (True,),
    "src_key_bias": (True,),
    "src_value_bias": (True,),
    "tie_word_embedding": (False,),
}
_ACTIVATIONS = ("relu", "swish", "gelu")
_SUBSAMPLING: dict[str, Literal[4, 6, 8]] = {"conv2d": 4, "conv2d6": 6, "conv2d8": 8}

_Position = Literal["absolute_key", "absolute", "none"]
# Our position by WeNet's `pos_enc_layer_type` and `selfattention_layer_type`, the default of each encoder first.
# Without positions, `rel_selfattn` only adds a constant to the queries. WeNet's Transformer has no relative attention.
_POSITIONS: dict[str, dict[tuple[str, str], _Position]] = {
    "conformer": {
        ("rel_pos", "rel_selfattn"): "absolute_key",
        ("abs_pos", "selfattn"): "absolute",
        ("no_pos", "selfattn"): "none",
        ("no_pos", "rel_selfattn"): "none",
    },
    "transformer": {("abs_pos", "selfattn"): "absolute", ("no_pos", "selfattn"): "none"},
}

_Config = TypeVar("_Config", EncoderConfig, DecoderConfig, FeedForwardConfig)


def translate_config(conf: Mapping[str, Any], path: Path) -> ModelConfig:
    """Translate WeNet's train.yaml to a ModelConfig.

    Raises ConfigError, naming what is unknown or can't be represented. For another kind of model it says which.
    """
    refuse_other_kinds(conf, path)
    top = Section(conf, str(path))
    top.require("model", "asr_model", "asrmodel")  # the second for some weeks of 2023
    block = top.require("encoder", *_POSITIONS)
    bidirectional = top.require("decoder", "bitransformer", "transformer") == "bitransformer"
    top.require("ctc", "ctc")
    _require_cmvn(top)
    for key in ("input_dim", "output_dim"):
        if type(conf.get(key)) is not int or conf[key] < 1:
            raise ConfigError(f"{path}: {key}: expected int above 0, found {conf.get(key)!r}")
    ctc, model = top.section("ctc_conf"), top.section("model_conf")
    special = top.section("tokenizer_conf").section("special_tokens")
    vocab_size: int = conf["output_dim"]
    encoder, dynamic_left = _translate_encoder(top.section("encoder_conf"), block, conf["input_dim"])
    lite = model.take("apply_non_blank_embedding", False)
    decoder = _translate_decoder(top.section("decoder_conf"), bidirectional, "non_blank" if lite else "all")
    blank_id = ctc.take("ctc_blank_id", 0)
    special.require("<blank>", blank_id)
    special.left.pop("<unk>", None)  # units.txt defines it
    model.require("ignore_id", -1)
    model.require("lfmmi_dir", "", None)
    fields: dict[str, Any] = {
        "ctc_weight": model.take("ctc_weight", 0.5),
        "reverse_weight": model.take("reverse_weight", 0.0),
        "label_smoothing": model.take("lsm_weight", 0.0),
        "length_normalized_loss": model.take("length_normalized_loss", False),
        "blank_id": blank_id,
        "sos_id": special.take("<sos>", vocab_size - 1),
        "eos_id": special.take("<eos>", vocab_size - 1),
        "dynamic_left_chunks": dynamic_left,
    }
    for section in (special, ctc, model):
        section.close()
    try:
        return ModelConfig(vocab_size=vocab_size, encoder=encoder, decoder=decoder, **fields)
    except ConfigError as error:
        raise ConfigError(f"{path}: model_conf: {error}") from None


def _build(kind: type[_Config], section: Section, **fields: Any) -> _Config:
    try:
        return kind(**fields)
    except ConfigError as error:
        raise ConfigError(f"{section.where}: {error}") from None


def _feed_forward(section: Section, activation: Any) -> FeedForwardConfig:
    mlp_type = section.require("mlp_type", "position_wise_feed_forward", "moe")
    num_experts, top_k = section.size("n_expert", 8), section.size("n_expert_activated", 2)
    return _build(
        FeedForwardConfig,
        section,
        hidden_dim=section.size("linear_units", 2048),
        num_experts=num_experts if mlp_type == "moe" else 0,
        top_k=top_k,
        bias=section.take("mlp_bias", True),
        activation=activation,
    )


def _require_cmvn(top: Section) -> None:
    """Check the keys of the normalisation, which comes with the weights."""
    top.require("cmvn", None, "global_cmvn")
    statistics = top.section("cmvn_conf")
    for key in ("cmvn_file", "is_json_cmvn"):  # used if the state has no statistics
        statistics.left.pop(key, None)
    statistics.close()


def _take_position(section: Section, block: str) -> _Position:
    known = _POSITIONS[block]
    keys = ("pos_enc_layer_type", "selfattention_layer_type")
    found = tuple(section.take(key, default) for key, default in zip(keys, next(iter(known)), strict=True))
    if found not in known:
        pairs = ", ".join(" with ".join(map(repr, pair)) for pair in known)
        both = " with ".join(map(repr, found))
        raise ConfigError(f"{section.where}: {' and '.join(keys)}: {both} cannot be represented (only {pairs})")
    return known[found]


def _translate_encoder(section: Section, block: Any, input_dim: int) -> tuple[EncoderConfig, bool]:
    is_conformer = block == "conformer"
    for key, allowed in (_ENCODER | _CONFORMER if is_conformer else _ENCODER).items():
        section.require(key, *allowed)
    convolution: dict[str, Any] = {}
    if is_conformer:
        convolution = {
            "conv_kernel": section.size("cnn_module_kernel", 15),
            "conv_norm": section.require("cnn_module_norm", "batch_norm", "layer_norm"),
            "conv_causal": section.take("causal", False),
        }
    activation = "swish" if is_conformer else section.require("activation_type", *_ACTIVATIONS)
    dynamic_left = section.take("use_dynamic_left_chunk", False)
    section.take("positional_dropout_rate", 0.1)
    dropout = section.take("dropout_rate", 0.1)
    config = _build(
        EncoderConfig,
        section,
        input_dim=input_dim,
        dim=section.size("output_size", 256),
        num_blocks=section.size("num_blocks", 6),
        num_heads=section.size("attention_heads", 4),
        feed_forward=_feed_forward(section, activation),
        subsampling=_SUBSAMPLING[section.require("input_layer", *_SUBSAMPLING)],
        block=block,
        **convolution,
        position=_take_position(section, block),
        dropout=dropout,
        attention_dropout=section.take("attention_dropout_rate", 0.0),
        hidden_dropout=dropout,
    )
    section.close()
    return config, dynamic_left


def _translate_decoder(section: Section, bidirectional: bool, memory: Literal["all", "non_blank"]) -> DecoderConfig:
    for key, allowed in _DECODER.items():
        section.require(key, *allowed)
    section.take("positional_dropout_rate", 0.1)
    section.take("src_attention_dropout_rate", 0.0)
    reverse_blocks = section.take("r_num_blocks", 0)
    if bidirectional and reverse_blocks < 1:
        raise ConfigError(f"{section.where}: r_num_blocks: {reverse_blocks} cannot be represented (bitransformer)")
    dropout = section.take("dropout_rate", 0.1)
    config = _build(
        DecoderConfig,
        section,
        num_blocks=section.size("num_blocks", 6),
        num_reverse_blocks=reverse_blocks if bidirectional else 0,
        num_heads=section.size("attention_heads", 4),
        feed_forward=_feed_forward(section, section.require("activation_type", *_ACTIVATIONS)),
        memory=memory,
        dropout=dropout,
        attention_dropout=section.take("self_attention_dropout_rate", 0.0),
        hidden_dropout=dropout,
    )
    section.close()
    return config


def wenet_config(config: ModelConfig) -> dict[str, Any]:
    """Translate a ModelConfig to the sections of train.yaml that `translate_config` reads.

    Raises ConfigError, naming the key that WeNet has no counterpart for.
    """
    encoder, decoder = config.encoder, config.decoder
    _refuse("model", config, "training", dynamic_top_k=False)
    _refuse("model.encoder", encoder, "results", front="conv2d", num_top_blocks=0)
    _refuse("model.decoder", decoder, "results", position="sinusoidal")
    if encoder.subsampling_channels not in (None, encoder.dim):
        _refuse("model.encoder", encoder, "results", subsampling_channels=encoder.dim)
    if encoder.position not in _POSITIONS[encoder.block].values():
        known = " and ".join(dict.fromkeys(map(repr, _POSITIONS[encoder.block].values())))
        raise ConfigError(
            f"model.encoder.position: {encoder.position!r} cannot be represented in WeNet (only {known} with a "
            f"{encoder.block})"
        )
    if encoder.block == "conformer":
        _refuse("model.encoder.feed_forward", encoder.feed_forward, "results", activation="swish")
    for where, part in (("model.encoder", encoder), ("model.decoder", decoder)):
        _refuse(where, part, "training", hidden_dropout=part.dropout)
    bidirectional = bool(decoder.num_reverse_blocks)
    # Older releases of WeNet don't have this key.
    lite = {"apply_non_blank_embedding": True} if decoder.memory == "non_blank" else {}
    return {
        "model": "asr_model",
        "model_conf": {
            "ctc_weight": config.ctc_weight,
            "length_normalized_loss": config.length_normalized_loss,
            "lsm_weight": config.label_smoothing,
            "reverse_weight": config.reverse_weight,
            **lite,
        },
        "ctc": "ctc",
        "ctc_conf": {"ctc_blank_id": config.blank_id},
        "encoder": encoder.block,
        "encoder_conf": _encoder_section(encoder, config.dynamic_left_chunks),
        "decoder": "bitransformer" if bidirectional else "transformer",
        "decoder_conf": _decoder_section(decoder),
        "input_dim": encoder.input_dim,
        "output_dim": config.vocab_size,
    }


def _encoder_section(config: EncoderConfig, dynamic_left: bool) -> dict[str, Any]:
    known = _POSITIONS[config.block]
    position, attention = next(names for names, ours in known.items() if ours == config.position)
    convolution: dict[str, Any] = {}  # only the Conformer's class has these keys
    if config.block == "conformer":
        convolution = {
            "macaron_style": True,
            "use_cnn_module": True,
            "cnn_module_kernel": config.conv_kernel,
            "cnn_module_norm": config.conv_norm,
            "causal": config.conv_causal,
        }
    return {
        "input_layer": next(name for name, rate in _SUBSAMPLING.items() if rate == config.subsampling),
        "pos_enc_layer_type": position,
        "selfattention_layer_type": attention,
        "normalize_before": True,
        "output_size": config.dim,
        "num_blocks": config.num_blocks,
        "attention_heads": config.num_heads,
        **_mlp_keys(config.feed_forward, "model.encoder.feed_forward"),
        **convolution,
        "use_dynamic_chunk": config.conv_causal,
        "use_dynamic_left_chunk": dynamic_left,
        "dropout_rate": config.dropout,
        "positional_dropout_rate": config.dropout,
        "attention_dropout_rate": config.attention_dropout,
    }


def _decoder_section(config: DecoderConfig) -> dict[str, Any]:
    # Only the bidirectional class has this key.
    reverse = {"r_num_blocks": config.num_reverse_blocks} if config.num_reverse_blocks else {}
    return {
        "num_blocks": config.num_blocks,
        **reverse,
        "attention_heads": config.num_heads,
        **_mlp_keys(config.feed_forward, "model.decoder.feed_forward"),
        "dropout_rate": config.dropout,
        "positional_dropout_rate": config.dropout,
        "self_attention_dropout_rate": config.attention_dropout,
        "src_attention_dropout_rate": config.attention_dropout,
    }


def _mlp_keys(config: FeedForwardConfig, where: str) -> dict[str, Any]:
    _refuse(where, config, "results", softmax_first=False, shared_hidden_dim=0, shared_router=False, balance_rate=0.0)
    _refuse(where, config, "training", load_loss_weight=0.0)
    keys: dict[str, Any] = {"linear_units": config.hidden_dim, "mlp_bias": config.bias}
    keys["activation_type"] = config.activation
    if config.num_experts:
        keys |= {"mlp_type": "moe", "n_expert": config.num_experts, "n_expert_activated": config.top_k}
    return keys


def _refuse(where: str, config: object, matters_to: str, **allowed: Any) -> None:
    """Raise ConfigError unless the keys have values that WeNet can express."""
    for name, value in allowed.items():
        found = getattr(config, name)
        if found != value:
            hint = f"; it only affects training: set it to {value!r} in config.yaml to export the model"
            raise ConfigError(
                f"{where}.{name}: {found!r} cannot be represented in WeNet (only {value!r})"
                f"{hint if matters_to == 'training' else ''}"
            )
