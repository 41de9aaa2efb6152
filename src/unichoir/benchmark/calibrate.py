"""Make random weights behave like trained ones where this affects the speed.

Two properties matter: how unevenly frames are distributed over experts, because an expert that processes few frames is
slower per frame; and how many tokens the searches find, because they only do work where there is speech.

Called by `prepare`, and by `worker` to build the same model in its own process.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unichoir.errors import CheckpointError
from unichoir.network.asr_model import AsrModel, reverse_tokens
from unichoir.network.config import ModelConfig
from unichoir.network.ctc import Ctc
from unichoir.network.moe import MoE
from unichoir.network.router import Router

SEED = 20240424
TRAINED_SHARES = (0.359, 0.259, 0.171, 0.09, 0.056, 0.032, 0.022, 0.011)
"""The share of a layer's frame copies that each of 8 experts processes, the busiest first."""
BLANK_SHARE = 0.82
"""The share of encoder frames whose best token is blank: leaves 45 tokens in 10 seconds, as in English speech."""
LOGIT_SPREAD = 6.0
"""Standard deviation of the CTC logits: a trained model is confident about most frames."""
NUM_TOKENS = 250
"""Length of the random hypothesis that the decoders' routers see."""
_TOLERANCE = 0.01
_MAX_STEPS = 200


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The changes to a model made with `SEED`, from which the calibrated model can be rebuilt."""

    cmvn: NDArray[np.float32]
    """(2, M): the mean of the features, and the inverse of their standard deviation."""
    routers: Mapping[str, NDArray[np.float32]]
    """The weights (E, D) of each router, by layer name."""
    uniform_routers: Mapping[str, NDArray[np.float32]]
    """The weights of the encoder's routers with which all experts process equally many frames."""
    shares: Mapping[str, tuple[float, ...]]
    """The share of each layer's frame copies that each expert processed with `routers`, by layer name."""
    ctc_scale: float
    """The factor applied to the CTC weights."""
    ctc_bias: NDArray[np.float32]
    """(V,)"""

    def apply(self, model: AsrModel) -> None:
        """Calibrate a model from `build_model` in place."""
        layers = dict(model.named_modules())
        with torch.no_grad():
            _normalize(model, self.cmvn)
            for name, weight in self.routers.items():
                _router(layers[name]).gate.weight.copy_(torch.from_numpy(weight))
            model.ctc.ctc_lo.weight.mul_(self.ctc_scale)
            model.ctc.ctc_lo.bias.copy_(torch.from_numpy(self.ctc_bias))

    def save(self, path: Path) -> None:
        """Save to an .npz file."""
        arrays = {f"router {name}": weight for name, weight in self.routers.items()}
        arrays |= {f"uniform {name}": weight for name, weight in self.uniform_routers.items()}
        arrays |= {f"shares {name}": np.array(shares) for name, shares in self.shares.items()}
        np.savez(path, cmvn=self.cmvn, ctc_scale=np.array(self.ctc_scale), ctc_bias=self.ctc_bias, **arrays)  # type: ignore[arg-type]

    @staticmethod
    def load(path: Path) -> "Calibration":
        """Load a file written by `save`. Raises CheckpointError if it is damaged."""
        try:
            with np.load(path) as stored:
                arrays = dict(stored)
            return Calibration(
                cmvn=arrays["cmvn"],
                routers=_named(arrays, "router "),
                uniform_routers=_named(arrays, "uniform "),
                shares={name: tuple(map(float, shares)) for name, shares in _named(arrays, "shares ").items()},
                ctc_scale=float(arrays["ctc_scale"]),
                ctc_bias=arrays["ctc_bias"],
            )
        except Exception as error:  # zipfile and numpy raise many types of exception for damaged files
            raise CheckpointError(f"{path}: cannot be read ({error}); delete the file and run again") from None


