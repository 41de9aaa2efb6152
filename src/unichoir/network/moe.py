"""Mixture of Experts: Router (which experts), dispatch (frames sorted by expert), Experts (one block each), combine.

Dropless and, unless configured otherwise, without auxiliary losses (U2++ MoE, section 2.1): y = sum over the k chosen
experts of gate * FFN_e(x), the gate a softmax over the k largest router logits. Suffixes of tensors are those of
`dispatch.py`.
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


class Router(nn.Module):
    """Chooses `top_k` of the experts for each frame: top-k of the logits, then softmax over those k in fp32."""

    def __init__(self, dim: int, config: FeedForwardConfig) -> None:
        super().__init__()
        self.top_k = config.top_k
        self.softmax_first = config.softmax_first
        self.gate = nn.Linear(dim, config.num_experts, bias=False)

    def forward(
        self, x_ND: Tensor, limit: Tensor | None = None, bias_E: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, D) to gates (N, K) fp32, expert numbers (N, K) int64 and the logits of all experts (N, E).

        limit: (1,) int64, at most so many of the K experts; the others get gate 0 and the number `num_experts`, which
        is no expert's, so that `dispatch` gives them nothing to compute.
        bias_E: added to the logits for the choice alone; gates do not know of it.
        With `softmax_first` the gates of a frame are those of a softmax over all E, and sum to less than 1.
        """
        logits_NE = self.gate(x_ND)
        logits_NK, experts_NK = torch.topk(logits_NE if bias_E is None else logits_NE + bias_E, self.top_k, dim=-1)
        if bias_E is not None:
            logits_NK = logits_NE.gather(1, experts_NK)
        logits_NK = logits_NK.float()
        if limit is not None:
            resting = torch.arange(self.top_k, device=x_ND.device) >= limit
            logits_NK = logits_NK.masked_fill(resting, -torch.inf)
            experts_NK = experts_NK.masked_fill(resting, self.gate.out_features)
        if self.softmax_first:
            gates_NK = torch.exp(logits_NK - torch.logsumexp(logits_NE.float(), dim=-1, keepdim=True))
        else:
            gates_NK = torch.softmax(logits_NK, dim=-1)
        return gates_NK, experts_NK, logits_NE


