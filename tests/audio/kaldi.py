"""Cepstra by kaldi-native-fbank, which carries Kaldi's code."""

import kaldi_native_fbank
import numpy as np


def kaldi_mfcc(samples: np.ndarray, bins: int, high_freq: float, snip_edges: bool = True) -> np.ndarray:
    """Return (T, bins) cepstra of (N,) samples in [-1, 1] at 16 kHz: as many as mel bins, without energy."""
    options = kaldi_native_fbank.MfccOptions()
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = snip_edges
    options.mel_opts.num_bins = options.num_ceps = bins
    options.mel_opts.low_freq, options.mel_opts.high_freq = 20, high_freq
    options.use_energy = False
    mfcc = kaldi_native_fbank.OnlineMfcc(options)
    mfcc.accept_waveform(16000, (samples * np.float32(32768)).tolist())
    mfcc.input_finished()
    return np.stack([mfcc.get_frame(i) for i in range(mfcc.num_frames_ready)])
