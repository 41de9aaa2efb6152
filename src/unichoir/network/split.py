"""Splitting: the hidden units of a trained feed-forward layer become experts (MoEfication, arXiv 2110.01786).

The model keeps its size and computes less. The units that contribute most to a layer's output on real speech form a
shared expert, which processes every frame (DeepSeekMoE, arXiv 2401.06066). The other units are grouped into experts by
joint activity. Routers start as the linear map that best predicts how much each expert contributes to a frame. The
output of experts that aren't chosen is lost at first. These units contribute least, and training compensates for the
loss.
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unichoir.errors import ConfigError
from unichoir.network.asr_model import AsrModel
from unichoir.network.config import FeedForwardConfig, ModelConfig
from unichoir.network.feed_forward import ACTIVATIONS, FeedForward

MAX_FRAMES = 8000
"""Maximum number of frames kept per layer: a few for each of its units."""
ROUTER_SPREAD = 0.5
"""Initial standard deviation of a router's logits. Gates are nearly equal, but the choice of experts is clear."""
_ROUNDS = 8


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """Options for splitting every feed-forward layer."""

    num_experts: int = 4
    top_k: int = 2
    shared_share: float = 0.5
    """Fraction of the hidden units that process every frame, in [0, 1). 0 makes no shared expert."""
    balance_rate: float = 0.0
    """Step of loss-free balancing in later training, as in `FeedForwardConfig`."""

    def __post_init__(self) -> None:
        if self.num_experts < 2 or not 1 <= self.top_k <= self.num_experts:
            raise ConfigError(
                f"expected 1 <= top_k <= num_experts and num_experts >= 2, found {self.top_k} and {self.num_experts}"
            )
        if not 0 <= self.shared_share < 1:
            raise ConfigError(f"shared_share must lie in [0, 1), found {self.shared_share}")


def split_config(config: ModelConfig, options: SplitOptions) -> ModelConfig:
    """Return `config` with experts made from the units of each dense layer.

    Raises ConfigError for layers that already have experts, and if the units can't be divided evenly.
    """

    def split(name: str, layer: FeedForwardConfig) -> FeedForwardConfig:
        if layer.num_experts:
            raise ConfigError(f"{name}.num_experts is {layer.num_experts}: only a dense model can be split")
        shared = round(layer.hidden_dim * options.shared_share)
        units, rest = divmod(layer.hidden_dim - shared, options.num_experts)
        if rest or not units:
            raise ConfigError(
                f"{name}: {layer.hidden_dim - shared} units cannot be divided into {options.num_experts} experts"
            )
        return dataclasses.replace(
            layer,
            hidden_dim=units,
            num_experts=options.num_experts,
            top_k=options.top_k,
            shared_hidden_dim=shared,
            balance_rate=options.balance_rate,
        )

    encoder, decoder = config.encoder, config.decoder
    return dataclasses.replace(
        config,
        encoder=dataclasses.replace(encoder, feed_forward=split("encoder.feed_forward", encoder.feed_forward)),
        decoder=dataclasses.replace(decoder, feed_forward=split("decoder.feed_forward", decoder.feed_forward)),
    )


@torch.no_grad()
def split_into_experts(
    model: AsrModel,
    run: Callable[[], Iterable[object]],
    options: SplitOptions,
    progress: Callable[[int, int], None] | None = None,
) -> AsrModel:
    """Return a Mixture of Experts made from the weights of a dense model.

    model: a dense model in evaluation mode. run: passes speech through the model, batch by batch; the inputs of each
    layer decide how its units are grouped. progress: called with (done, total) layers. Raises ConfigError like
    `split_config`, and if `run` passes nothing through a layer.
    """
    config = split_config(model.config, options)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, FeedForward)}
    inputs = _gather_inputs(layers, run)
    with torch.random.fork_rng(devices=[]):  # the drawn weights are replaced
        sparse = AsrModel(config)
    weights = {name: tensor for name, tensor in model.state_dict().items() if name in sparse.state_dict()}
    for done, (name, layer) in enumerate(layers.items(), start=1):
        if not len(inputs[name]):
            raise ConfigError(f"{name}: no speech went through this layer")
        shared = config.decoder.feed_forward if "decoder" in name else config.encoder.feed_forward
        weights |= {f"{name}.{part}": value for part, value in _split(layer, inputs[name], shared).items()}
        if progress:
            progress(done, len(layers))
    sparse.load_state_dict(weights)
    return sparse.train(model.training)