class MoE(nn.Module):
    """A feed-forward layer of sparse experts: (B, T, D) to (B, T, D), counting each expert's load."""

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
        """Of the last forward pass in training, times its weight, until `take_load_loss` takes it."""
        num_copies = torch.zeros(config.num_experts, dtype=torch.int64)
        self.register_buffer("load", num_copies, persistent=False)
        balanced = config.balance_rate > 0
        self.register_buffer("balance_bias", torch.zeros(config.num_experts) if balanced else None)
        self.register_buffer("update_load", num_copies.clone() if balanced else None, persistent=False)

    def forward(self, x: Tensor, mask: Tensor, top_k: Tensor | None = None, router: Router | None = None) -> Tensor:
        """x: (B, T, D); mask: (B, T), True for frames of an utterance. Padding is neither routed nor counted.

        top_k: (1,) int64, experts of a frame where they shall be fewer than the configuration's. router: the one that
        all layers of a stack share; None: the layer's own.
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
        """Add to the load and, in training, to what balances it."""
        if torch.compiler.is_exporting():
            return
        if self.training and self.load_loss_weight:
            # Computed in recomputation as well, which must save the same tensors as the first pass.
            _keep_load_loss(self, self.load_loss_weight * load_balancing_loss(logits_NE, mask_N, counts_E))
        if _is_recomputation:
            return
        self.load += counts_E
        if self.training and self.update_load is not None:
            self.update_load += counts_E


def build_feed_forward(dim: int, config: FeedForwardConfig, dropout: float) -> FeedForward | MoE:
    """The feed-forward layer that `config` asks for: dense, or a Mixture of Experts."""
    return MoE(dim, config, dropout) if config.num_experts else FeedForward(dim, config, dropout)


def build_shared_router(dim: int, config: FeedForwardConfig) -> Router | None:
    """The router of a whole stack, where `config` asks for one. It belongs to the stack, which hands it to its blocks:
    so its weight is stored once, and is not among the parameters of any block."""
    return Router(dim, config) if config.shared_router else None


def load_balancing_loss(logits_NE: Tensor, mask_N: Tensor, counts_E: Tensor) -> Tensor:
    """E * sum_e f_e P_e, 1 where the load is even (Switch Transformer, arXiv 2101.03961, equations 4 to 6).

    f_e is the fraction of all frame copies that expert e computes: with one expert per frame equation 5, with k each
    frame counts for 1/k in k places. P_e is the mean over the frames of the softmax over all E logits. Padding frames
    (mask False) count in neither. Gradients flow through P alone.
    """
    probability_NE = torch.softmax(logits_NE.float(), dim=-1).masked_fill(~mask_N.unsqueeze(1), 0.0)
    probability_E = probability_NE.sum(dim=0) / mask_N.sum().clamp(min=1)
    share_E = counts_E / counts_E.sum().clamp(min=1)
    return len(counts_E) * (share_E * probability_E).sum()


def take_load_loss(model: nn.Module) -> Tensor | None:
    """The sum over layers of the weighted `load_balancing_loss` since it was last taken; None where there is none."""
    terms = []
    for module in model.modules():
        if isinstance(module, MoE) and module.load_loss is not None:
            terms.append(module.load_loss)
            module.load_loss = None  # it holds the graph of the whole forward pass
    return torch.stack(terms).sum() if terms else None


@torch.no_grad()
def balance_experts(model: nn.Module, total: Callable[[Tensor], Tensor]) -> None:
    """Loss-free balancing (arXiv 2408.15664, algorithm 1), to be called after each update of the weights.

    Each layer with a `balance_rate` adds rate * sign(mean load - load) to its experts' biases, the load being the frame
    copies in training since the last call. total: sums an int64 tensor over all processes; called once, with the loads
    of all layers, or not at all.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, MoE)
        and module.update_load is not None
        and any(parameter.requires_grad for parameter in module.parameters())  # a frozen layer stays as it is
    ]
    if not layers:
        return
    loads = total(torch.cat([layer.update_load for layer in layers if layer.update_load is not None]))
    for layer, load_E in zip(layers, torch.split(loads, [layer.num_experts for layer in layers]), strict=True):
        assert layer.balance_bias is not None
        assert layer.update_load is not None
        # In whole numbers: a load at the mean moves nothing.
        direction_E = torch.sign(load_E.sum() - layer.num_experts * load_E)
        layer.balance_bias += layer.balance_rate * direction_E
        layer.update_load.zero_()


_is_recomputation = False
"""A global of the module, since compiled code notices its changes, but not those of what is local to a thread. Autograd
recomputes in threads of its own, while the one that asked for gradients waits."""


def _keep_load_loss(moe: MoE, load_loss: Tensor) -> None:
    """Compiled code would leave out what it does not keep, and save other tensors when recomputing."""
    if not _is_recomputation:
        moe.load_loss = load_loss


@functools.cache
def ready_for_compiler() -> None:
    """Tell torch's compiler what is not to be compiled. Not by decorators, for which every process would import it."""
    global _keep_load_loss
    _keep_load_loss = torch.compiler.disable(_keep_load_loss)  # type: ignore[no-untyped-call]
    constant = torch.compiler.assume_constant_result
    experts.has_grouped_products = constant(experts.has_grouped_products)  # type: ignore[no-untyped-call]


@contextmanager
def recomputing() -> Iterator[None]:
    """Around a forward pass that repeats another: loads and auxiliary losses are not recorded a second time.

    For activation checkpointing: `checkpoint(..., use_reentrant=False, context_fn=contexts)` with a `contexts` that
    returns `(contextlib.nullcontext(), recomputing())`.
    """
    global _is_recomputation
    before, _is_recomputation = _is_recomputation, True
    try:
        yield
    finally:
        _is_recomputation = before


def expert_load(model: nn.Module, reset: bool = False) -> dict[str, Tensor]:
    """Frame copies each expert of each layer has computed since the last reset: {layer name: (E,) int64 on the CPU}."""
    loads = {}
    for name, module in model.named_modules():
        if isinstance(module, MoE):
            loads[name] = module.load.cpu().clone()
            if reset:
                module.load.zero_()
    return loads
