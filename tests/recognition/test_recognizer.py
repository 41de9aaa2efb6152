"""From samples to a transcript with a model of three tones: what was played, when, however it is cut and batched."""

import json

import numpy as np
import pytest
from tests.samples import CLIPS

from unichoir.audio.fbank import FbankConfig, compute_fbank
from unichoir.audio.io import load_audio
from unichoir.engine.encoding import encode_utterance
from unichoir.errors import AudioError, DecodingError
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.search.options import MODES
from unichoir.text.tokenizer import BpeTokenizer, CharTokenizer
from unichoir.transcript.segments import join_segments

CTC = DecodingOptions(mode="ctc_prefix_beam_search", beam_size=4)
PLAYED = [(3, 0.30, 0.62), (5, 0.62, 0.90), (4, 1.40, 1.70), (3, 2.0, 2.4), (5, 2.4, 2.7), (4, 3.1, 3.3)]
SAID = [("lowhigh", 0.30, 0.90), ("mid", 1.40, 1.70), ("lowhigh", 2.0, 2.7), ("mid", 3.1, 3.3)]


@pytest.mark.parametrize("mode", ["ctc_greedy_search", "ctc_prefix_beam_search"])
@pytest.mark.parametrize("chunk_size", [None, 1, 5, 16])
@pytest.mark.parametrize("any_recognizer", ["kaldi", "whisper"], indirect=True)
def test_what_was_played_and_when(any_recognizer: Recognizer, play, mode, chunk_size) -> None:
    transcript = any_recognizer.recordings.recognize(
        play(PLAYED, 4.0), DecodingOptions(mode=mode, chunk_size=chunk_size)
    )
    assert transcript.text == "lowhigh mid lowhigh mid"
    assert transcript.duration_ms == 4000
    assert [token.id for token in transcript.tokens] == [token for token, _, _ in PLAYED]
    assert [word.text for word in transcript.words] == [text for text, _, _ in SAID]
    for word, (_, start, end) in zip(transcript.words, SAID, strict=True):
        # A tone fills its frames, so a token widened by 80 ms on each side begins and ends that much off, at most.
        assert start * 1000 - 130 <= word.start_ms <= start * 1000 + 45
        assert end * 1000 - 45 <= word.end_ms <= end * 1000 + 130
        assert 0.9 < word.confidence <= 1.0
    assert transcript.confidence == pytest.approx(np.mean([word.confidence for word in transcript.words]))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_every_mode_returns_a_consistent_transcript(recognizer: Recognizer, play, mode, chunk_size) -> None:
    options = DecodingOptions(mode=mode, chunk_size=chunk_size, beam_size=4)
    transcript = recognizer.recordings.recognize(play(PLAYED, 4.0), options)
    best = transcript.nbest[0]
    assert (best.text, best.score) == (transcript.text, transcript.score)
    assert best.tokens == tuple(token.id for token in transcript.tokens)
    assert len(transcript.nbest) == (1 if mode == "ctc_greedy_search" else 4)
    scores = [item.score for item in transcript.nbest]
    assert scores == sorted(scores, reverse=True)
    assert " ".join(word.text for word in transcript.words) == transcript.text
    edges = [edge for token in transcript.tokens for edge in (token.start_ms, token.end_ms)]
    assert all(0 <= edge <= 4000 for edge in edges)
    assert all(0 <= token.confidence <= 1 for token in transcript.tokens)
    assert json.loads(json.dumps(transcript.to_dict()))["nbest"][0]["tokens"] == list(best.tokens)


