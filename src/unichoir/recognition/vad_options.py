"""What counts as speech, in a module without heavy imports, because the command line shows these defaults."""

from dataclasses import dataclass

from unichoir.errors import DecodingError


@dataclass(frozen=True, kw_only=True)
class VadOptions:
    """What counts as speech. Raises DecodingError for invalid values."""

    threshold: float = 0.5
    """Speech begins when its probability reaches this value, 0 to 1."""
    hysteresis: float = 0.15
    """Speech continues until its probability is this much lower than `threshold`."""
    min_silence_seconds: float = 0.5
    """Shorter pauses are part of the speech around them."""
    min_speech_seconds: float = 0.06
    """Shorter sounds, such as clicks, are not speech."""
    speech_pad_seconds: float = 0.2
    """Audio before and after speech that is recognised with it; at most half of `min_silence_seconds`."""

    def __post_init__(self) -> None:
        self._check("threshold", 0.0, 1.0)
        self._check("hysteresis", 0.0, self.threshold)
        self._check("min_silence_seconds", 0.1, 60.0)
        self._check("min_speech_seconds", 0.0, 10.0)
        self._check("speech_pad_seconds", 0.0, self.min_silence_seconds / 2)

    def _check(self, name: str, least: float, most: float) -> None:
        value = getattr(self, name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= most:
            raise DecodingError(f"vad_options: {name}: expected a number from {least:g} to {most:g}, found {value!r}")
