"""Streams: whatever the blocks, the batch mates and the lengths, each is encoded as the whole would be."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.samples import CLIPS, SMALL_MODEL

from unichoir.api import load_recognizer
from unichoir.audio.fbank import FbankConfig, compute_fbank
from unichoir.audio.io import load_audio, resample
from unichoir.engine.encoding import encode_utterance
from unichoir.engine.torch_backend import TorchBackend
from unichoir.errors import DecodingError
from unichoir.formats.wenet.checkpoint import load_wenet
from unichoir.network.masks import ChunkMask
from unichoir.recognition.options import DecodingOptions, EndpointRules, StreamingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.recognition.stream import Stream
from unichoir.search.options import StreamingMode
from unichoir.text.tokenizer import load_tokenizer
from unichoir.transcript.results import StreamResult

SHORT = EndpointRules(silence_before_speech=0.4, silence_after_speech=0.2, max_utterance=1.0)
"""Rules by which some seconds are several utterances."""
Listen = Callable[..., Any]


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> Iterator[Recognizer]:
    """A tiny model in one thread: synchronising two would take longer than the model itself."""
    num_threads = torch.get_num_threads()
    yield load_recognizer(tiny_checkpoint, num_threads=1)
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def included() -> Recognizer:
    return load_recognizer(SMALL_MODEL, num_threads=1)


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [load_audio(path) for path in CLIPS]


def noise(seconds: float, rate: int, seed: int) -> np.ndarray:
    """Noise with a varying envelope, partly quiet, rounded to int16."""
    rng = np.random.default_rng(seed)
    envelope = np.interp(np.linspace(0, 12, round(seconds * rate)), np.arange(13), rng.choice([0.0, 0.05, 0.3], 13))
    return np.round(envelope * rng.uniform(-1, 1, len(envelope)) * 32767).astype(np.int16)


def cut(samples: np.ndarray, places: Iterable[int]) -> Iterator[np.ndarray]:
    return iter(np.split(samples, sorted(place for place in places if place < len(samples))))


def under_mask(recognizer: Recognizer, samples: np.ndarray, chunk_size: int, num_left_chunks: int) -> np.ndarray:
    """The torch encoder called once for everything."""
    feats = torch.from_numpy(compute_fbank(samples, recognizer.fbank_config))[None]
    if recognizer.backend.info.num_encoder_frames(feats.shape[1]) == 0:
        return np.zeros((0, recognizer.backend.info.encoder_dim), np.float32)
    with torch.inference_mode():
        encoder_out, _, _ = recognizer.backend.model.encoder(
            feats, torch.tensor([feats.shape[1]]), chunk=ChunkMask(chunk_size, num_left_chunks)
        )
    return encoder_out[0].numpy()


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 1000), rate=st.sampled_from([8000, 16000, 24000, 44100, 48000]))
def test_any_blocks_in_any_format_are_the_whole_under_the_mask(
    data: st.DataObject, seed: int, rate: int, tiny: Recognizer, listen: Listen
) -> None:
    chunk_size = data.draw(st.integers(1, 25), "chunk_size")
    options = StreamingOptions(
        chunk_size=chunk_size,
        num_left_chunks=data.draw(st.integers(0, 6), "num_left_chunks"),
        mode="ctc_prefix_beam_search",
        num_best=3,
        endpoint=data.draw(st.sampled_from([SHORT, EndpointRules(), None]), "endpoint"),
    )
    samples = noise(data.draw(st.floats(0.01, 3.0), "seconds"), rate, seed)
    if data.draw(st.booleans(), "stereo"):
        samples = np.stack([samples, noise(len(samples) / rate, rate, seed + 1)], axis=1)
    mono = samples.astype(np.float32) / 32768
    mono = mono.mean(axis=1) if mono.ndim == 2 else mono
    mono = resample(mono, rate, 16000)
    given_samples = samples if data.draw(st.booleans(), "int16") else samples.astype(np.float64) / 32768
    size = data.draw(st.sampled_from([1, 7, 160, 1000, 20_000]), "block")
    places = range(size, len(samples), size) if size > 1 else range(1, 300)  # every single one of the first 300
    heard = listen(tiny, tiny.streams.create_stream(options), cut(given_samples, places), rate)
    whole = under_mask(tiny, mono, chunk_size, options.num_left_chunks)
    np.testing.assert_allclose(np.concatenate(heard.encoder_out), whole, atol=2e-5)
    at_once = listen(tiny, tiny.streams.create_stream(options), [mono])
    assert heard.finals == at_once.finals
    # A resampler holds back the end, so that the last chunk may come when its result is final already.
    assert heard.partials in (at_once.partials, at_once.partials[:-1])
    check_tiling(heard.finals, round(len(mono) / 16))


def check_tiling(finals: list[StreamResult], duration_ms: int) -> None:
    assert [result.utterance for result in finals] == list(range(len(finals)))
    assert all(result.is_final for result in finals)
    assert [result.start_ms for result in finals] == [0, *(result.end_ms for result in finals[:-1])]
    assert finals[-1].end_ms == duration_ms
    assert all(result.start_ms < result.end_ms for result in finals)


@pytest.mark.parametrize(("chunk_size", "num_left_chunks"), [(1, 8), (2, 0), (5, 3), (7, 2), (16, 4), (25, 60)])
def test_speech_to_the_bit(
    included: Recognizer, clips: list[np.ndarray], listen: Listen, chunk_size: int, num_left_chunks: int
) -> None:
    samples = np.concatenate(clips)
    feats = compute_fbank(samples, included.fbank_config)
    whole, _ = encode_utterance(
        included.backend, feats[None], np.array([len(feats)]), chunk_size, num_left_chunks=num_left_chunks
    )
    places = np.random.default_rng(len(samples)).integers(1, len(samples), 40)
    options = StreamingOptions(chunk_size=chunk_size, num_left_chunks=num_left_chunks, num_best=5)
    rules = EndpointRules(silence_after_speech=0.2, max_utterance=3.0)
    heard = listen(included, included.streams.create_stream(replace(options, endpoint=rules)), cut(samples, places))
    np.testing.assert_array_equal(np.concatenate(heard.encoder_out), whole[0])
    check_tiling(heard.finals, round(len(samples) / 16))
    (final,) = listen(included, included.streams.create_stream(replace(options, endpoint=None)), [samples]).finals
    check_equals_recognition(included, samples, final, replace(options, endpoint=None))


@pytest.mark.parametrize("any_recognizer", ["whisper"], indirect=True)
def test_a_stream_of_whispers_features_finds_words_when_they_are_said(
    any_recognizer: Recognizer, play: Callable[..., np.ndarray], listen: Listen
) -> None:
    """The lead stands before the first chunk alone; times and levels are those of the sound."""
    recognizer = any_recognizer
    said = [(4, 0.0, 0.4), (3, 1.0, 1.4), (5, 1.4, 1.8), (4, 3.0, 3.3)]
    samples = play(said, 4.0)
    options = StreamingOptions(chunk_size=5, num_left_chunks=2, num_best=3, endpoint=None)
    blocks = np.split(samples, np.sort(np.random.default_rng(0).integers(0, len(samples), 30)))
    (final,) = listen(recognizer, recognizer.streams.create_stream(options), blocks).finals
    check_equals_recognition(recognizer, samples, final, options)
    rules = EndpointRules(silence_after_speech=0.2, max_utterance=3.0)
    split = listen(recognizer, recognizer.streams.create_stream(replace(options, endpoint=rules)), blocks).finals
    check_tiling(split, 4000)
    assert len([result for result in split if result.words]) > 1
    # A tone alone in its utterance fills few bins: its level is no guide to where it ends.
    for words, early, late in ((final.words, 45, 45), ([word for result in split for word in result.words], 130, 300)):
        assert [word.text for word in words] == ["mid", "lowhigh", "mid"]
        for word, (start, end) in zip(words, [(0, 400), (1000, 1800), (3000, 3300)], strict=True):
            assert start - early <= word.start_ms <= start + 45
            assert end - 45 <= word.end_ms <= end + late


def check_equals_recognition(
    recognizer: Recognizer, samples: np.ndarray, final: StreamResult, options: StreamingOptions
) -> None:
    """Without endpoint rules, a stream gives the same results as the recording, chunk by chunk."""
    names = ("mode", "beam_size", "chunk_size", "num_left_chunks", "ctc_weight", "reverse_weight")
    chosen = {name: getattr(options, name) for name in names}
    transcript = recognizer.recordings.recognize(samples, DecodingOptions(**chosen, max_segment_seconds=None))
    assert (final.start_ms, final.end_ms, final.text) == (0, transcript.duration_ms, transcript.text)
    assert [(reading.text, tuple(token.id for token in reading.tokens)) for reading in final.nbest] == [
        (reading.text, reading.tokens) for reading in transcript.nbest[: options.num_best]
    ]
    scores = [reading.score for reading in transcript.nbest[: options.num_best]]
    assert [reading.score for reading in final.nbest] == pytest.approx(scores, rel=1e-4)
    for found, expected in zip(final.tokens + final.words, transcript.tokens + transcript.words, strict=True):
        assert (found.text, found.start_ms, found.end_ms) == (expected.text, expected.start_ms, expected.end_ms)
        assert found.confidence == pytest.approx(expected.confidence, abs=1e-4)
    assert final.confidence == pytest.approx(transcript.confidence, abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        StreamingOptions(num_best=10),
        StreamingOptions(mode="ctc_prefix_beam_search", beam_size=4, chunk_size=3),
        StreamingOptions(reverse_weight=0.0, ctc_weight=2.0, chunk_size=25, num_left_chunks=0, num_best=3),
        StreamingOptions(reverse_weight=1.0, ctc_weight=0.0, chunk_size=1, num_left_chunks=9),
    ],
)
def test_without_rules_a_stream_is_recognised_like_a_recording(
    tiny: Recognizer, recognizer: Recognizer, play, listen: Listen, options: StreamingOptions
) -> None:
    options = replace(options, endpoint=None)
    tones = play([(3, 0.2, 0.5), (5, 0.5, 0.7), (4, 0.9, 1.3)], 1.7)
    for each, samples in ((recognizer, tones), (tiny, noise(1.3, 16000, 3).astype(np.float32) / 32768)):
        (final,) = listen(each, each.streams.create_stream(options), cut(samples, range(999, len(samples), 999))).finals
        check_equals_recognition(each, samples, final, options)


def interleave(recognizer: Recognizer, streams: list[tuple[Stream, list[np.ndarray]]], heard: list[Any], seed: int):
    """Feed and decode in random order: in each step some streams get a block, and some ready streams are batched."""
    rng = np.random.default_rng(seed)
    waiting = {place: list(blocks) for place, (_, blocks) in enumerate(streams)}
    decoding = dict(enumerate(stream for stream, _ in streams))
    largest = 0
    while decoding:
        for place in [place for place in waiting if rng.random() < 0.4]:
            if waiting[place]:
                decoding[place].accept_waveform(waiting[place].pop(0), 16000)
            else:
                decoding[place].input_finished()
                del waiting[place]
        ready = [
            place for place, stream in decoding.items() if recognizer.streams.is_ready(stream) and rng.random() < 0.8
        ]
        recognizer.streams.decode_streams(decoding[place] for place in rng.permutation(ready).tolist())
        largest = max(largest, len(ready))
        for place, stream in list(decoding.items()):
            heard[place].finish(recognizer, stream)
            if place not in waiting and not recognizer.streams.is_ready(stream):
                del decoding[place]
    assert largest >= min(4, len(streams))


KINDS = [StreamingOptions(chunk_size=c, num_left_chunks=left) for c, left in [(4, 2), (16, 4), (4, 16), (9, 0)]]


def pieces(
    clips: list[np.ndarray], seed: int, mode: StreamingMode = "attention_rescoring"
) -> list[tuple[StreamingOptions, list[np.ndarray]]]:
    """Nine streams, their options and their blocks of samples."""
    rng = np.random.default_rng(seed)
    found = []
    for place in range(9):
        samples = np.concatenate([clips[clip] for clip in rng.integers(0, len(clips), 2)])[: rng.integers(100, 80_000)]
        rules = [EndpointRules(silence_after_speech=0.2, max_utterance=1.5), None][place % 2]
        options = replace(KINDS[min(place % 5, 3)], endpoint=rules, num_best=2, mode=mode)
        found.append((options, list(cut(samples, rng.integers(0, len(samples), 6)))))
    return found


@pytest.mark.parametrize("seed", range(2))
def test_batch_mates_of_any_age_change_nothing_to_the_bit(
    included: Recognizer, clips: list[np.ndarray], listen: Listen, seed: int
) -> None:
    parts = pieces(clips, seed)
    alone = [listen(included, included.streams.create_stream(options), blocks) for options, blocks in parts]
    together = [type(alone[0])() for _ in parts]
    streams = [(included.streams.create_stream(options), blocks) for options, blocks in parts]
    interleave(included, streams, together, seed)
    for found, expected in zip(together, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate(found.encoder_out), np.concatenate(expected.encoder_out))
        assert found.finals == expected.finals


@pytest.mark.parametrize("seed", range(3))
def test_batch_mates_change_nothing_in_torch(tiny: Recognizer, listen: Listen, seed: int) -> None:
    parts = pieces([noise(1.0, 16000, k) for k in range(4)], seed, "ctc_prefix_beam_search")
    alone = [listen(tiny, tiny.streams.create_stream(options), blocks) for options, blocks in parts]
    together = [type(alone[0])() for _ in parts]
    streams = [(tiny.streams.create_stream(options), blocks) for options, blocks in parts]
    interleave(tiny, streams, together, seed)
    for found, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(np.concatenate(found.encoder_out), np.concatenate(expected.encoder_out), atol=2e-5)
        times = [(result.text, result.start_ms, result.end_ms) for result in expected.finals]
        assert [(result.text, result.start_ms, result.end_ms) for result in found.finals] == times
        scores = [result.nbest[0].score for result in expected.finals]
        assert [result.nbest[0].score for result in found.finals] == pytest.approx(scores, rel=1e-4)


def test_a_refused_batch_changes_nothing(tiny: Recognizer, listen: Listen) -> None:
    samples = noise(1.0, 16000, 0)
    options = StreamingOptions(endpoint=None, partial_words=True)
    expected = listen(tiny, tiny.streams.create_stream(options), [samples])
    ready, young, other = (tiny.streams.create_stream(options) for _ in range(3))
    ready.accept_waveform(samples, 16000)
    young.accept_waveform(samples[:1000], 16000)
    for batch in ([ready, young], [young, ready], [ready, other]):
        before = [tiny.streams.get_result(stream) for stream in batch]
        with pytest.raises(DecodingError, match="no chunk to decode"):
            tiny.streams.decode_streams(batch)
        assert [tiny.streams.get_result(stream) for stream in batch] == before
    with pytest.raises(DecodingError, match="can only be reset at an endpoint"):
        tiny.streams.reset(ready)
    tiny.streams.decode_streams([])
    tiny.streams.decode_streams([ready, ready])  # once
    assert tiny.streams.get_result(ready) == expected.partials[0]
    assert listen(tiny, ready, []).finals == expected.finals
    with pytest.raises(DecodingError, match="no chunk to decode"):
        tiny.streams.decode_streams([ready])


def test_a_model_that_computes_nan_harms_no_other_stream(recognizer: Recognizer, backend, play, listen: Listen) -> None:
    """One of the batch hears what the model cannot stand, at last or alone in the group of its chunk size."""
    good, bad = play([(3, 0.1, 0.9), (4, 1.2, 1.5)], 2.0), play([(5, 0.7, 2.0)], 2.0)
    kinds = [StreamingOptions(chunk_size=8), StreamingOptions(chunk_size=11)]
    expected = [listen(recognizer, recognizer.streams.create_stream(kind), [good]).finals for kind in kinds]
    log_probs, band = backend.ctc_log_probs, backend.bands[5]

    def spoilt(encoder_out: np.ndarray) -> np.ndarray:
        loud = encoder_out[..., band, None] - encoder_out.mean(axis=2, keepdims=True) > 6
        return np.where(loud, np.float32(np.nan), log_probs(encoder_out))

    backend.ctc_log_probs = spoilt
    streams = [recognizer.streams.create_stream(kind) for kind in (kinds[0], kinds[0], kinds[1], kinds[1])]
    *well, ill = streams
    for stream in streams:
        stream.accept_waveform(bad if stream is ill else good, 16000)
    recognizer.streams.decode_streams(streams)
    before = [recognizer.streams.get_result(stream) for stream in streams]
    for batch in (streams, streams[::-1], [ill]):
        with pytest.raises(DecodingError, match="not a number"):
            recognizer.streams.decode_streams(batch)
    assert [recognizer.streams.get_result(stream) for stream in streams] == before
    for stream, finals in zip(well, [expected[0], expected[0], expected[1]], strict=True):
        assert listen(recognizer, stream, []).finals == finals


@pytest.mark.parametrize("chunk_size", [1, 2, 5])
def test_no_tail_is_lost_whatever_the_length(tiny: Recognizer, listen: Listen, chunk_size: int) -> None:
    """All lengths around the borders of feature frames, encoder frames and chunks, from no sample at all."""
    config, info = tiny.fbank_config, tiny.backend.info
    rng = np.random.default_rng(chunk_size)
    border = 400 + 160 * (4 * (chunk_size - 1) + 6)  # the first chunk is whole
    lengths = {0, 1, 399, 400, 401, 1359, 1360, 1361}
    lengths |= {border + 640 * chunk_size * n + d for n in range(3) for d in (-641, -640, -1, 0, 1, 160, 639, 640)}
    for length in sorted(length for length in lengths if length >= 0):
        samples = rng.uniform(-0.3, 0.3, length).astype(np.float32)
        whole = under_mask(tiny, samples, chunk_size, 2)
        assert len(whole) == info.num_encoder_frames(config.num_frames(length))
        options = StreamingOptions(
            chunk_size=chunk_size, num_left_chunks=2, mode="ctc_prefix_beam_search", endpoint=None
        )
        heard = listen(tiny, tiny.streams.create_stream(options), [samples])
        np.testing.assert_allclose(np.concatenate(heard.encoder_out), whole, atol=2e-5)
        (final,) = heard.finals
        assert (final.start_ms, final.end_ms, final.is_final) == (0, round(length / 16), True)
        assert len(heard.partials) == len(whole) // chunk_size
        finals = listen(tiny, tiny.streams.create_stream(replace(options, endpoint=SHORT)), [samples]).finals
        if length > 7:  # half a ms
            check_tiling(finals, round(length / 16))


def test_an_hour_of_silence_changes_nothing(included: Recognizer, clips: list[np.ndarray], listen: Listen) -> None:
    """Silence fills what the encoder remembers; how long it was is in the count of its frames alone."""
    options = StreamingOptions(num_best=5)
    silence = np.zeros(30 * 16 * 640, np.float32)  # 30 chunks
    stream = included.streams.create_stream(options)
    expected = listen(included, stream, [silence, clips[0], clips[1]])
    hour = included.streams.create_stream(options)
    before = type(expected)()
    hour.accept_waveform(silence, 16000)
    before.decode(included, hour)
    hour.state = replace(hour.state, offset=hour.state.offset + 90_000)
    after = listen(included, hour, [clips[0], clips[1]])
    assert expected.finals[-1].text
    assert before.finals + after.finals == expected.finals


def test_absolute_positions_stay_those_of_utterances(fixtures: Path, listen: Listen) -> None:
    """A sound that repeats every second, one utterance: after the first ones all are encoded alike, to the bit."""
    rules = EndpointRules(blank_threshold=1.0, max_utterance=1.0)
    folder = fixtures / "wenet_moe_tiny"
    wenet = Recognizer(TorchBackend(load_wenet(folder).model), load_tokenizer(folder), FbankConfig())
    second = noise(1.0, 16000, 5)
    options = StreamingOptions(chunk_size=5, num_left_chunks=3, endpoint=rules, mode="ctc_prefix_beam_search")
    stream = wenet.streams.create_stream(options)
    heard = listen(wenet, stream, [np.tile(second, 30)])
    assert [len(each) for each in heard.encoder_out[:-1]] == [25] * 29
    for each in heard.encoder_out[8:-1]:
        np.testing.assert_array_equal(each, heard.encoder_out[7])
    assert stream.state.offset.max() <= 15 + 25
    whole = listen(
        wenet, wenet.streams.create_stream(replace(options, endpoint=None)), [np.tile(second, 30)]
    ).encoder_out[0]
    assert np.abs(whole[25 * 20 : 25 * 21] - heard.encoder_out[20]).max() > 1e-3  # there positions do count


@pytest.mark.parametrize("any_recognizer", ["whisper"], indirect=True)
@pytest.mark.parametrize("chunk_size", [1, 2, 5])
@pytest.mark.parametrize("silence", [0.04, 0.12, 0.2])
def test_an_endpoint_in_the_silence_behind_the_audio_ends_with_the_audio(
    any_recognizer: Recognizer, play: Callable[..., np.ndarray], listen: Listen, chunk_size: int, silence: float
) -> None:
    rules = EndpointRules(silence_before_speech=silence, silence_after_speech=silence)
    options = StreamingOptions(chunk_size=chunk_size, num_left_chunks=2, endpoint=rules)
    heard = listen(any_recognizer, any_recognizer.streams.create_stream(options), [play([(4, 0.5, 1.0)], 1.0)])
    check_tiling(heard.finals, 1000)
    (word,) = (word for final in heard.finals for word in final.words)
    assert word.text == "mid"
    assert word.end_ms <= 1000