@pytest.mark.parametrize("chunk_size", [1, 4, 7, 100])
@pytest.mark.parametrize("num_frames", [7, 10, 11, 35, 123])
def test_chunks_cover_the_frames_of_the_whole(backend, num_frames: int, chunk_size: int) -> None:
    feats = np.random.default_rng(0).normal(size=(3, num_frames, 80)).astype(np.float32)
    lengths = np.array([num_frames, max(num_frames // 2, 7), 7])
    whole, whole_lens = encode_utterance(backend, feats, lengths)
    ((shape, lens, num_left),) = backend.windows
    assert shape == (3, (whole.shape[1] - 1) * 4 + 7, 80)
    assert (lens, num_left) == (np.minimum(lengths, shape[1]).tolist(), 0)  # nothing follows
    backend.windows.clear()
    chunked, chunked_lens = encode_utterance(backend, feats, lengths, chunk_size, num_left_chunks=2)
    np.testing.assert_array_equal(chunked_lens, whole_lens)
    np.testing.assert_array_equal(chunked, whole)
    assert len(backend.windows) == -(-whole.shape[1] // chunk_size)
    for place, (shape, lens, num_left) in enumerate(backend.windows):
        left = np.maximum(lengths - 4 * chunk_size * place, 0)
        assert shape[1] == min(4 * (chunk_size - 1) + 7, num_frames - 4 * chunk_size * place)
        assert lens == np.minimum(left, shape[1]).tolist()
        assert num_left == (2 * chunk_size if chunk_size < whole.shape[1] else 0)


@pytest.mark.parametrize("mode", MODES)
def test_batch_mates_change_nothing(recognizer: Recognizer, play, mode) -> None:
    options = DecodingOptions(mode=mode, chunk_size=4, beam_size=3, max_segment_seconds=3.0, vad="ctc")
    batch = [play(PLAYED, 4.0), play(PLAYED[:1], 1.0, seed=1), play([], 0.05), play(PLAYED * 2, 7.3, seed=2)]
    assert recognizer.recordings.recognize_batch(batch, options) == [
        recognizer.recordings.recognize(item, options) for item in batch
    ]
    assert recognizer.recordings.recognize_batch([], options) == []


@pytest.mark.parametrize("num_samples", [1, 100, 399, 400, 800, 1039])
def test_too_short_for_an_encoder_frame_is_an_empty_transcript(recognizer: Recognizer, num_samples: int) -> None:
    for mode in MODES:
        samples = np.random.default_rng(0).normal(0, 0.1, num_samples).astype(np.float32)
        transcript = recognizer.recordings.recognize(samples, DecodingOptions(mode=mode))
        assert (transcript.text, transcript.tokens, transcript.words) == ("", (), ())
        assert transcript.nbest[0].text == ""
        assert transcript.duration_ms == round(num_samples / 16)


def test_silence_is_an_empty_transcript(recognizer: Recognizer) -> None:
    transcript = recognizer.recordings.recognize(np.zeros(32000, dtype=np.float32), CTC)
    assert (transcript.text, transcript.words, transcript.confidence) == ("", (), 0.0)


def test_bad_samples_are_named(recognizer: Recognizer) -> None:
    good, bad = np.zeros(1000, dtype=np.float32), np.full(1000, np.nan, dtype=np.float32)
    with pytest.raises(AudioError, match="recording 2: a sample is not a finite number"):
        recognizer.recordings.recognize_batch([good, bad])
    with pytest.raises(AudioError, match="recording: no samples"):
        recognizer.recordings.recognize(good[:0])


def test_a_model_that_computes_nan_is_an_error(recognizer: Recognizer, backend, play) -> None:
    backend.bands = {3: 0}
    backend.ctc_log_probs = lambda encoder_out: np.full((1, encoder_out.shape[1], 6), np.nan)
    with pytest.raises(DecodingError, match="not a number"):
        recognizer.recordings.recognize(play(PLAYED, 4.0), CTC)


@pytest.mark.parametrize("mode", MODES)
def test_where_the_model_finds_nothing_possible_nothing_is_found(recognizer: Recognizer, backend, play, mode) -> None:
    """Impossible is no error, even from the beginning to the end."""
    backend.ctc_log_probs = lambda encoder_out: np.full((*encoder_out.shape[:2], 6), -np.inf, np.float32)
    transcript = recognizer.recordings.recognize(
        play(PLAYED, 4.0), DecodingOptions(mode=mode, beam_size=4, max_length=3)
    )
    if mode != "attention":
        assert (transcript.text, transcript.words) == ("", ())
    assert all(word.confidence == 0 for word in transcript.words)


@pytest.mark.parametrize("vad", ["ctc", "none"])
@pytest.mark.parametrize("mode", MODES)
def test_piece_by_piece(recognizer: Recognizer, play, mode, vad) -> None:
    samples = play(PLAYED * 3, 9.7)
    options = DecodingOptions(mode=mode, beam_size=3, max_segment_seconds=2.5, vad=vad)
    whole = recognizer.recordings.recognize(samples, options)
    segments, ends = zip(*recognizer.recordings.recognize_by_piece([samples], options), strict=True)
    assert len(ends) >= 3
    assert list(ends) == sorted(ends)
    assert ends[-1] == 9.7
    assert join_segments(segments, 1 if mode == "ctc_greedy_search" else 3, 9700) == whole
    with pytest.raises(AudioError, match="recording: no samples"):
        next(recognizer.recordings.recognize_by_piece([samples[:0]], options))


def test_a_limit_that_is_none_takes_no_memory(backend) -> None:
    """Left chunks beyond all bounds: what cannot be seen gets no room."""
    rooms, initial_state = [], backend.initial_state
    backend.initial_state = lambda batch, left: rooms.append(left) or initial_state(batch, left)
    feats = np.random.default_rng(0).normal(size=(1, 123, 80)).astype(np.float32)
    for left in (-1, 0, 3, 375, 376, 10**12):
        encode_utterance(backend, feats, np.array([123]), chunk_size=4, num_left_chunks=left)
    assert rooms == [0, 0, 12, 1500, 0, 0]
    assert [left for _, _, left in backend.windows[::8]] == [-1, 0, 12, 1500, 1504, 4 * 10**12]


def test_a_tokenizer_of_another_model_is_refused(backend, tokenizer: BpeTokenizer) -> None:
    with pytest.raises(DecodingError, match="has 7 tokens, the model 6"):
        Recognizer(backend, CharTokenizer([*tokenizer.tokens, "x"]), FbankConfig())


@pytest.mark.parametrize("vad", ["ctc", "none"])
@pytest.mark.parametrize("chunk_size", [None, 8])
def test_long_audio_is_joined_with_right_times_and_reports_progress(recognizer, play, chunk_size, vad) -> None:
    tones = [(3 + place % 2, 0.7 * place + 0.2, 0.7 * place + 0.5) for place in range(130)]
    calls: list[tuple[float, float]] = []
    options = DecodingOptions(mode="ctc_prefix_beam_search", chunk_size=chunk_size, beam_size=4, vad=vad)
    transcript = recognizer.recordings.recognize(
        play(tones, 91.5), options, progress=lambda *seconds: calls.append(seconds)
    )
    assert transcript.text == " ".join("low" if token == 3 else "mid" for token, _, _ in tones)
    for word, (_, start, end) in zip(transcript.words, tones, strict=True):
        assert start * 1000 - 130 <= word.start_ms <= start * 1000 + 45
        assert end * 1000 - 45 <= word.end_ms <= end * 1000 + 130
    assert calls
    assert calls == sorted(calls)
    assert calls[-1] == (91.5, 91.5)


def test_memory_is_bounded_by_the_segment_not_by_the_recording(recognizer: Recognizer, backend, play) -> None:
    recognizer.recordings.recognize(play([], 300.0), DecodingOptions(mode="ctc_greedy_search", vad="none"))
    assert sum(shape[0] for shape, _, _ in backend.windows) >= 15
    assert max(shape[1] for shape, _, _ in backend.windows) <= 2000
    assert max(shape[0] * shape[1] for shape, _, _ in backend.windows) <= 8000  # 80 s


def test_speech_in_a_chunk_loop_sees_the_same_frames(backend) -> None:
    feats = compute_fbank(load_audio(CLIPS[0]), FbankConfig())[None]
    lengths = np.array([feats.shape[1]])
    whole, _ = encode_utterance(backend, feats, lengths)
    chunked, _ = encode_utterance(backend, feats, lengths, chunk_size=16)
    np.testing.assert_array_equal(chunked, whole)
