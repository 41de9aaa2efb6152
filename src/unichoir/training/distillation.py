"""An encoder learns to hear in chunks what another one hears with all of the future in view.

The teacher is frozen and sees every utterance whole; the student sees what the chunk of its batch allows. Each frame of
speech says how far the two are apart, where the losses of words have a few tokens to say in all: so an encoder that was
trained on whole recordings learns chunks much sooner, and keeps what its training data do not cover (after Dual-mode
ASR, arXiv 2010.06030, whose teacher is the student itself).
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unichoir.errors import ConfigError
from unichoir.network.encoder import Encoder
from unichoir.network.masks import frame_mask


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Whose frames the encoder keeps to, and how much that counts."""

    checkpoint: str
    """Checkpoint directory of a model whose encoder has frames of the same width and rate; its decoders and vocabulary
    play no part."""
    weight: float = 1.0
    """Of the distance in the loss. A frame that says nothing of the teacher's has a distance of about 1."""

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ConfigError(f"weight must be above 0, found {self.weight}")


class Teacher:
    """A frozen encoder beside the one that learns.

    Compared is what the blocks below merged frames have found, as the decoders hear it: those on top belong to their
    own model. Without blocks on top it is the encoder's output.
    """

    def __init__(self, config: TeacherConfig, teacher: Encoder, student: Encoder) -> None:
        self.weight = config.weight
        self.encoder = copy.deepcopy(teacher).eval().requires_grad_(False)
        self.encoder.top_blocks = nn.ModuleList()  # nothing is compared above the merged frames
        self._heard, self._learnt = _Tap(self.encoder), _Tap(student)

    def distance(self, feats: Tensor, feats_lengths: Tensor) -> Tensor:
        """How far the student's frames of its last forward pass are from the teacher's: a scalar.

        feats: (B, T, M), feats_lengths: (B,), as the student had them. The squared difference of each value, relative
        to the variance of that dimension in the teacher's frames; the mean over dimensions, the sum over the frames of
        an utterance, the mean over utterances.
        """
        with torch.no_grad():
            _, lengths, _ = self.encoder(feats, feats_lengths)
        heard, learnt = self._heard.take().float(), self._learnt.take().float()
        is_real = frame_mask(lengths, heard.shape[1])
        heard, learnt = heard[is_real], learnt[is_real]
        variance = heard.var(dim=0, correction=0).clamp(min=1e-5)
        return ((learnt - heard).square() / variance).mean(dim=1).sum() / len(lengths)


def find_teacher(config: TeacherConfig, teacher: Encoder, student: Encoder) -> Teacher:
    """Raises ConfigError where the frames of the two cannot be compared."""
    ours, theirs = student.config, teacher.config
    for name in ("input_dim", "dim", "subsampling_rate", "right_context"):
        if getattr(ours, name) != getattr(theirs, name):
            raise ConfigError(
                f"teacher: {Path(config.checkpoint)} has an encoder with {name} {getattr(theirs, name)}, the model's "
                f"has {getattr(ours, name)}"
            )
    return Teacher(config, teacher, student)


class _Tap:
    """Keeps the frames (B, T', D) that pass through an encoder, until they are taken."""

    def __init__(self, encoder: Encoder) -> None:
        self._frames: Tensor | None = None
        (encoder.merge or encoder.after_norm).register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor | tuple[Tensor, Tensor]) -> None:
        self._frames = output[0] if isinstance(output, tuple) else output

    def take(self) -> Tensor:
        frames, self._frames = self._frames, None
        assert frames is not None
        return frames
