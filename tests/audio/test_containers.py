"""Video and other containers, written by FFmpeg's own libraries, decode to the original audio."""

import io
import struct
from fractions import Fraction

import numpy as np
import pytest

from unichoir.audio.io import audio_blocks, audio_duration, load_audio, resample
from unichoir.errors import AudioError

RATE = 16000
av = pytest.importorskip("av")

KINDS = [  # container, audio codec, its rate, video codec
    ("mp4", "aac", 44100, None),
    ("mp4", "aac", 48000, "libx264"),
    ("mp4", "libmp3lame", 44100, None),
    ("ipod", "alac", 44100, None),
    ("mov", "aac", 48000, "mpeg4"),
    ("mov", "pcm_s16le", 48000, "mpeg4"),
    ("matroska", "libopus", 48000, "libx264"),
    ("matroska", "flac", 48000, None),
    ("matroska", "libmp3lame", 44100, None),
    ("webm", "libopus", 48000, "libvpx"),
    ("webm", "libopus", 48000, None),
    ("avi", "libmp3lame", 44100, "mpeg4"),
    ("asf", "wmav2", 44100, None),
    ("mpegts", "aac", 48000, "libx264"),
]
ALONE = [("adts", "aac", 44100, None), ("ac3", "ac3", 48000, None)]
NAMES = [f"{container}-{codec}-{video or 'sound'}" for container, codec, _, video in KINDS + ALONE]


def bursts(rate: int, seconds: float = 4.0) -> np.ndarray:
    """Noise below 4 kHz with a varying envelope: shows shifts of one sample, and every codec can encode it."""
    rng = np.random.default_rng(7)
    noise = resample(rng.standard_normal(int(seconds * 8000)).astype(np.float32), 8000, rate)
    envelope = np.interp(np.linspace(0, 30, len(noise)), np.arange(31), rng.uniform(0.01, 0.3, 31))
    return (0.5 * envelope * noise).astype(np.float32)


