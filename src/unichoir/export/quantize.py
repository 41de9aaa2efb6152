"""Int8: all products of frames and weights use integers.

A weight matrix has one scale per output, and a frame one for each product:

    y_nm = s_n t_m sum_k (q_nk - z) w_km

The result of a frame therefore only depends on that frame, not on the rest of the batch. Routers, norms, attention
scores, softmax, the depthwise convolutions and the first convolution (nine inputs) stay in fp32.

The modules here replace modules of the model. In torch they compute exactly what is defined here. Each is exported as
one node, which calls a function of `export/functions.py`.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from unichoir.network.asr_model import AsrModel
from unichoir.network.attention import MultiHeadAttention
from unichoir.network.config import EncoderConfig, convolved_size
from unichoir.network.convolution import ConvolutionModule
from unichoir.network.dispatch import combine, dispatch
from unichoir.network.encoder import MergePairs
from unichoir.network.feed_forward import ACTIVATIONS, FeedForward
from unichoir.network.moe import MoE
from unichoir.network.router import Router
from unichoir.network.subsampling import Conv1dFront, Conv2dFront, blank_first_frame

Codes = Literal["symmetric", "swish", "gelu", "relu"]
"""The values that 8-bit codes represent: symmetric, or the output of an activation, which has few values below 0."""
ZERO_POINT: dict[str, int] = {"symmetric": 128, "swish": 64, "gelu": 48, "relu": 0}
"""The code of 0. It is constant, so a product only needs the scale of each frame."""
FLOOR: dict[str, float] = {"swish": 0.27847, "gelu": 0.16998}
"""The negative of the activation's minimum."""
LARGEST = 127
"""The code of an output's largest weight."""
LARGEST_ANYWHERE = 63
"""The same if ONNX Runtime isn't set to be exact: processors without VNNI add two products in 16 bits, and 2 * 255 * 63
is the largest that fits."""
TINY = 1e-20
"""The smallest peak of a frame, which gives a frame of zeros a scale."""


def peak_to_scale(codes: str) -> float:
    """Return the factor from a frame's largest value to its scale."""
    return 1 / 127 if codes == "symmetric" else 1 / (255 - ZERO_POINT[codes])


def least_peak(codes: str) -> float:
    """Return the minimum peak of a frame; for swish and GELU large enough to give all values below 0 a code."""
    return FLOOR[codes] * (255 - ZERO_POINT[codes]) / ZERO_POINT[codes] if codes in FLOOR else TINY


def quantize_frames(x_NK: Tensor, codes: str) -> tuple[Tensor, Tensor]:
    """Return codes (N, K) uint8 and scales (N,) fp32 of frames: x is about scale * (code - ZERO_POINT)."""
    peak_N = x_NK.abs().amax(dim=1) if codes == "symmetric" else x_NK.amax(dim=1)
    scale_N = peak_N.clamp(min=least_peak(codes)) * peak_to_scale(codes)
    codes_NK = torch.round(x_NK / scale_N.unsqueeze(1)) + ZERO_POINT[codes]
    return codes_NK.clamp(0, 255).to(torch.uint8), scale_N


def quantize_weight(weight_MK: Tensor, largest: int = LARGEST) -> tuple[Tensor, Tensor]:
    """Return a layer's weights (M, K) as int8 (K, M), from -largest to largest, and the scales of outputs (M,)."""
    scale_M = weight_MK.abs().amax(dim=1).clamp(min=TINY) / largest
    return torch.round(weight_MK / scale_M.unsqueeze(1)).to(torch.int8).t().contiguous(), scale_M


def product(codes_NK: Tensor, scale_N: Tensor, w_KM: Tensor, scale_M: Tensor, bias_M: Tensor, codes: str) -> Tensor:
    """Return the scaled product (N, M). float64 represents all its integer sums exactly."""
    sums_NM = (codes_NK.double() - ZERO_POINT[codes]) @ w_KM.double()
    return sums_NM.float() * scale_M * scale_N.unsqueeze(1) + bias_M


@torch.library.custom_op("unichoir::int8_linear", mutates_args=())
def int8_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, codes: str) -> Tensor:
    """Quantise each frame and multiply: (..., K) to (..., M), see `Int8Linear`."""
    codes_NK, scale_N = quantize_frames(x.reshape(-1, x.shape[-1]), codes)
    return product(codes_NK, scale_N, weight, scale, bias, codes).reshape(*x.shape[:-1], weight.shape[1])


@int8_linear.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, codes: str) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[1])