def _named(arrays: Mapping[str, NDArray[np.float32]], prefix: str) -> dict[str, NDArray[np.float32]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def build_model(config: ModelConfig) -> AsrModel:
    """Build the model of a configuration with random weights from `SEED`, in evaluation mode."""
    torch.manual_seed(SEED)
    return AsrModel(config).eval()


def calibrate(model: AsrModel, feats: NDArray[np.float32]) -> Calibration:
    """Calibrate `model`, made by `build_model`, in place; feats: (T, M) log-mel frames, about 10 seconds.

    Each router is adjusted to its input after all layers before it have been adjusted, so one pass is enough. Each
    layer has different popular experts.
    """
    cmvn = np.stack([feats.mean(axis=0), 1 / feats.std(axis=0)])
    frames, lens = torch.from_numpy(feats)[None], torch.tensor([len(feats)])
    tokens = torch.randint(3, model.config.vocab_size, (1, NUM_TOKENS), generator=torch.Generator().manual_seed(SEED))
    token_lens = torch.tensor([NUM_TOKENS])
    with torch.inference_mode():
        _normalize(model, cmvn)
        with _balancing(model, None):
            model.encoder(frames, lens)
        uniform = {name: weight for name, weight in _routers(model).items() if name.startswith("encoder.")}
        with _balancing(model, TRAINED_SHARES) as shares:
            encoder_out, encoder_lens, _ = model.encoder(frames, lens)
            model.left_decoder(encoder_out, encoder_lens, tokens, token_lens)
            if model.right_decoder is not None:
                model.right_decoder(encoder_out, encoder_lens, reverse_tokens(tokens, token_lens), token_lens)
        scale = sharpen(model.ctc, encoder_out[0])
    return Calibration(
        cmvn=cmvn,
        routers=_routers(model),
        uniform_routers=uniform,
        shares=shares,
        ctc_scale=scale,
        ctc_bias=model.ctc.ctc_lo.bias.detach().numpy().copy(),
    )


def _normalize(model: AsrModel, cmvn: NDArray[np.float32]) -> None:
    model.encoder.cmvn_mean.copy_(torch.from_numpy(cmvn[0]))
    model.encoder.cmvn_istd.copy_(torch.from_numpy(cmvn[1]))


def _routers(model: nn.Module) -> dict[str, NDArray[np.float32]]:
    layers = {name: module for name, module in model.named_modules() if isinstance(module, MoE)}
    return {name: layer.router.gate.weight.detach().numpy().copy() for name, layer in layers.items()}


def _router(module: nn.Module) -> Router:
    assert isinstance(module, MoE)
    return module.router


@contextmanager
def _balancing(model: nn.Module, profile: Sequence[float] | None) -> Iterator[dict[str, tuple[float, ...]]]:
    """In the block, each MoE layer adjusts its router before it runs; yields the resulting shares, by layer name."""
    shares: dict[str, tuple[float, ...]] = {}
    hooks = []
    for place, (name, module) in enumerate(model.named_modules()):
        if isinstance(module, MoE):
            target = target_shares(profile, module.num_experts)
            target = np.random.default_rng([SEED, place]).permutation(target)

            def adjust(
                layer: nn.Module, inputs: tuple[Tensor, ...], name: str = name, target: NDArray[np.float64] = target
            ) -> None:
                x, mask = inputs[:2]
                reached = balance(_router(layer), x[mask], torch.from_numpy(target))
                shares[name] = tuple(reached.tolist())

            hooks.append(module.register_forward_pre_hook(adjust))
    try:
        yield shares
    finally:
        for hook in hooks:
            hook.remove()


def target_shares(profile: Sequence[float] | None, num_experts: int) -> NDArray[np.float64]:
    """Return (E,) shares that sum to 1: `profile` interpolated by rank to the number of experts; None: equal shares."""
    if profile is None:
        return np.full(num_experts, 1 / num_experts)
    ranks = (np.arange(num_experts) + 0.5) / num_experts
    known = (np.arange(len(profile)) + 0.5) / len(profile)
    shares = np.interp(ranks, known, profile)
    return np.asarray(shares / shares.sum())


def balance(router: Router, x_ND: Tensor, target_E: Tensor) -> Tensor:
    """Adjust the router until each expert's share of all frame copies is within one percentage point of its target.

    Frames come out of a norm and have a common mean. Adding a multiple of it to an expert's weights raises or lowers
    the expert's logit for all frames, as a bias would; routers have no bias. Returns the shares (E,).
    """
    weight, top_k = router.gate.weight, router.top_k
    mean_D = x_ND.mean(dim=0)
    direction_D = mean_D / mean_D.square().sum().clamp(min=1e-12)
    target_E = target_E.to(weight.dtype)
    # With few frames, shares can't be finer; and a frame chooses each expert at most once.
    tolerance = max(_TOLERANCE, 2 / (len(x_ND) * top_k))
    target_E = target_E.clamp(max=1 / top_k)
    best, best_error = weight.detach().clone(), float("inf")
    for step in range(_MAX_STEPS + 1):
        logits_NE = router.gate(x_ND)
        chosen = torch.topk(logits_NE, top_k, dim=-1).indices
        shares_E = torch.bincount(chosen.flatten(), minlength=len(weight)).to(weight.dtype) / chosen.numel()
        error = float((shares_E - target_E).abs().max())
        if error < best_error:
            best, best_error, best_shares = weight.detach().clone(), error, shares_E
        if error <= tolerance or step == _MAX_STEPS:
            break
        pace = 3.0 / (1 + step / 20)  # decreasing, or the last frames would oscillate between experts
        spread = logits_NE.std(dim=0).mean()
        weight += pace * spread * (target_E - shares_E).unsqueeze(1) * direction_D
    weight.copy_(best)
    return best_shares


def sharpen(ctc: Ctc, encoder_out: Tensor) -> float:
    """Make the CTC layer as confident as a trained one on encoder_out (T', D): see `LOGIT_SPREAD` and `BLANK_SHARE`.

    The mean of all frames is subtracted first; otherwise a random layer would find the same token in all of them.
    Returns the factor applied to the weights.
    """
    weight, bias, blank = ctc.ctc_lo.weight, ctc.ctc_lo.bias, ctc.blank_id
    mean_D = encoder_out.mean(dim=0)
    scale = LOGIT_SPREAD / float(((encoder_out - mean_D) @ weight.T).std())
    weight.mul_(scale)
    bias.copy_(-weight @ mean_D)
    bias[blank] += blank_shift(ctc.ctc_lo(encoder_out).numpy(), blank)
    return scale


def blank_shift(logits: NDArray[np.float32], blank: int) -> float:
    """Return the bias that makes blank the best token in `BLANK_SHARE` of the frames; logits: (T', V)."""
    others = np.delete(logits, blank, axis=1)
    return float(np.quantile(others.max(axis=1) - logits[:, blank], BLANK_SHARE))