def write(container, codec, samples, rate, video=None, *, delay=0.0, copies=1, options=None, to=None) -> bytes:
    """Write a file with `samples` (N,) as stereo, and a picture; `delay`: the audio begins later."""
    to = io.BytesIO() if to is None else to
    with av.open(to, "w", format=container, options=options or {}) as out:
        picture = None
        if video:
            picture = out.add_stream(video, rate=10)
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sounds = [out.add_stream(codec, rate=rate, layout="stereo", bit_rate=128_000) for _ in range(copies)]
        seconds = len(samples) / rate + delay
        if picture is not None:
            for number in range(int(np.ceil(seconds * 10))):
                frame = av.VideoFrame.from_ndarray(np.full((72, 64), 16 * number % 250, np.uint8), "yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                out.mux(picture.encode(frame))
            out.mux(picture.encode(None))
        for place, sound in enumerate(sounds):
            kind = "s16" if "pcm" in codec else "fltp"
            data = samples * (1 - 0.9 * place)
            for start in range(0, len(data), 8000):
                block = data[start : start + 8000]
                if kind == "s16":
                    ints = np.round(block * 32767).astype(np.int16).repeat(2)[None]
                    frame = av.AudioFrame.from_ndarray(ints, "s16", "stereo")
                else:
                    frame = av.AudioFrame.from_ndarray(np.stack([block, block]), kind, "stereo")
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = start + round(delay * rate)
                out.mux(sound.encode(frame))
            out.mux(sound.encode(None))
    return to.content.getvalue() if isinstance(to, Pipe) else to.getvalue() if isinstance(to, io.BytesIO) else b""


class Pipe:
    """A file that cannot seek, like those that a browser's recorder writes."""

    def __init__(self) -> None:
        self.content = io.BytesIO()

    def write(self, data: bytes) -> int:
        return self.content.write(data)


def shift_between(found: np.ndarray, expected: np.ndarray) -> tuple[int, float]:
    """Return the lag of `found` in samples, at most 3000, and the correlation at that lag (half a sample of
    shift and 128 kbit/s leave more than 0.9)."""
    size = 1 << int(np.ceil(np.log2(len(found) + len(expected))))
    product = np.fft.irfft(np.fft.rfft(found, size) * np.conj(np.fft.rfft(expected, size)), size)
    near = np.concatenate([product[-3000:], product[:3000]])
    shift = int(near.argmax()) - 3000
    return shift, float(near.max() / np.linalg.norm(found) / np.linalg.norm(expected))


@pytest.mark.parametrize(("container", "codec", "rate", "video"), KINDS + ALONE, ids=NAMES)
def test_what_was_written_comes_back_at_its_place(container, codec, rate, video) -> None:
    source = bursts(rate)
    content = write(container, codec, source, rate, video)
    expected, found = resample(source, rate, RATE), load_audio(content)
    shift, likeness = shift_between(found, expected)
    # A raw stream of frames cannot say how much its encoder put before the sound: a frame or so.
    most = 2200 if container in ("adts", "ac3", "mpegts", "avi", "asf") else 16
    assert abs(shift) <= most
    assert likeness > 0.9
    assert audio_duration(content) == pytest.approx(4.0, abs=0.16)
    assert len(found) / RATE == pytest.approx(4.0, abs=0.16)
    np.testing.assert_array_equal(np.concatenate(list(audio_blocks(content))), found)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mov"])
def test_sound_that_begins_after_the_picture_is_where_it_is_heard(container) -> None:
    source = bursts(48000)
    content = write(container, "aac", source, 48000, "mpeg4", delay=1.5)
    found = load_audio(content)
    assert np.abs(found[: int(1.4 * RATE)]).max() < 1e-3
    shift, likeness = shift_between(found[int(1.5 * RATE) :], resample(source, 48000, RATE))
    # Matroska has no word for what AAC encoders put first (21 ms).
    assert abs(shift) <= (400 if container == "matroska" else 32)
    assert likeness > 0.9


def test_a_gap_within_the_sound_is_silence() -> None:
    stream, rate, source = io.BytesIO(), 48000, bursts(48000)
    with av.open(stream, "w", format="matroska") as out:
        sound = out.add_stream("pcm_s16le", rate=rate, layout="mono")
        for start in range(0, len(source), 4800):
            ints = np.round(source[start : start + 4800] * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(ints, "s16", "mono")
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = start + (2 * rate if start >= 2 * rate else 0)
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    expected = np.concatenate([source[: 2 * rate], np.zeros(2 * rate, np.float32), source[2 * rate :]])
    with pytest.raises(AudioError, match=r"^film: no sound from 2\.0"):
        load_audio(stream.getvalue(), name="film")
    warnings: list[str] = []
    found = load_audio(stream.getvalue(), sample_rate=rate, name="film", warn=warnings.append, strict=False)
    assert warnings == ["film: no sound from 2.000 to 4.000 s, silence in its place"]
    assert abs(len(found) - len(expected)) <= 48
    np.testing.assert_allclose(found[: 6 * rate - 48], expected[: 6 * rate - 48], atol=1e-4)


def test_a_part_equals_that_part_of_the_whole() -> None:
    content = write("mp4", "aac", bursts(48000), 48000, "mpeg4")
    whole = load_audio(content, sample_rate=48000)
    part = load_audio(content, sample_rate=48000, start=1.25, end=2.5)
    np.testing.assert_array_equal(part, whole[60000:120000])
    with pytest.raises(AudioError, match="starts at 9 s"):
        load_audio(content, start=9)


def test_the_default_one_of_several_sounds_is_read() -> None:
    source = bursts(48000)
    content = write("mp4", "aac", source, 48000, copies=2)
    assert load_audio(content).std() == pytest.approx(resample(source, 48000, RATE).std(), rel=0.05)


def test_a_browsers_recording_has_no_length_in_its_header() -> None:
    source = bursts(48000)
    content = write("webm", "libopus", source, 48000, to=Pipe(), options={"live": "1"})
    with av.open(io.BytesIO(content)) as container:
        assert container.duration is None
    assert audio_duration(content) == pytest.approx(4.0, abs=0.05)
    shift, likeness = shift_between(load_audio(content), resample(source, 48000, RATE))
    assert abs(shift) <= 16
    assert likeness > 0.9


def test_a_film_without_sound_says_so() -> None:
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as out:
        picture = out.add_stream("mpeg4", rate=10)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        out.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((72, 64), np.uint8), "yuv420p")))
        out.mux(picture.encode(None))
    for read in (load_audio, audio_duration):
        with pytest.raises(AudioError, match=r"^film\.mp4: has no audio stream"):
            read(stream.getvalue(), name="film.mp4")


