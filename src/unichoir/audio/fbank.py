"""Log-mel energies or their cepstra, computed in the same way for complete utterances and for streams."""

import dataclasses
import math
from functools import cache
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from unichoir.audio.io import Samples
from unichoir.configuration import check_ranges
from unichoir.errors import AudioError, ConfigError

Features = NDArray[np.float32]


WHISPER_FLOOR = -6.0
"""Minimum of log10 energies. Whisper itself clamps to 8 below the utterance's maximum, which streams can't know."""
FRAMES_AT_ONCE = 256
"""Number of frames computed at once, chosen to fit a processor's cache."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FbankConfig:
    """Computation of features from samples. A model only works with the settings that it was trained with."""

    kind: Literal["kaldi", "mfcc", "whisper"] = "kaldi"
    """Kind of features: log-mel energies as in Kaldi or Whisper, or the cepstra of Kaldi's (MFCC). whisper only leaves
    `num_mel_bins` (80 or 128), `lead_frames` and `trail_frames` open."""
    sample_rate: int = 16000
    """Sample rate in Hz."""
    num_mel_bins: int = 80
    """Number of mel filters, which is the number of values per frame. mfcc has as many cepstra as filters."""
    frame_length_ms: float = 25.0
    """Length of a frame's window in milliseconds."""
    frame_shift_ms: float = 10.0
    """Time from one frame to the next in milliseconds."""
    low_freq: float | None = None
    """Lower edge of the lowest filter in Hz. null takes the default of the kind: 0 for whisper, else 20."""
    high_freq: float = 0.0
    """Upper edge of the highest filter in Hz. 0 or less is relative to the Nyquist frequency (sherpa-onnx: -400)."""
    snip_edges: bool | None = None
    """Whether only frames that lie completely inside the audio are computed. Otherwise the edges are mirrored
    (sherpa-onnx). null takes the default of the kind: false for whisper, else true."""
    lead_frames: int = 0
    """Number of zero frames before the first real frame. The zero padding of Whisper's convolutions requires 2."""
    trail_frames: int = 0
    """Number of silent frames after the last real frame. They help to recognise words that end with the recording."""

    def __post_init__(self) -> None:
        is_whisper = self.kind == "whisper"
        if self.low_freq is None:
            object.__setattr__(self, "low_freq", 0.0 if is_whisper else 20.0)
        if self.snip_edges is None:
            object.__setattr__(self, "snip_edges", not is_whisper)
        # If there is no minimum, a check below reports it better.
        check_ranges(
            self,
            sample_rate=(1000, 1_000_000),
            frame_length_ms=(0, 1000),
            lead_frames=(0, 1000),
            trail_frames=(0, 1000),
            num_mel_bins=(-math.inf, 4096),
        )
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
            raise ConfigError(f"low_freq {low_freq} to high_freq {self.high_freq} is not a band below {nyquist} Hz")

    @property
    def frame_length(self) -> int:
        """Number of samples in a window."""
        return int(self.sample_rate * self.frame_length_ms / 1000)

    @property
    def frame_shift(self) -> int:
        """Number of samples from one frame to the next."""
        return int(self.sample_rate * self.frame_shift_ms / 1000)

    @property
    def first_centre_ms(self) -> float:
        """Centre of frame 0's window in the audio, in milliseconds; before the audio if frame 0 is a lead frame."""
        if self.kind == "whisper":
            centre = 0.0
        else:
            # Without snip_edges, Kaldi centres frame t on (t + 0.5) shifts.
            centre = self.frame_length_ms / 2 if self.snip_edges else self.frame_shift_ms / 2
        return centre - self.lead_frames * self.frame_shift_ms

    @property
    def decibels(self) -> float:
        """Level difference in dB that adds `unit` to a frame."""
        return 40.0 if self.kind == "whisper" else 10 / math.log(10)

    @property
    def unit(self) -> Features:
        """The frame (M,) whose log energies are all 1, of length sqrt(M). Only the first of its cepstra isn't 0."""
        if self.kind != "mfcc":
            return np.ones(self.num_mel_bins, dtype=np.float32)
        frame = np.zeros(self.num_mel_bins, dtype=np.float32)
        frame[0] = math.sqrt(self.num_mel_bins)
        return frame

    @property
    def edge_frames(self) -> int:
        """Frames before and after the real ones: `lead_frames` and `trail_frames` together."""
        return self.lead_frames + self.trail_frames

    @property
    def lead(self) -> Features:
        """The frames (lead_frames, M) before the first real one."""
        return np.zeros((self.lead_frames, self.num_mel_bins), dtype=np.float32)

    @property
    def trail(self) -> Features:
        """The frames (trail_frames, M) after the last real one: the features of digital silence."""
        return _filters(self).features(np.zeros((self.trail_frames, self.frame_length), dtype=np.float32))

    def num_frames(self, num_samples: int) -> int:
        """Return how many frames `num_samples` samples give, with the edge frames. Too few samples have no edges."""
        if self.kind == "whisper":
            count = num_samples // self.frame_shift
        elif self.snip_edges:
            count = max(0, 1 + (num_samples - self.frame_length) // self.frame_shift)
        else:
            count = (num_samples + self.frame_shift // 2) // self.frame_shift
        return count + self.edge_frames if count else 0

    def add_edges(self, feats: Features) -> Features:
        """Return (T, M) between the lead frames and the trail frames. Nothing stays nothing."""
        return np.concatenate([self.lead, feats, self.trail]) if self.edge_frames and len(feats) else feats

    def drop_edges(self, feats: Features) -> Features:
        """Return the real frames: the inverse of `add_edges`."""
        return feats[self.lead_frames : len(feats) - self.trail_frames]

    def levels(self, feats: Features, *, from_start: bool = True, to_end: bool = True) -> Features:
        """Return the mean level of each frame of (T, M) in dB, without the trail frames.

        from_start, to_end: whether the frames begin and end where the audio does. Only differences between levels have
        a meaning. Lead frames are as loud as the first real frame.
        """
        if to_end:
            feats = feats[: max(len(feats) - self.trail_frames, 0)]
        levels: Features = (feats * self.unit).mean(axis=1) * np.float32(self.decibels)
        if from_start and len(levels):
            levels[: self.lead_frames] = levels[self.lead_frames]
        return levels


def compute_fbank(samples: Samples, config: FbankConfig) -> Features:
    """Return the log-mel energies of a complete utterance, or their cepstra.

    Kind kaldi matches Kaldi: samples on the int16 scale, no dither, DC removed per frame, pre-emphasis 0.97, Povey
    window, power spectrum, triangular mel filters, natural log floored at the float32 epsilon.

    Kind mfcc takes the cepstra of kaldi's log energies, as Kaldi does without energy: orthonormal DCT-II, times the
    lifter 1 + 11 sin(pi i / 22).

    Kind whisper matches Whisper (https://github.com/openai/whisper, `log_mel_spectrogram`): periodic Hann window of 400
    samples around every 160th sample, edges reflected, spectrum of 400 points, triangular filters of equal area on
    Slaney's mel scale, (log10 + 4) / 4. Only the clamp differs: log10 is floored at -6, not at 8 below the utterance's
    maximum, which allows streaming. Audio shorter than 201 samples is padded with zeros where it can't be reflected.

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
    """The features of `compute_fbank` for samples that arrive in blocks. Block sizes don't affect the result."""

    def __init__(self, config: FbankConfig) -> None:
        self._config = config
        self._edges = None if config.snip_edges else _Edges(config)
        self._pending = np.zeros(0, dtype=np.float32)
        """Padded audio from the first sample of the next frame on."""
        self._ready: list[Features] = []
        self._has_frames = self._finished = False

    def accept_waveform(self, samples: Samples) -> None:
        """Add (N,) samples in [-1, 1] at the configured rate. Raises AudioError after `input_finished`."""
        if self._finished:
            raise AudioError("samples were given after the end of the audio")
        samples = samples.astype(np.float32, copy=False)
        self._extract(self._edges.process(samples) if self._edges else samples)

    def input_finished(self) -> None:
        """No samples follow. This completes the last frames and adds the trail frames."""
        if not self._finished:
            self._finished = True
            if self._edges:
                self._extract(self._edges.finish())
            if self._has_frames:
                self._ready.append(self._config.trail)

    def pop(self) -> Features:
        """Return the frames (t, M) completed since the last call, which are then forgotten."""
        feats = np.concatenate([np.zeros((0, self._config.num_mel_bins), dtype=np.float32), *self._ready])
        self._ready.clear()
        return feats

    def _extract(self, padded: Samples) -> None:
        length, shift = self._config.frame_length, self._config.frame_shift
        self._pending = np.concatenate([self._pending, padded])
        if len(self._pending) < length:
            return
        if not self._has_frames:
            self._has_frames = True
            self._ready.append(self._config.lead)
        windows = sliding_window_view(self._pending, length)[::shift]
        for begin in range(0, len(windows), FRAMES_AT_ONCE):
            self._ready.append(_filters(self._config).features(windows[begin : begin + FRAMES_AT_ONCE]))
        self._pending = self._pending[len(windows) * shift :].copy()  # a view would keep all of it


class _Edges:
    """Pads audio in blocks at both ends by mirroring, so all frames are complete.

    Kaldi repeats the first and the last sample, Whisper doesn't. With `snip_edges` nothing is padded.
    """

    def __init__(self, config: FbankConfig) -> None:
        self._config = config
        self._repeats = config.kind != "whisper"
        self._before = config.frame_length // 2 - (config.frame_shift // 2 if self._repeats else 0)
        self._num_samples = 0
        self._begun = False
        self._kept = np.zeros(0, dtype=np.float32)
        """The complete audio until the first frame can be computed; then the part of its end that may be mirrored."""

    def process(self, samples: Samples) -> Samples:
        """Return the known part of the padded audio after these (N,) samples."""
        self._num_samples += len(samples)
        if self._begun:
            self._keep_end(samples)
            return samples
        self._kept = np.concatenate([self._kept, samples])
        return self._begin() if self._before + len(self._kept) > self._config.frame_length else self._kept[:0]

    def finish(self) -> Samples:
        """Return the rest of the padded audio."""
        config = self._config
        rest = self._kept[:0] if self._begun else self._begin()
        frames = config.num_frames(self._num_samples) - config.edge_frames
        missing = (frames - 1) * config.frame_shift + config.frame_length - self._before - self._num_samples
        if frames <= 0 or missing <= 0:
            return rest
        return np.concatenate([rest, self._mirrored(self._kept[::-1], missing)])

    def _begin(self) -> Samples:
        start, self._begun = self._kept, True
        self._keep_end(start[:0])
        return np.concatenate([self._mirrored(start, self._before)[::-1], start])

    def _keep_end(self, samples: Samples) -> None:
        most = self._config.frame_length
        self._kept = np.concatenate([self._kept, samples[-most:]])[-most:].copy()

    def _mirrored(self, samples: Samples, count: int) -> Samples:
        """Return `count` samples mirrored at the first of these, the nearest first."""
        if self._repeats:  # repeatedly if there are too few
            turn = np.concatenate([samples, samples[::-1]])
            return np.resize(turn, count) if len(turn) else np.zeros(count, np.float32)
        mirrored = samples[1 : count + 1]
        return np.concatenate([mirrored, np.zeros(count - len(mirrored), dtype=np.float32)])


class _Filters:
    """Computes features from windows of samples. Each frame is independent of the others."""

    def __init__(self, config: FbankConfig) -> None:
        self._config = config
        length, steps = config.frame_length, np.arange(config.frame_length)
        if config.kind == "whisper":
            self._size = length
            self._window = (0.5 - 0.5 * np.cos(2 * np.pi * steps / length)).astype(np.float32)  # Hann's, periodic
        else:
            self._size = 1 << (length - 1).bit_length()
            povey = (0.5 - 0.5 * np.cos(2 * np.pi * steps / (length - 1))) ** 0.85
            self._window = (povey * 32768).astype(np.float32)
        weights = _slaney_weights(config) if config.kind == "whisper" else _mel_weights(config, self._size)
        # Filters only overlap with their neighbours: one in forty of all products of spectrum and filters isn't zero.
        # Each filter has at least one, because `reduceat` doesn't support an empty sum.
        supports = [np.flatnonzero(row) if row.any() else np.zeros(1, np.int64) for row in weights]
        self._bins = np.concatenate(supports)
        self._starts = np.cumsum([0, *map(len, supports[:-1])])
        self._weights = np.concatenate([row[support] for row, support in zip(weights, supports, strict=True)])
        self._cepstra = _Cepstra(config.num_mel_bins) if config.kind == "mfcc" else None

    def features(self, windows: NDArray[np.float32]) -> Features:
        """Return (t, M) features of (t, frame_length) samples."""
        is_whisper = self._config.kind == "whisper"
        if is_whisper:
            frames = windows * self._window
        else:
            frames = windows - windows.mean(axis=1, keepdims=True)
            frames[:, 1:] -= np.float32(0.97) * frames[:, :-1]
            frames[:, 0] *= np.float32(1 - 0.97)
            frames *= self._window
        spectrum = np.fft.rfft(frames, self._size)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32, copy=False)
        energies = np.add.reduceat(power[:, self._bins] * self._weights, self._starts, axis=1)
        feats: Features
        if is_whisper:
            logs = np.log10(np.maximum(energies, np.finfo(np.float32).tiny))
            feats = (np.maximum(logs, np.float32(WHISPER_FLOOR)) + 4) / 4
        else:
            feats = np.log(np.maximum(energies, np.finfo(np.float32).eps))
        return self._cepstra.of(feats) if self._cepstra else feats


class _Cepstra:
    """The cepstra of log energies: orthonormal DCT-II and Kaldi's lifter."""

    def __init__(self, size: int) -> None:
        order = np.arange(size)
        scale = np.sqrt(np.where(order == 0, 1, 2) / size) / 2 * (1 + 11 * np.sin(np.pi * order / 22))
        self._turns = (scale * np.exp(-0.5j * np.pi * order / size)).astype(np.complex64)

    def of(self, logs: Features) -> Features:
        """Return (t, M) cepstra of (t, M) log energies."""
        # The spectrum of a frame and its mirror image. With a product of matrices, the last bits of a frame would
        # depend on the number of frames.
        spectrum = np.fft.rfft(np.concatenate([logs, logs[:, ::-1]], axis=1))[:, :-1]
        cepstra: Features = (spectrum * self._turns).real.astype(np.float32)
        return cepstra


@cache
def _filters(config: FbankConfig) -> _Filters:
    return _Filters(config)


def _mel_weights(config: FbankConfig, size: int) -> NDArray[np.float32]:
    """Return (M, size / 2 + 1) triangles between points at equal distances in mel, as in Kaldi."""

    def mel(frequency: float | NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(1127 * np.log(1 + np.asarray(frequency) / 700))

    nyquist = config.sample_rate / 2
    top = config.high_freq if config.high_freq > 0 else nyquist + config.high_freq
    edges = np.linspace(mel(config.low_freq or 0.0), mel(top), config.num_mel_bins + 2)
    weights = _triangles(edges, mel(np.arange(size // 2 + 1) * config.sample_rate / size))
    weights[:, -1] = 0  # Kaldi excludes the highest frequency
    return weights.astype(np.float32)


def _slaney_weights(config: FbankConfig) -> NDArray[np.float32]:
    """Return (M, length / 2 + 1) triangles of equal area on Slaney's mel scale (Auditory Toolbox, 1998).

    The scale is linear up to 1 kHz, with 200 / 3 Hz per mel, then 27 mels per factor of 6.4.
    """
    nyquist, length = config.sample_rate / 2, config.frame_length
    top = 15 + 27 * math.log(nyquist / 1000) / math.log(6.4)
    mels = np.linspace(0, top, config.num_mel_bins + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    weights = _triangles(edges, np.arange(length // 2 + 1) * config.sample_rate / length)
    return (weights * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def _triangles(edges: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (M, K): the height at K points of M triangles of height 1, between every three of M + 2 edges."""
    left, centre, right = (edges[place : len(edges) - 2 + place, None] for place in range(3))
    heights = np.minimum((points - left) / (centre - left), (right - points) / (right - centre))
    return np.maximum(heights, 0)
