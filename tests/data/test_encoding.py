import io

import numpy as np
import pytest
import soundfile
from tests.data.corpora import noise

from unichoir.data.encoding import BLOCK_SAMPLES, audio_suffix, encode_audio
from unichoir.errors import AudioError


@pytest.mark.parametrize("codec", ["opus", "vorbis"])
def test_ogg_pages_keep_their_sound_with_another_serial_number(codec):
    samples = noise(1, 3 * BLOCK_SAMPLES).astype(np.float32) / 32768
    first, second = (encode_audio(samples, 16000, codec, "x") for _ in range(2))
    assert first == second
    plain = io.BytesIO()
    with soundfile.SoundFile(plain, "w", 16000, 1, format="OGG", subtype=codec.upper()) as sound:
        for block in np.split(noise(1, 3 * BLOCK_SAMPLES), 3):
            sound.write(block)
    assert plain.getvalue() != first
    assert len(plain.getvalue()) == len(first)
    # The decoder drops pages whose checksum is wrong.
    (ours, _), (theirs, _) = (soundfile.read(io.BytesIO(content)) for content in (first, plain.getvalue()))
    np.testing.assert_array_equal(ours, theirs)
    assert len(ours) == 3 * BLOCK_SAMPLES


def test_ten_minutes_of_vorbis_and_rates_that_a_codec_lacks():
    assert soundfile.info(io.BytesIO(encode_audio(np.zeros(16000 * 600, np.float32), 16000, "vorbis", "x"))).frames
    with pytest.raises(AudioError, match="the name: cannot be written as flac at 700000 Hz"):
        encode_audio(np.zeros(100, np.float32), 700_000, "flac", "the name")
    loud = encode_audio(np.array([3.0, -3.0, 0.5], np.float32), 16000, "flac", "x")
    assert soundfile.read(io.BytesIO(loud), dtype="int16")[0].tolist() == [32767, -32768, 16384]
    assert audio_suffix(b"") == audio_suffix(b"\xff") == ""
