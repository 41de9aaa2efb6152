"""The Mixture of Experts layer: router, dispatch (frames sorted by expert), experts, combination.

The layer computes y = sum over the k chosen experts of gate * FFN_e(x), where the gate is a softmax over the k largest
router logits (U2++ MoE, section 2.1). It drops no frames and has no auxiliary loss unless you configure one. Tensor
suffixes are defined in `dispatch.py`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unichoir.network import experts
from unichoir.network.config import FeedForwardConfig
from unichoir.network.dispatch import TRAINING_ALIGNMENT, combine, dispatch
from unichoir.network.experts import Experts
from unichoir.network.feed_forward import FeedForward
from unichoir.network.router import Router


class MoE(nn.Module):
    """A feed-forward layer of sparse experts, (B, T, D) to (B, T, D), which counts the load of each expert."""

    load: Tensor
    balance_bias: Tensor | None
    update_load: Tensor | None

    def __init__(self, dim: int, config: FeedForwardConfig, dropout: float) -> None:
        super().__init__()
        if not config.shared_router:
            self.router = Router(dim, config)
        self.experts = Experts(dim, config, dropout)
        self.shared_expert = (
            FeedForward(dim, dataclasses.replace(config, hidden_dim=config.shared_hidden_dim), dropout)
            if config.shared_hidden_dim
            else None
        )
        self.num_experts, self.top_k = config.num_experts, config.top_k
        self.balance_rate, self.load_loss_weight = config.balance_rate, config.load_loss_weight
        self.load_loss: Tensor | None = None
        """The weighted loss of the last forward pass in training, until `take_load_loss` takes it."""
        num_copies = torch.zeros(config.num_experts, dtype=torch.int64)
        self.register_buffer("load", num_copies, persistent=False)
        balanced = config.balance_rate > 0
        self.register_buffer("balance_bias", torch.zeros(config.num_experts) if balanced else None)
        self.register_buffer("update_load", num_copies.clone() if balanced else None, persistent=False)

    def forward(self, x: Tensor, mask: Tensor, top_k: Tensor | None = None, router: Router | None = None) -> Tensor:
        """Process x (B, T, D). mask: (B, T), True for frames of an utterance; padding is neither routed nor counted.

        top_k: (1,) int64, the number of experts per frame, if lower than configured. router: the router that all layers
        of a stack share; None uses the layer's own.
        """
        x_ND, mask_N = x.reshape(-1, x.shape[-1]), mask.reshape(-1)
        router = self.router if router is None else router
        gates_NK, experts_NK, logits_NE = router(x_ND, top_k, self.balance_bias)
        order = dispatch(experts_NK, mask_N, self.num_experts, TRAINING_ALIGNMENT if self.training else 1)
        self._record(logits_NE, mask_N, order.counts_E)
        y_SD = self.experts(x_ND, order.source_S, order.blocks_E)
        y = combine(y_SD, gates_NK, order.position_NK, mask_N).reshape(x.shape)
        return y if self.shared_expert is None else y + self.shared_expert(x, mask)

    def _record(self, logits_NE: Tensor, mask_N: Tensor, counts_E: Tensor) -> None:
        """Update the load and, in training, the inputs of load balancing."""
        if torch.compiler.is_exporting():
            return
        if self.training and self.load_loss_weight:
            # Recomputation computes this too, because it must save the same tensors as the first pass.
            _keep_load_loss(self, self.load_loss_weight * load_balancing_loss(logits_NE, mask_N, counts_E))
        if _is_recomputation:
            return
        self.load += counts_E
        if self.training and self.update_load is not None:
            self.update_load += counts_E


def build_feed_forward(dim: int, config: FeedForwardConfig, dropout: float) -> FeedForward | MoE:
    """Return the feed-forward layer that `config` describes: dense, or a Mixture of Experts."""
    return MoE(dim, config, dropout) if config.num_experts else FeedForward(dim, config, dropout)


def build_shared_router(dim: int, config: FeedForwardConfig) -> Router | None:
    """Return the router that a whole stack shares; None if `config` doesn't ask for one.

    The stack owns it and passes it to its blocks, so its weight is stored once and belongs to no block.
    """
    return Router(dim, config) if config.shared_router else None


def load_balancing_loss(logits_NE: Tensor, mask_N: Tensor, counts_E: Tensor) -> Tensor:
    """Return E * sum_e f_e P_e, which is 1 for an even load (Switch Transformer, arXiv 2101.03961, equations 4 to 6).

    f_e is the fraction of all frame copies that expert e computes. With one expert per frame this is equation 5; with k
    experts, each frame counts 1/k for each of them. P_e is the mean over the frames of the softmax over all E logits.
    Padding frames (mask False) are ignored. Gradients only flow through P.
    """
    probability_NE = torch.softmax(logits_NE.float(), dim=-1).masked_fill(~mask_N.unsqueeze(1), 0.0)
    probability_E = probability_NE.sum(dim=0) / mask_N.sum().clamp(min=1)
    share_E = counts_E / counts_E.sum().clamp(min=1)
    return len(counts_E) * (share_E * probability_E).sum()


def take_load_loss(model: nn.Module) -> Tensor | None:
    """Return and clear the sum over layers of the weighted `load_balancing_loss`; None if there is none."""
    terms = []
    for module in model.modules():
        if isinstance(module, MoE) and module.load_loss is not None:
            terms.append(module.load_loss)
            module.load_loss = None  # it holds the graph of the complete forward pass
    return torch.stack(terms).sum() if terms else None


@torch.no_grad()
def balance_experts(model: nn.Module, total: Callable[[Tensor], Tensor]) -> None:
    """Apply loss-free balancing (arXiv 2408.15664, algorithm 1). Call this after each update of the weights.

    Each layer with a `balance_rate` adds rate * sign(mean load - load) to its experts' biases. The load is the number
    of frame copies in training since the last call. total: sums an int64 tensor over all processes. It is called once
    with the loads of all layers, or not at all if no layer is balanced.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, MoE)
        and module.update_load is not None
        and any(parameter.requires_grad for parameter in module.parameters())  # skip frozen layers
    ]
    if not layers:
        return
    loads = total(torch.cat([layer.update_load for layer in layers if layer.update_load is not None]))
    for layer, load_E in zip(layers, torch.split(loads, [layer.num_experts for layer in layers]), strict=True):
        assert layer.balance_bias is not None
        assert layer.update_load is not None
        # Integers make a load at the mean move nothing.
        direction_E = torch.sign(load_E.sum() - layer.num_experts * load_E)
        layer.balance_bias += layer.balance_rate * direction_E
        layer.update_load.zero_()


