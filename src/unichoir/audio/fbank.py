"""Log-mel filterbank features: one path for whole utterances and for streams."""

import dataclasses

import kaldi_native_fbank
import numpy as np
from numpy.typing import NDArray

from unichoir.audio.io import Samples
from unichoir.errors import AudioError, ConfigError

Features = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FbankConfig:
    """How samples become features; a model is only right with the one that it was trained with."""

    sample_rate: int = 16000
    """In Hz."""
    num_mel_bins: int = 80
    frame_length_ms: float = 25.0
    frame_shift_ms: float = 10.0
    low_freq: float = 20.0
    """Lower edge of the lowest filter in Hz."""
    high_freq: float = 0.0
    """Upper edge of the highest filter in Hz; zero or less is relative to the Nyquist frequency (sherpa-onnx: -400)."""
    snip_edges: bool = True
    """Only frames that lie wholly inside the audio. Otherwise the edges are mirrored (sherpa-onnx)."""

    def __post_init__(self) -> None:
        nyquist = self.sample_rate / 2
        top = self.high_freq if self.high_freq > 0 else nyquist + self.high_freq
        if self.num_mel_bins < 4:
            raise ConfigError(f"num_mel_bins must be at least 4, not {self.num_mel_bins}")
        if not 0 < self.frame_shift_ms <= self.frame_length_ms:
            raise ConfigError(f"frame_shift_ms {self.frame_shift_ms} must lie in (0, frame_length_ms]")
        if not 0 <= self.low_freq < top <= nyquist:
            raise ConfigError(f"low_freq {self.low_freq} to high_freq {self.high_freq} is no band below {nyquist} Hz")

    @property
    def frame_length(self) -> int:
        """Samples in a window."""
        return int(self.sample_rate * self.frame_length_ms / 1000)

    @property
    def frame_shift(self) -> int:
        """Samples from one frame to the next."""
        return int(self.sample_rate * self.frame_shift_ms / 1000)

    def num_frames(self, num_samples: int) -> int:
        """How many frames `num_samples` samples give."""
        if not self.snip_edges:
            return (num_samples + self.frame_shift // 2) // self.frame_shift
        return max(0, 1 + (num_samples - self.frame_length) // self.frame_shift)


def compute_fbank(samples: Samples, config: FbankConfig) -> Features:
    """Log-mel energies of a whole utterance.

    As Kaldi computes them: samples on the int16 scale, no dither, DC removed per frame, pre-emphasis 0.97, Povey
    window, power spectrum, triangular mel filters, natural log floored at the float32 epsilon.

    Args:
        samples: (N,) in [-1, 1], at `config.sample_rate`.

    Returns:
        (T, M) with T = `config.num_frames(N)`, which is 0 for less than one window.
    """
    fbank = OnlineFbank(config)
    fbank.accept_waveform(samples)
    fbank.input_finished()
    return fbank.pop()


class OnlineFbank:
    """The features of `compute_fbank` from samples that arrive in blocks; the block sizes change nothing."""

    def __init__(self, config: FbankConfig) -> None:
        options = kaldi_native_fbank.FbankOptions()
        options.frame_opts.samp_freq = config.sample_rate
        options.frame_opts.frame_length_ms = config.frame_length_ms
        options.frame_opts.frame_shift_ms = config.frame_shift_ms
        options.frame_opts.dither = 0.0
        options.frame_opts.snip_edges = config.snip_edges
        options.mel_opts.num_bins = config.num_mel_bins
        options.mel_opts.low_freq = config.low_freq
        options.mel_opts.high_freq = config.high_freq
        options.energy_floor = 0.0
        self._config = config
        self._extractor = kaldi_native_fbank.OnlineFbank(options)
        self._popped = 0
        self._finished = False

    def accept_waveform(self, samples: Samples) -> None:
        """Add (N,) samples in [-1, 1] at the configured rate. Raises AudioError after `input_finished`."""
        if self._finished:
            raise AudioError("samples were given after the end of the audio")
        if len(samples):
            scaled = samples.astype(np.float32, copy=False) * np.float32(32768)
            self._extractor.accept_waveform(self._config.sample_rate, scaled)

    def input_finished(self) -> None:
        """No samples will follow; without `snip_edges` this completes the last frames."""
        if not self._finished:
            self._finished = True
            self._extractor.input_finished()

    def pop(self) -> Features:
        """(t, M): the frames completed since the last call, which are then forgotten."""
        ready = self._extractor.num_frames_ready
        count = ready - self._popped
        feats = np.empty((count, self._config.num_mel_bins), dtype=np.float32)
        for row in range(count):
            feats[row] = self._extractor.get_frame(self._popped + row)
        self._extractor.pop(count)
        self._popped = ready
        return feats
