"""How evenly a layer uses its experts."""

import math
from dataclasses import dataclass


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
    def largest_share(self) -> float:
        """The part of all frame copies that the busiest expert computes; 0 where there are none."""
        return max(self.frames) / max(sum(self.frames), 1)

    @property
    def dead(self) -> tuple[int, ...]:
        """The experts that computed nothing."""
        return tuple(expert for expert, count in enumerate(self.frames) if not count)
