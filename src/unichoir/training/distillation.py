"""Distillation: an encoder learns to reproduce in chunks what another encoder computes with full context.

The teacher is frozen and sees complete utterances. The student sees what the chunk of its batch allows. Every frame of
speech has a distance between the two, whereas the losses of transcripts only have a few tokens. Therefore an encoder
that was trained on complete recordings learns chunks much faster, and keeps abilities that its training data don't
cover (after Dual-mode ASR, arXiv 2010.06030, whose teacher is the student itself).
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unichoir.configuration import POSITIVE, check_ranges
from unichoir.errors import ConfigError
from unichoir.network.encoder import Encoder
from unichoir.network.masks import frame_mask


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The teacher, and the weight of its loss."""

    checkpoint: str
    """Checkpoint directory of the teacher. Its encoder must have frames of the same width and rate. Its decoders and
    vocabulary aren't used."""
    weight: float = 1.0
    """Weight of the distance in the loss, above 0. Frames unrelated to the teacher's have a distance of about 1."""

    def __post_init__(self) -> None:
        check_ranges(self, weight=POSITIVE)


class Teacher:
    """A frozen encoder that a student is compared with.

    The comparison uses the output of the blocks below merged frames, as the decoders receive it, because top blocks
    belong to their own model. Without top blocks this is the encoder's output.
    """

    def __init__(self, config: TeacherConfig, teacher: Encoder, student: Encoder) -> None:
        self.weight = config.weight
        self.encoder = copy.deepcopy(teacher).eval().requires_grad_(False)
        self.encoder.top_blocks = nn.ModuleList()  # nothing above the merged frames is compared
        self._heard, self._learnt = _Tap(self.encoder), _Tap(student)

    def distance(self, feats: Tensor, feats_lengths: Tensor) -> Tensor:
        """Return the distance between the student's frames of its last forward pass and the teacher's, a scalar.

        feats: (B, T, M) and feats_lengths: (B,), the student's input. The distance is the squared difference of each
        value relative to the variance of that dimension in the teacher's frames: the mean over dimensions, the sum over
        the frames of an utterance, the mean over utterances.
        """
        with torch.no_grad():
            _, lengths, _ = self.encoder(feats, feats_lengths)
        heard, learnt = self._heard.take().float(), self._learnt.take().float()
        is_real = frame_mask(lengths, heard.shape[1])
        heard, learnt = heard[is_real], learnt[is_real]
        variance = heard.var(dim=0, correction=0).clamp(min=1e-5)
        return ((learnt - heard).square() / variance).mean(dim=1).sum() / len(lengths)


def find_teacher(config: TeacherConfig, teacher: Encoder, student: Encoder) -> Teacher:
    """Return the teacher of `student`. Raises ConfigError if the frames of the two cannot be compared."""
    ours, theirs = student.config, teacher.config
    for name in ("input_dim", "dim", "subsampling_rate", "right_context"):
        if getattr(ours, name) != getattr(theirs, name):
            raise ConfigError(
                f"teacher: {Path(config.checkpoint)} has an encoder with {name} {getattr(theirs, name)}, the model's "
                f"has {getattr(ours, name)}"
            )
    return Teacher(config, teacher, student)


class _Tap:
    """Keeps the frames (B, T', D) that pass through an encoder until they are taken."""

    def __init__(self, encoder: Encoder) -> None:
        self._frames: Tensor | None = None
        (encoder.merge or encoder.after_norm).register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor | tuple[Tensor, Tensor]) -> None:
        self._frames = output[0] if isinstance(output, tuple) else output

    def take(self) -> Tensor:
        frames, self._frames = self._frames, None
        assert frames is not None
        return frames
