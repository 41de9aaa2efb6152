"""How evenly a model used its experts: needs torch, because only the torch engine counts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from unichoir.decoding.backend import Backend
from unichoir.errors import DecodingError


@dataclass(frozen=True, kw_only=True)
class LayerLoad:
    """The experts of one Mixture-of-Experts layer."""

    frames: tuple[int, ...]
    """Frames (tokens, in a decoder) computed by each expert; one counts for each of its top-k experts."""

    @property
    def entropy(self) -> float:
        """Of the load's distribution over the experts, divided by its maximum: 1 is even, 0 one expert for all."""
        total = sum(self.frames)
        shares = [count / total for count in self.frames if count]
        return -sum(share * math.log(share) for share in shares) / math.log(max(len(self.frames), 2)) + 0.0

    @property
    def dead(self) -> tuple[int, ...]:
        """The experts that computed nothing."""
        return tuple(expert for expert, count in enumerate(self.frames) if not count)


def expert_load(backend: Backend) -> Mapping[str, LayerLoad]:
    """The load of each layer since the model was loaded, by layer name.

    Raises DecodingError when the backend is not a torch model with experts.
    """
    from unichoir.export.torch_backend import TorchBackend
    from unichoir.model import moe

    loads = moe.expert_load(backend.model) if isinstance(backend, TorchBackend) else {}
    if not loads:
        raise DecodingError("expert load: only torch checkpoints with a Mixture of Experts report it")
    return {name: LayerLoad(frames=tuple(load.tolist())) for name, load in loads.items()}