_is_recomputation = False
"""A module global, because compiled code notices changes of globals but not of thread-local values. Autograd recomputes
in its own threads while the caller waits."""


def _keep_load_loss(moe: MoE, load_loss: Tensor) -> None:
    """Keep the loss outside of compiled code, which would drop it and save different tensors in recomputation."""
    if not _is_recomputation:
        moe.load_loss = load_loss


@functools.cache
def ready_for_compiler() -> None:
    """Exclude functions from torch's compiler. Decorators would import the compiler in every process."""
    global _keep_load_loss
    _keep_load_loss = torch.compiler.disable(_keep_load_loss)  # type: ignore[no-untyped-call]
    constant = torch.compiler.assume_constant_result
    experts.has_grouped_products = constant(experts.has_grouped_products)  # type: ignore[no-untyped-call]


@contextmanager
def recomputing() -> Iterator[None]:
    """Mark a forward pass as a recomputation, which doesn't record loads and auxiliary losses again.

    For activation checkpointing, use `checkpoint(..., use_reentrant=False, context_fn=contexts)`, where `contexts`
    returns `(contextlib.nullcontext(), recomputing())`.
    """
    global _is_recomputation
    before, _is_recomputation = _is_recomputation, True
    try:
        yield
    finally:
        _is_recomputation = before


def expert_load(model: nn.Module, reset: bool = False) -> dict[str, Tensor]:
    """Return the frame copies per expert since the last reset: {layer name: (E,) int64 on the CPU}."""
    loads = {}
    for name, module in model.named_modules():
        if isinstance(module, MoE):
            loads[name] = module.load.cpu().clone()
            if reset:
                module.load.zero_()
    return loads