class _Frames:
    """At most MAX_FRAMES evenly spaced frames: every n-th frame, where n doubles whenever there are too many."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []
        self._every, self._seen = 1, 0

    def add(self, x_ND: Tensor) -> None:
        self._parts.append(x_ND[-self._seen % self._every :: self._every].float())
        self._seen += len(x_ND)
        while sum(map(len, self._parts)) > MAX_FRAMES:
            self._parts = [torch.cat(self._parts)[::2].clone()]
            self._every *= 2

    def all(self) -> Tensor:
        return torch.cat(self._parts) if self._parts else torch.zeros(0)


def _gather_inputs(layers: dict[str, FeedForward], run: Callable[[], Iterable[object]]) -> dict[str, Tensor]:
    """Return up to MAX_FRAMES input frames (N, D) for each layer."""
    found = {name: _Frames() for name in layers}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            x, mask = given[:2]
            found[name].add(x[mask])

        return hook

    handles = [layer.register_forward_pre_hook(keep(name)) for name, layer in layers.items()]
    try:
        for _ in run():
            pass
    finally:
        for handle in handles:
            handle.remove()
    return {name: frames.all() for name, frames in found.items()}


def _split(layer: FeedForward, x_ND: Tensor, config: FeedForwardConfig) -> dict[str, Tensor]:
    """Return the weights of one layer as `MoE` stores them."""
    w_1, w_2 = layer.w_1.weight, layer.w_2.weight
    hidden_NH = ACTIVATIONS[layer.activation](layer.w_1(x_ND))
    # The energy that each unit contributes to the output, without its mean, which the bias can represent.
    said_NH = (hidden_NH - hidden_NH.mean(dim=0)).square() * w_2.square().sum(dim=0)
    order = said_NH.mean(dim=0).argsort(descending=True)
    shared, rest = order[: config.shared_hidden_dim], order[config.shared_hidden_dim :]
    groups = rest[_balanced_groups(hidden_NH[:, rest], config.num_experts)]  # (E, units)
    parts: dict[str, Tensor] = {
        "experts.w_1": w_1[groups],
        "experts.w_2": w_2[:, groups].transpose(0, 1) * config.top_k,  # gates sum to 1
        "router.gate.weight": _router(x_ND, said_NH[:, groups].sum(dim=2)),
    }
    if config.balance_rate:
        parts["balance_bias"] = torch.zeros(config.num_experts)
    has_bias = layer.w_1.bias is not None
    if has_bias:
        bias = layer.w_2.bias
        # Only one part may add the bias: the shared expert, or all experts equally.
        parts["experts.bias_1"] = layer.w_1.bias[groups]
        parts["experts.bias_2"] = (bias * 0 if len(shared) else bias).expand(config.num_experts, -1).clone()
    if len(shared):
        parts |= {"shared_expert.w_1.weight": w_1[shared], "shared_expert.w_2.weight": w_2[:, shared]}
        if has_bias:
            parts |= {"shared_expert.w_1.bias": layer.w_1.bias[shared], "shared_expert.w_2.bias": layer.w_2.bias}
    return {name: tensor.detach().clone() for name, tensor in parts.items()}


def _balanced_groups(hidden_NU: Tensor, num_groups: int) -> Tensor:
    """Group units of similar activity into groups of equal size. Returns their numbers (E, U / E).

    This is k-means over the units' normalised activity. In each round, units choose in order of their confidence, and
    full groups accept no more.
    """
    unit_UN = nn.functional.normalize((hidden_NU - hidden_NU.mean(dim=0)).T, dim=1)
    size = len(unit_UN) // num_groups
    centre_EN = unit_UN[:: max(1, size)][:num_groups]
    for _ in range(_ROUNDS):
        alike_UE = unit_UN @ nn.functional.normalize(centre_EN, dim=1).T
        best = alike_UE.topk(2, dim=1).values
        room, members = [size] * num_groups, [list[int]() for _ in range(num_groups)]
        preferences = alike_UE.argsort(dim=1, descending=True).tolist()
        for unit in (best[:, 0] - best[:, 1]).argsort(descending=True).tolist():
            group = next(each for each in preferences[unit] if room[each])
            room[group] -= 1
            members[group].append(unit)
        groups = torch.tensor(members)
        centre_EN = unit_UN[groups].mean(dim=1)
    return groups


def _router(x_ND: Tensor, said_NE: Tensor) -> Tensor:
    """Return the linear map (E, D) that best predicts the log of each expert's contribution, by ridge regression."""
    target_NE = (said_NE + 1e-6).log()
    target_NE = target_NE - target_NE.mean(dim=1, keepdim=True)
    gram = x_ND.T @ x_ND
    ridge = gram.diagonal().mean() * 1e-2
    gate_DE = torch.linalg.solve(gram + ridge * torch.eye(len(gram)), x_ND.T @ target_NE)
    logits_NE = x_ND @ gate_DE
    router_ED: Tensor = (gate_DE * (ROUTER_SPREAD / logits_NE.std().clamp(min=1e-6))).T
    return router_ED
