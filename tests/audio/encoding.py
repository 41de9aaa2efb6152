"""Sounds for tests, and their encoding by libsndfile."""

import io

import numpy as np
import soundfile

FORMATS = {
    "wav16": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "wav_float": ("WAV", "FLOAT"),
    "wav_ulaw": ("WAV", "ULAW"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def slack(form):
    """Samples at 16 kHz: FFmpeg counts the first packet of Vorbis, which has no sound, as if it had some."""
    return 512 if form == "vorbis" else 16


def tone(seconds, rate, frequency=440.0, amplitude=0.3):
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def speech_like(seconds, rate, seed=0):
    """Noise with a varying envelope: no two parts are alike, which exposes shifts and gaps."""
    rng = np.random.default_rng(seed)
    envelope = np.interp(np.linspace(0, 20, round(seconds * rate)), np.arange(21), rng.uniform(0.01, 0.3, 21))
    return (envelope * rng.standard_normal(len(envelope)) * 0.3).astype(np.float32)


def encoded(samples, rate, form):
    container, subtype = FORMATS[form]
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=container, subtype=subtype)
    return stream.getvalue()