@torch.library.custom_op("unichoir::int8_experts", mutates_args=())
def int8_experts(
    x_ND: Tensor,
    gates_NK: Tensor,
    experts_NK: Tensor,
    w_1: list[Tensor],
    w_2: list[Tensor],
    scale_1_EH: Tensor,
    bias_1_EH: Tensor,
    scale_2_ED: Tensor,
    bias_2_ED: Tensor,
    activation: str,
) -> Tensor:
    """Return the gated sum of the experts' outputs (N, D), see `Int8Experts`."""
    everything_N = torch.ones(len(x_ND), dtype=torch.bool)
    order = dispatch(experts_NK, everything_N, len(w_1))
    codes_ND, scale_N = quantize_frames(x_ND, "symmetric")  # before frames are copied to their experts
    codes_SD, scale_S = codes_ND[order.source_S], scale_N[order.source_S]
    y_SD = x_ND.new_zeros(len(order.source_S), w_2[0].shape[1])
    begin = 0
    for e, count in enumerate(order.counts_E.tolist()):
        rows = slice(begin, begin + count)
        hidden = product(codes_SD[rows], scale_S[rows], w_1[e], scale_1_EH[e], bias_1_EH[e], "symmetric")
        hidden = ACTIVATIONS[activation](hidden)
        if count:
            y_SD[rows] = product(*quantize_frames(hidden, activation), w_2[e], scale_2_ED[e], bias_2_ED[e], activation)
        begin += count
    return combine(y_SD, gates_NK, order.position_NK, everything_N)


@int8_experts.register_fake
def _(
    x_ND: Tensor,
    gates_NK: Tensor,
    experts_NK: Tensor,
    w_1: list[Tensor],
    w_2: list[Tensor],
    scale_1_EH: Tensor,
    bias_1_EH: Tensor,
    scale_2_ED: Tensor,
    bias_2_ED: Tensor,
    activation: str,
) -> Tensor:
    return torch.empty_like(x_ND)


class Int8Linear(nn.Module):
    """A linear layer in int8. `codes` describes its input."""

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, weight_MK: Tensor, bias: Tensor | None, codes: Codes, largest: int = LARGEST) -> None:
        super().__init__()
        weight, scale = quantize_weight(weight_MK.detach(), largest)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", torch.zeros_like(scale) if bias is None else bias.detach())
        self.codes = codes

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.unichoir.int8_linear(x, self.weight, self.scale, self.bias, self.codes)
        return y


class Int8Experts(nn.Module):
    """A `MoE` in int8, with separate weights per expert. It doesn't count the load."""

    scale_1: Tensor
    bias_1: Tensor
    scale_2: Tensor
    bias_2: Tensor

    def __init__(self, moe: MoE, largest: int = LARGEST) -> None:
        super().__init__()
        if hasattr(moe, "router"):
            self.router = moe.router
        self.shared_expert, experts = moe.shared_expert, moe.experts
        self.num_experts, self.activation = moe.num_experts, experts.activation
        self.register_buffer("balance_bias", moe.balance_bias)
        for layer in (1, 2):
            weights = getattr(experts, f"w_{layer}").detach()
            scales = []
            for e, each in enumerate(weights):
                weight, scale = quantize_weight(each, largest)
                self.register_buffer(f"w_{layer}_{e}", weight)
                scales.append(scale)
            bias = getattr(experts, f"bias_{layer}")
            self.register_buffer(f"scale_{layer}", torch.stack(scales))
            self.register_buffer(
                f"bias_{layer}", weights.new_zeros(weights.shape[:2]) if bias is None else bias.detach()
            )

    def forward(self, x: Tensor, mask: Tensor, top_k: Tensor | None = None, router: Router | None = None) -> Tensor:
        """Apply the mixture, see `MoE.forward`."""
        x_ND = x.reshape(-1, x.shape[-1])
        gates_NK, experts_NK, _ = (self.router if router is None else router)(x_ND, top_k, self.balance_bias)
        experts_NK = experts_NK.masked_fill(~mask.reshape(-1, 1), self.num_experts)  # padding belongs to no expert
        w_1, w_2 = ([getattr(self, f"w_{layer}_{e}") for e in range(self.num_experts)] for layer in (1, 2))
        scales_and_biases = (self.scale_1, self.bias_1, self.scale_2, self.bias_2)
        y_ND = torch.ops.unichoir.int8_experts(
            x_ND, gates_NK, experts_NK, w_1, w_2, *scales_and_biases, self.activation
        )
        y: Tensor = y_ND.reshape(x.shape)
        return y if self.shared_expert is None else y + self.shared_expert(x, mask)


