"""Options of voice activity detection. This module needs no numerics, so commands that name these start fast."""

from dataclasses import dataclass
from typing import Annotated

from unichoir.declaration import Option, check_options
from unichoir.errors import DecodingError

PANEL = "Long recordings"
"""The heading in `--help`."""


@dataclass(frozen=True, kw_only=True)
class VadOptions:
    """What counts as speech. Raises DecodingError for invalid values."""

    threshold: Annotated[
        float,
        Option("Probability at which speech begins.", low=0, high=1, flag="--vad-threshold", panel=PANEL),
    ] = 0.5
    hysteresis: Annotated[
        float,
        Option(
            "Speech ends when its probability is this much below `threshold`; at most `threshold`.", low=0, flag=None
        ),
    ] = 0.15
    min_silence_seconds: Annotated[
        float,
        Option(
            "Shorter pauses are part of the speech around them.",
            low=0.1,
            high=60,
            unit="s",
            flag="--min-silence",
            panel=PANEL,
        ),
    ] = 0.5
    min_speech_seconds: Annotated[
        float, Option("Shorter sounds are clicks, not speech.", low=0, high=10, unit="s", flag=None)
    ] = 0.06
    speech_pad_seconds: Annotated[
        float,
        Option(
            "Audio to recognise before and after the speech; at most half of `min_silence_seconds`.",
            low=0,
            unit="s",
            flag=None,
        ),
    ] = 0.2

    def __post_init__(self) -> None:
        try:
            check_options(self)
            for name, most in (("hysteresis", self.threshold), ("speech_pad_seconds", self.min_silence_seconds / 2)):
                if getattr(self, name) > most:
                    raise DecodingError(f"{name}: expected a number from 0 to {most:g}, found {getattr(self, name)!r}")
        except DecodingError as error:
            raise DecodingError(f"vad_options: {error}") from None

    @classmethod
    def fitted(cls, *, threshold: float, min_silence_seconds: float, **others: float) -> "VadOptions":
        """Return options whose other values are, unless given, the defaults or as much as these two leave room for."""
        limits = {
            "hysteresis": min(cls.hysteresis, threshold),
            "speech_pad_seconds": min(cls.speech_pad_seconds, min_silence_seconds / 2),
        }
        return cls(threshold=threshold, min_silence_seconds=min_silence_seconds, **(limits | others))
