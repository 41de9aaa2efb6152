"""From samples to the bytes of an audio file. Equal samples give equal bytes."""

import io
import struct
import zlib
from typing import Literal

import numpy as np
import soundfile

from unichoir.audio.io import Samples, resample
from unichoir.errors import AudioError, ConfigError

Codec = Literal["flac", "opus", "vorbis"]
SUFFIXES: dict[Codec, str] = {"flac": "flac", "opus": "opus", "vorbis": "ogg"}
_FORMATS: dict[Codec, tuple[str, str]] = {
    "flac": ("FLAC", "PCM_16"),
    "opus": ("OGG", "OPUS"),
    "vorbis": ("OGG", "VORBIS"),
}
OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
# libsndfile's Vorbis encoder keeps a complete write on the stack: ten minutes at once crash the process.
BLOCK_SAMPLES = 1 << 14
OGG_SERIAL = 1
_OGG_HEADER = struct.Struct("<4sBBqIIIB")
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def check_codec(codec: Codec) -> None:
    """Raise ConfigError if the installed libsndfile can't write the codec."""
    container, subtype = _FORMATS[codec]
    if subtype not in soundfile.available_subtypes(container):
        raise ConfigError(f"codec {codec}: libsndfile {soundfile.__libsndfile_version__} cannot write it")


def encode_audio(samples: Samples, sample_rate: int, codec: Codec, name: str) -> bytes:
    """Encode an audio file with one channel.

    FLAC has 16 bits, which preserves 16-bit input exactly. Opus supports few sample rates: audio is resampled to the
    next higher one, or to 48 kHz if there is none.

    Args:
        samples: (N,) in [-1, 1]; values outside are clipped.
        sample_rate: in Hz.
        name: the name of the audio in errors.

    Raises:
        AudioError: the codec doesn't support the sample rate.
    """
    if codec == "opus":
        rate = next((rate for rate in OPUS_RATES if rate >= sample_rate), OPUS_RATES[-1])
        samples, sample_rate = resample(samples, sample_rate, rate), rate
    # libsndfile multiplies floats by 32767 but divides by 32768.
    integers = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    container, subtype = _FORMATS[codec]
    stream = io.BytesIO()
    try:
        with soundfile.SoundFile(stream, "w", sample_rate, 1, format=container, subtype=subtype) as sound:
            for start in range(0, len(integers), BLOCK_SAMPLES):
                sound.write(integers[start : start + BLOCK_SAMPLES])
    except soundfile.SoundFileError as error:
        raise AudioError(f"{name}: cannot be written as {codec} at {sample_rate} Hz ({error})") from None
    content = stream.getvalue()
    return content if codec == "flac" else with_serial(content, OGG_SERIAL)


def audio_suffix(content: bytes) -> str:
    """Return the suffix of an audio file from its first bytes, one of `tars.AUDIO_SUFFIXES`, or ""."""
    if content[:4] == b"RIFF" and content[8:12] == b"WAVE":
        return "wav"
    if content[:4] == b"fLaC":
        return "flac"
    if content[:4] == b"OggS":
        return "opus" if b"OpusHead" in content[:64] else "ogg"
    if content[:3] == b"ID3" or (content[:1] == b"\xff" and content[1:2] >= b"\xe0"):
        return "mp3"
    return "m4a" if content[4:8] == b"ftyp" else ""


def with_serial(content: bytes, serial: int) -> bytes:
    """Return an Ogg stream with this serial number on all pages. Encoders draw a random one (RFC 3533, section 6)."""
    pages = []
    position = 0
    while position < len(content):
        magic, version, flags, granule, _, sequence, _, segments = _OGG_HEADER.unpack_from(content, position)
        body = position + _OGG_HEADER.size
        end = body + segments + sum(content[body : body + segments])
        checksum = 0
        for _ in range(2):  # first over the page with a checksum of zero, then to insert it
            header = _OGG_HEADER.pack(magic, version, flags, granule, serial, sequence, checksum, segments)
            checksum = _ogg_checksum(header + content[body:end])
        pages.append(header + content[body:end])
        position = end
    return b"".join(pages)


def _ogg_checksum(page: bytes) -> int:
    """Return the CRC-32 with zlib's polynomial, but most significant bit first and without inversion."""
    reversed_crc = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reversed_crc:032b}"[::-1], 2)