class Int8Mixture(nn.Module):
    """A `MoE` in int8 as one wide feed-forward network.

    Its hidden units are those of the shared expert, then of all experts, multiplied by their expert's gate.

    The gate of an expert that wasn't chosen is 0, so the sum is the same, but all experts are computed. For experts
    that are small compared with the rest of a frame's computation, this is faster than sorting frames by expert
    (`worthwhile`).
    """

    spread: Tensor
    shared_units: Tensor
    bias_2: Tensor
    shared_bias_2: Tensor

    def __init__(self, moe: MoE, largest: int = LARGEST) -> None:
        super().__init__()
        if hasattr(moe, "router"):
            self.router = moe.router
        experts, shared = moe.experts, moe.shared_expert
        num_experts, hidden, dim = experts.w_1.shape
        self.num_experts, self.activation = num_experts, experts.activation
        first, second = [experts.w_1.flatten(0, 1)], [experts.w_2.transpose(1, 2).flatten(0, 1)]
        biases = [] if experts.bias_1 is None else [experts.bias_1.flatten()]
        width = 0
        if shared is not None:
            first, second = [shared.w_1.weight, *first], [shared.w_2.weight.t(), *second]
            biases = [shared.w_1.bias, *biases] if biases else []
            width = len(shared.w_1.weight)
        self.w_1 = Int8Linear(torch.cat(first), torch.cat(biases) if biases else None, "symmetric", largest)
        self.w_2 = Int8Linear(torch.cat(second).t(), None, self.activation, largest)
        of_experts = torch.eye(num_experts).repeat_interleave(hidden, dim=1)
        self.register_buffer("spread", torch.cat([torch.zeros(num_experts, width), of_experts], dim=1))
        self.register_buffer("shared_units", (torch.arange(self.spread.shape[1]) < width).float())
        none = torch.zeros(num_experts, dim)
        self.register_buffer("bias_2", none if experts.bias_2 is None else experts.bias_2.detach())
        shared_bias = None if shared is None else shared.w_2.bias
        self.register_buffer("shared_bias_2", none[0] if shared_bias is None else shared_bias.detach())

    @staticmethod
    def worthwhile(moe: MoE) -> bool:
        """Return whether unchosen experts add at most a quarter to the work of the chosen and shared experts."""
        experts = moe.experts
        shared = 0 if moe.shared_expert is None else len(moe.shared_expert.w_1.weight)
        hidden, chosen = experts.w_1.shape[1], moe.top_k
        return moe.balance_bias is None and 4 * (experts.num_experts - chosen) * hidden <= chosen * hidden + shared

    def forward(self, x: Tensor, mask: Tensor, top_k: Tensor | None = None, router: Router | None = None) -> Tensor:
        """Apply the mixture, see `MoE.forward`. Padding is computed like any frame."""
        x_ND = x.reshape(-1, x.shape[-1])
        gates_NK, experts_NK, _ = (self.router if router is None else router)(x_ND, top_k)
        is_chosen_NKE = experts_NK.unsqueeze(2) == torch.arange(self.num_experts)
        gates_NE = (gates_NK.unsqueeze(2) * is_chosen_NKE).sum(dim=1)
        hidden = ACTIVATIONS[self.activation](self.w_1(x_ND)) * torch.addmm(self.shared_units, gates_NE, self.spread)
        y_ND = self.w_2(hidden) + torch.addmm(self.shared_bias_2, gates_NE, self.bias_2)
        y: Tensor = y_ND.reshape(x.shape)
        return y


class Int8Conv2dFront(nn.Module):
    """`Conv2dFront` as products of patches: the places that a convolution sees form one row. The first is in fp32."""

    def __init__(self, front: Conv2dFront, config: EncoderConfig, largest: int = LARGEST) -> None:
        super().__init__()
        self.shapes = config.convolutions
        bins = config.input_dim
        for number, (convolution, shape) in enumerate(zip(front.convolutions, self.shapes, strict=True), 1):
            bins = convolved_size(bins, [shape])
            self.register_buffer(f"patch_index_{number}", _patch_index(bins, *shape))
            weight, bias = _patch_weight(convolution), convolution.bias
            if number == 1:
                product: nn.Module = nn.Linear(weight.shape[1], weight.shape[0])
                product.load_state_dict({"weight": weight, "bias": bias})
            else:
                product = Int8Linear(weight, bias, "relu", largest)
            self.add_module(f"conv_{number}", product)
        out = front.out
        by_place = out.weight.detach().reshape(out.out_features, -1, bins).transpose(1, 2).flatten(1)
        self.out = Int8Linear(by_place, out.bias, "relu", largest)

    def forward(self, x: Tensor, is_start: Tensor | None = None) -> Tensor:
        """Subsample (B, T, M) to (B, T', D), like `Conv2dFront.forward`."""
        x = x.unsqueeze(3)
        for number, shape in enumerate(self.shapes, 1):
            patches = _patches(x, getattr(self, f"patch_index_{number}"), *shape)
            x = functional.relu(getattr(self, f"conv_{number}")(patches))
        y: Tensor = self.out(x.flatten(2))
        return y