@pytest.mark.parametrize(
    ("container", "codec", "video"),
    [("mp4", "aac", "mpeg4"), ("mp4", "aac", None), ("matroska", "libopus", None), ("webm", "libopus", "libvpx")],
)
def test_a_truncated_file_is_an_error_wherever_it_is_cut(tmp_path, container, codec, video) -> None:
    # What an MP4 promises stands at its end, or at its beginning.
    options = {"movflags": "faststart"} if container == "mp4" and video else {}
    write(container, codec, bursts(48000), 48000, video, options=options, to=str(tmp_path / "clip"))
    content = (tmp_path / "clip").read_bytes()
    assert container != "mp4" or (content.find(b"moov") < 100) == bool(video)
    for cut in [1, 5, 20, 60, 200, *np.linspace(300, len(content) * 0.85, 12).astype(int)]:
        with pytest.raises(AudioError, match=r"^clip: "):
            load_audio(content[:cut], name="clip")


def test_random_bytes_never_raise_anything_else() -> None:
    rng = np.random.default_rng(0)
    good = [write(kind, codec, bursts(48000, 0.5), 48000) for kind, codec in (("mp4", "aac"), ("webm", "libopus"))]
    num_read = 0
    for round_number in range(120):
        content = bytearray(good[round_number % 2])
        for position in rng.integers(0, len(content), 6):
            content[position] = rng.integers(256)
        try:
            samples = load_audio(bytes(content))
        except AudioError:
            continue
        num_read += 1
        assert np.isfinite(samples).all()
        assert len(samples) < 3600 * RATE
    assert 0 < num_read < 120


def test_sound_that_goes_on_after_what_its_header_promises_is_all_read() -> None:
    content = write("matroska", "flac", bursts(48000), 48000)
    at = content.index(b"\x44\x89\x88") + 3
    assert struct.unpack_from(">d", content, at)[0] == pytest.approx(4000, abs=100)
    short = content[:at] + struct.pack(">d", 2000.0) + content[at + 8 :]
    assert audio_duration(short) == pytest.approx(4.0, abs=0.01)
    np.testing.assert_array_equal(load_audio(short), load_audio(content))


@pytest.mark.parametrize("kind", ["m3u8", "ffconcat"])
def test_a_playlist_does_not_open_what_it_names(tmp_path, kind) -> None:
    (tmp_path / "secret.ts").write_bytes(write("mpegts", "aac", bursts(48000, 0.5), 48000))
    lists = {
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile://{tmp_path}/secret.ts\n#EXT-X-ENDLIST\n",
        "ffconcat": "ffconcat version 1.0\nfile 'secret.ts'\n",
    }
    path = tmp_path / f"list.{kind}"
    path.write_text(lists[kind])
    with av.open(str(path)) as container:  # left to itself FFmpeg does
        assert len(list(container.decode(audio=0))) > 10
    for source in (path, path.read_bytes()):
        with pytest.raises(AudioError, match="cannot be decoded"):
            load_audio(source)
