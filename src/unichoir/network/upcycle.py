"""Upcycling: a dense model initialises a Mixture of Experts (sparse upcycling, arXiv 2212.05055)."""

import dataclasses

import torch
from torch import Tensor

from unichoir.errors import ConfigError
from unichoir.network.asr_model import AsrModel
from unichoir.network.config import FeedForwardConfig, ModelConfig

SMALL_ROUTER = 1e-5
"""Scale of a router whose gates must be equal: large enough to choose experts, too small to weight them."""


def upcycle(
    model: AsrModel,
    num_experts: int,
    top_k: int = 2,
    seed: int = 0,
    *,
    softmax_first: bool = False,
    shared_router: bool = False,
    balance_rate: float = 0.0,
) -> AsrModel:
    """Return a Mixture of Experts that computes the same as `model`: each expert copies the dense layer.

    Routers are drawn from the seed. Gates sum to 1, so the function is the same to float rounding for any choice of
    experts. The experts diverge in training because they see different frames. With `softmax_first` gates sum to about
    k/E, so the experts' second layers are multiplied by E/k (arXiv 2410.07524, weight scaling). Routers are then scaled
    down (`SMALL_ROUTER`) to keep the function the same to 1e-4 of the layer's output.
    Raises ConfigError if `model` already has experts, or for invalid numbers of experts.
    """
    config = upcycled_config(
        model.config,
        num_experts=num_experts,
        top_k=top_k,
        softmax_first=softmax_first,
        shared_router=shared_router,
        balance_rate=balance_rate,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sparse = AsrModel(config)
    scale = num_experts / top_k if softmax_first else 1.0
    dense = model.state_dict()
    sparse.load_state_dict(
        {name: _weight(name, drawn, dense, scale) for name, drawn in sparse.state_dict().items()}  # checks every shape
    )
    if softmax_first:
        for name, parameter in sparse.named_parameters():
            if ".router." in name:
                parameter.data *= SMALL_ROUTER
    return sparse.train(model.training)


def upcycled_config(config: ModelConfig, num_experts: int, **options: bool | int | float) -> ModelConfig:
    """Return `config` with `num_experts` experts in place of every dense layer. Raises ConfigError like `upcycle`."""
    if num_experts < 2:
        raise ConfigError(f"num_experts {num_experts}: a Mixture of Experts needs at least 2")

    def with_experts(name: str, layer: FeedForwardConfig) -> FeedForwardConfig:
        if layer.num_experts:
            raise ConfigError(f"{name}.num_experts is {layer.num_experts}: only a dense model can be upcycled")
        return dataclasses.replace(layer, num_experts=num_experts, **options)  # type: ignore[arg-type]

    encoder, decoder = config.encoder, config.decoder
    return dataclasses.replace(
        config,
        encoder=dataclasses.replace(encoder, feed_forward=with_experts("encoder.feed_forward", encoder.feed_forward)),
        decoder=dataclasses.replace(decoder, feed_forward=with_experts("decoder.feed_forward", decoder.feed_forward)),
    )


def _weight(name: str, drawn: Tensor, dense: dict[str, Tensor], scale: float) -> Tensor:
    """Return the weight or buffer `name` of the upcycled model; `drawn` if the dense model has none for it."""
    if ".router." in name or name.endswith(".balance_bias"):
        return drawn
    stem, experts, part = name.partition(".experts.")
    if not experts:
        return dense[name]
    kind, layer = part.split("_")
    weight = dense[f"{stem}.w_{layer}.{'weight' if kind == 'w' else 'bias'}"]
    return (weight * scale if layer == "2" else weight).expand_as(drawn)
