"""Facts about a model's architecture, for its model card."""

from unichoir.network.config import FeedForwardConfig, ModelConfig
from unichoir.network.sizes import count_parameters


def model_facts(config: ModelConfig) -> dict[str, str]:
    """Return a description of each fact by name."""
    encoder, decoder, sizes = config.encoder, config.decoder, count_parameters(config)
    kind = "U2++ MoE" if encoder.feed_forward.num_experts else "U2++"
    reverse = " and a right-to-left" if decoder.num_reverse_blocks else ""
    kinds = "Transformer" if encoder.block == "transformer" else "Conformer"
    blocks = f"{encoder.num_blocks} {kinds} blocks"
    if encoder.num_top_blocks:
        blocks += f" and {encoder.num_top_blocks} Conformer blocks on merged pairs of frames"
    resting = sizes.active < sizes.total
    active = f", of which {sizes.active / 1e6:.1f}M compute one frame or token" if resting else ""
    return {
        "architecture": f"{kind}: {kinds} encoder, CTC, a left-to-right{reverse} Transformer decoder",
        "parameters": f"{sizes.total / 1e6:.1f}M{active}",
        "encoder": f"{blocks}, {encoder.dim} wide; {_experts(encoder.feed_forward)}",
        "decoders": f"{decoder.num_blocks} + {decoder.num_reverse_blocks} blocks; {_experts(decoder.feed_forward)}",
        "tokens": str(config.vocab_size),
        "streaming": "yes" if encoder.conv_causal else "no",
    }


def _experts(feed_forward: FeedForwardConfig) -> str:
    if not feed_forward.num_experts:
        return "no experts"
    return f"{feed_forward.num_experts} experts, top {feed_forward.top_k}, in every feed-forward layer"