class Int8Conv1dFront(nn.Module):
    """`Conv1dFront` as products of three adjacent frames; the first, on few features, in fp32."""

    def __init__(self, front: Conv1dFront, largest: int = LARGEST) -> None:
        super().__init__()
        first = front.conv_1
        self.conv_1 = nn.Linear(3 * first.in_channels, first.out_channels)
        weight = first.weight.detach().transpose(1, 2).flatten(1)
        self.conv_1.load_state_dict({"weight": weight, "bias": first.state_dict()["bias"]})
        second = front.conv_2
        self.conv_2 = Int8Linear(second.weight.transpose(1, 2).flatten(1), second.bias, "gelu", largest)

    def forward(self, x: Tensor, is_start: Tensor | None = None) -> Tensor:
        """Subsample (B, T, M) to (B, T', D), like `Conv1dFront.forward`."""
        frames = x.shape[1]
        x = functional.gelu(self.conv_1(torch.cat([x[:, : frames - 2], x[:, 1 : frames - 1], x[:, 2:]], dim=2)))
        x = blank_first_frame(x, is_start)
        x = torch.cat([x[:, : frames - 4 : 2], x[:, 1 : frames - 3 : 2], x[:, 2::2]], dim=2)
        return functional.gelu(self.conv_2(x))


def _patch_weight(conv: nn.Conv2d) -> Tensor:
    """Convert (C', C, time, mel) to (C', time * mel * C) in the order of `_patches`."""
    return conv.weight.detach().permute(0, 2, 3, 1).flatten(1)


def _patch_index(places: int, kernel: int, stride: int) -> Tensor:
    """Return the mel places under each place of the output, for kernel 3 and stride 2: 0 1 2, 2 3 4, ..."""
    return (stride * torch.arange(places).unsqueeze(1) + torch.arange(kernel)).flatten()


def _patches(x: Tensor, index: Tensor, kernel: int, stride: int) -> Tensor:
    """Return what a square convolution sees at each place: (B, T, F, C) to (B, T', F', kernel * kernel * C)."""
    batch, frames, _, channels = x.shape
    x = x.index_select(2, index).reshape(batch, frames, len(index) // kernel, kernel * channels)
    last = frames - kernel + 1
    return torch.cat([x[:, first : last + first : stride] for first in range(kernel)], dim=3)


def quantize_model(model: AsrModel, largest: int = LARGEST) -> None:
    """Replace all modules that multiply frames with weights by int8 modules. largest: the code of the largest weights.

    The result is for inference only. Each weight is freed after its replacement, so this needs little more memory than
    the model.
    """

    def replace(parent: nn.Module, name: str, codes: Codes) -> None:
        linear = getattr(parent, name)
        setattr(parent, name, Int8Linear(linear.weight, linear.bias, codes, largest))

    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, MoE):
                kind = Int8Mixture if Int8Mixture.worthwhile(module) else Int8Experts
                setattr(parent, name, kind(module, largest))
    for module in list(model.modules()):
        if isinstance(module, MultiHeadAttention):
            for name in ("linear_q", "linear_k", "linear_v", "linear_out", "linear_pos"):
                if hasattr(module, name):
                    replace(module, name, "symmetric")
        elif isinstance(module, ConvolutionModule):
            replace(module, "pointwise_conv1", "symmetric")
            replace(module, "pointwise_conv2", "swish")
        elif isinstance(module, FeedForward):
            replace(module, "w_1", "symmetric")
            replace(module, "w_2", module.activation)
        elif isinstance(module, MergePairs):
            replace(module, "linear", "symmetric")
        for name in ("ctc_lo", "output_layer"):
            if hasattr(module, name):
                replace(module, name, "symmetric")
    front, config = model.encoder.subsampling, model.encoder.config
    int8_front = (
        Int8Conv1dFront(front, largest) if isinstance(front, Conv1dFront) else Int8Conv2dFront(front, config, largest)
    )
    setattr(model.encoder, "subsampling", int8_front)  # noqa: B010
