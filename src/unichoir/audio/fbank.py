"""Log-mel filterbank features: one path for whole utterances and for streams."""

import dataclasses
import math
from typing import Any, Literal

import kaldi_native_fbank
import numpy as np
from numpy.typing import NDArray

from unichoir.audio.io import Samples
from unichoir.configuration import check_ranges
from unichoir.errors import AudioError, ConfigError

Features = NDArray[np.float32]


WHISPER_FLOOR = -6.0
"""Of log10 energies. Whisper itself clamps to 8 below the utterance's maximum, which no stream can know."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FbankConfig:
    """How samples become features; a model is only right with the one that it was trained with."""

    kind: Literal["kaldi", "whisper"] = "kaldi"
    """Whose features. "whisper" fixes everything but `num_mel_bins` (80 or 128) and `lead_frames`."""
    sample_rate: int = 16000
    """In Hz."""
    num_mel_bins: int = 80
    frame_length_ms: float = 25.0
    frame_shift_ms: float = 10.0
    low_freq: float | None = None
    """Lower edge of the lowest filter in Hz. None becomes what the kind implies: 20 with kaldi, 0 with whisper."""
    high_freq: float = 0.0
    """Upper edge of the highest filter in Hz; zero or less is relative to the Nyquist frequency (sherpa-onnx: -400)."""
    snip_edges: bool | None = None
    """Only frames that lie wholly inside the audio. Otherwise the edges are mirrored (sherpa-onnx). None becomes what
    the kind implies: true with kaldi, false with whisper."""
    lead_frames: int = 0
    """So many frames of zeros come before the first real frame: the zero padding of Whisper's convolutions needs 2."""

    def __post_init__(self) -> None:
        is_whisper = self.kind == "whisper"
        if self.low_freq is None:
            object.__setattr__(self, "low_freq", 0.0 if is_whisper else 20.0)
        if self.snip_edges is None:
            object.__setattr__(self, "snip_edges", not is_whisper)
        # Where there is no least value, another check below says more about it.
        check_ranges(
            self,
            sample_rate=(1000, 1_000_000),
            frame_length_ms=(0, 1000),
            lead_frames=(-math.inf, 1000),
            num_mel_bins=(-math.inf, 4096),
        )
        if self.lead_frames < 0:
            raise ConfigError(f"lead_frames must not be negative, but is {self.lead_frames}")
        if is_whisper:
            self._check_whisper()
        else:
            self._check_kaldi(self.low_freq or 0.0)

    def _check_whisper(self) -> None:
        implied = {"sample_rate": 16000, "frame_length_ms": 25.0, "frame_shift_ms": 10.0}
        implied |= {"low_freq": 0.0, "high_freq": 0.0, "snip_edges": False}
        for name, value in implied.items():
            found = getattr(self, name)
            if found != value:
                raise ConfigError(f"{name} cannot be {found} with kind whisper, which has {value}: leave the key out")
        if self.num_mel_bins not in (80, 128):
            raise ConfigError(f"num_mel_bins must be 80 or 128 with kind whisper, not {self.num_mel_bins}")

    def _check_kaldi(self, low_freq: float) -> None:
        nyquist = self.sample_rate / 2
        top = self.high_freq if self.high_freq > 0 else nyquist + self.high_freq
        if self.num_mel_bins < 4:
            raise ConfigError(f"num_mel_bins must be at least 4, not {self.num_mel_bins}")
        if not 0 < self.frame_shift_ms <= self.frame_length_ms:
            raise ConfigError(f"frame_shift_ms {self.frame_shift_ms} must lie in (0, frame_length_ms]")
        check_ranges(self, frame_shift_ms=(1, 1000))
        if not 0 <= low_freq < top <= nyquist:
            raise ConfigError(f"low_freq {low_freq} to high_freq {self.high_freq} is no band below {nyquist} Hz")

    @property
    def frame_length(self) -> int:
        """Samples in a window."""
        return int(self.sample_rate * self.frame_length_ms / 1000)

    @property
    def frame_shift(self) -> int:
        """Samples from one frame to the next."""
        return int(self.sample_rate * self.frame_shift_ms / 1000)

    @property
    def first_centre_ms(self) -> float:
        """Where in the audio the window of frame 0 has its middle; before the audio if frame 0 is a lead frame."""
        if self.kind == "whisper":
            centre = 0.0
        else:
            # Without snip_edges Kaldi centres frame t on (t + 0.5) shifts.
            centre = self.frame_length_ms / 2 if self.snip_edges else self.frame_shift_ms / 2
        return centre - self.lead_frames * self.frame_shift_ms

    @property
    def decibels(self) -> float:
        """By how many dB a sound is louder whose features are greater by 1."""
        return 40.0 if self.kind == "whisper" else 10 / math.log(10)

    def num_frames(self, num_samples: int) -> int:
        """How many frames `num_samples` samples give, lead frames included; no lead stands before nothing."""
        if self.kind == "whisper":
            count = num_samples // self.frame_shift
        elif self.snip_edges:
            count = max(0, 1 + (num_samples - self.frame_length) // self.frame_shift)
        else:
            count = (num_samples + self.frame_shift // 2) // self.frame_shift
        return count + self.lead_frames if count else 0

    def add_lead(self, feats: Features) -> Features:
        """(T, M) after `lead_frames` frames of zeros; of no frames nothing."""
        if not self.lead_frames or not len(feats):
            return feats
        return np.concatenate([np.zeros((self.lead_frames, feats.shape[1]), dtype=np.float32), feats])

    def drop_lead(self, feats: Features) -> Features:
        """The inverse of `add_lead`."""
        return feats[self.lead_frames :]

    def levels(self, feats: Features, *, from_start: bool = True) -> Features:
        """(T,) mean level of each frame of (T, M) in dB, from where the audio starts or from anywhere in it.

        Only differences between them have a meaning. Lead frames are as loud as the first real one.
        """
        levels: Features = feats.mean(axis=1) * np.float32(self.decibels)
        if from_start and len(levels):
            levels[: self.lead_frames] = levels[self.lead_frames]
        return levels


def compute_fbank(samples: Samples, config: FbankConfig) -> Features:
    """Log-mel energies of a whole utterance.

    Kind kaldi, as Kaldi computes them: samples on the int16 scale, no dither, DC removed per frame, pre-emphasis 0.97,
    Povey window, power spectrum, triangular mel filters, natural log floored at the float32 epsilon.

    Kind whisper, as Whisper computes them (https://github.com/openai/whisper, `log_mel_spectrogram`): periodic Hann
    window of 400 samples around every 160th sample, edges reflected, spectrum of 400 points, triangular filters by
    Slaney's mel scale, each of the same area, (log10 + 4) / 4. Only the clamp differs: log10 is floored at -6, not at 8
    below the utterance's maximum, so that features stream. What of audio shorter than 201 samples cannot be reflected
    is zero.

    Args:
        samples: (N,) in [-1, 1], at `config.sample_rate`.

    Returns:
        (T, M) with T = `config.num_frames(N)`, which is 0 for less than one window (kind whisper: one shift).
    """
    fbank = OnlineFbank(config)
    fbank.accept_waveform(samples)
    fbank.input_finished()
    return fbank.pop()


class OnlineFbank:
    """The features of `compute_fbank` from samples that arrive in blocks; the block sizes change nothing."""

    def __init__(self, config: FbankConfig) -> None:
        self._config = config
        self._extractor = kaldi_native_fbank.OnlineFbank(_options(config))
        self._edges = _ReflectedEdges(config) if config.kind == "whisper" else None
        self._popped = 0
        self._finished = False

    def accept_waveform(self, samples: Samples) -> None:
        """Add (N,) samples in [-1, 1] at the configured rate. Raises AudioError after `input_finished`."""
        if self._finished:
            raise AudioError("samples were given after the end of the audio")
        samples = samples.astype(np.float32, copy=False)
        self._extract(self._edges.process(samples) if self._edges else samples * np.float32(32768))

    def input_finished(self) -> None:
        """No samples will follow; but for kaldi's `snip_edges` this completes the last frames."""
        if not self._finished:
            self._finished = True
            if self._edges:
                self._extract(self._edges.finish())
            self._extractor.input_finished()

    def pop(self) -> Features:
        """(t, M): the frames completed since the last call, which are then forgotten."""
        first, ready = self._popped, self._extractor.num_frames_ready
        feats = np.empty((ready - first, self._config.num_mel_bins), dtype=np.float32)
        # One by one, since the extractor has no call for several: a twentieth of the time that computing them takes.
        for row in range(len(feats)):
            feats[row] = self._extractor.get_frame(first + row)
        self._extractor.pop(len(feats))
        self._popped = ready
        if self._config.kind == "whisper":
            feats = (np.maximum(feats * np.float32(1 / math.log(10)), np.float32(WHISPER_FLOOR)) + 4) / 4
        return feats if first else self._config.add_lead(feats)

    def _extract(self, samples: Samples) -> None:
        if len(samples):
            self._extractor.accept_waveform(self._config.sample_rate, samples)


class _ReflectedEdges:
    """Audio in blocks with what Whisper puts before and after it: its first and last samples, reflected."""

    def __init__(self, config: FbankConfig) -> None:
        self._before = config.frame_length // 2
        # Whisper reflects as much at the end and then drops the last frame; this is what the others need.
        self._after = config.frame_length // 2 - config.frame_shift
        self._begun = False
        self._kept = np.zeros(0, dtype=np.float32)

    def process(self, samples: Samples) -> Samples:
        """What can be told of the padded audio after these (N,) samples."""
        if self._begun:
            self._kept = np.concatenate([self._kept, samples[-self._after - 1 :]])[-self._after - 1 :]
            return samples
        self._kept = np.concatenate([self._kept, samples])
        return self._begin() if len(self._kept) > self._before else self._kept[:0]

    def finish(self) -> Samples:
        """The rest of it."""
        rest = self._kept[:0] if self._begun else self._begin()
        return np.concatenate([rest, self._kept[-2 : -self._after - 2 : -1]])

    def _begin(self) -> Samples:
        start, self._begun = self._kept, True
        self._kept = start[-self._after - 1 :].copy()
        mirrored = start[self._before : 0 : -1]
        return np.concatenate([np.zeros(self._before - len(mirrored), dtype=np.float32), mirrored, start])


def _options(config: FbankConfig) -> Any:
    options = kaldi_native_fbank.FbankOptions()
    frame, mel = options.frame_opts, options.mel_opts
    frame.samp_freq = config.sample_rate
    frame.frame_length_ms = config.frame_length_ms
    frame.frame_shift_ms = config.frame_shift_ms
    frame.dither = 0.0
    mel.num_bins = config.num_mel_bins
    mel.low_freq = config.low_freq
    mel.high_freq = config.high_freq
    options.energy_floor = 0.0
    if config.kind == "kaldi":
        frame.snip_edges = config.snip_edges
        return options
    frame.snip_edges = True  # Kaldi mirrors otherwise than Whisper: see `_ReflectedEdges`
    frame.window_type = "hann"  # periodic; Kaldi's own, "hanning", is symmetric
    frame.preemph_coeff = 0.0
    frame.remove_dc_offset = frame.round_to_power_of_two = False
    mel.is_librosa = mel.use_slaney_mel_scale = True
    mel.norm = "slaney"
    return options
