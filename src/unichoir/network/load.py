"""How evenly a layer uses its experts."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LayerLoad:
    """The load of the experts of one Mixture of Experts layer."""

    frames: tuple[int, ...]
    """Number of frames (in a decoder, tokens) that each expert computed. A frame counts once for each of its experts.
    """

    @property
    def entropy(self) -> float:
        """Entropy of the load divided by its maximum: 1 for an even load, 0 if one expert has all of it."""
        total = sum(self.frames)
        shares = [count / total for count in self.frames if count]
        return -sum(share * math.log(share) for share in shares) / math.log(max(len(self.frames), 2)) + 0.0

    @property
    def largest_share(self) -> float:
        """Fraction of all frame copies that the busiest expert computes; 0 without any frames."""
        return max(self.frames) / max(sum(self.frames), 1)

    @property
    def dead(self) -> tuple[int, ...]:
        """The experts that computed no frames."""
        return tuple(expert for expert, count in enumerate(self.frames) if not count)
