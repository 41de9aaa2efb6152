"""What streams return: utterances of an hour without gap or overlap, partial and final results, times that stay."""

import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
from tests.engine.decoders import token_scores
from tests.samples import CLIPS, SMALL_MODEL

from unichoir.api import load_recognizer
from unichoir.audio.fbank import compute_fbank
from unichoir.audio.io import load_audio
from unichoir.engine.encoding import encode_utterance
from unichoir.errors import DecodingError
from unichoir.recognition.options import EndpointRules, StreamingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.recognition.stream import Stream
from unichoir.search.prefix_beam import ctc_prefix_beam_search
from unichoir.transcript.results import StreamResult, Word

Listen = Callable[..., Any]
DEMO = Path(__file__).resolve().parents[2] / "demo" / "audio"
NAMES = {3: "low", 4: "mid"}


def talk(seconds: float, seed: int) -> list[tuple[int, float, float]]:
    """Words with pauses of all lengths: short ones for up to half a minute, then one that ends an utterance."""
    rng = np.random.default_rng(seed)
    tones, now = [], 0.5
    while now < seconds - 1:
        tones.append((int(rng.integers(3, 5)), now, now + rng.uniform(0.16, 0.4)))
        now = tones[-1][2] + (rng.uniform(1.2, 9.0) if rng.random() < 0.03 else rng.uniform(0.3, 0.8))
    return tones


def reachable(stream: Stream) -> tuple[int, int]:
    """Return the bytes of arrays and the number of objects reachable from a stream, without model and classes."""
    seen = {id(stream._backend), id(stream._search), id(stream.options), id(stream._config)}
    left: list[Any] = [stream]
    num_bytes = num_objects = 0
    while left:
        found = left.pop()
        if id(found) in seen or isinstance(found, (type, ModuleType, FunctionType)):
            continue
        seen.add(id(found))
        num_objects += 1
        if isinstance(found, np.ndarray):
            num_bytes += found.nbytes
            left.append(found.base)
        left += gc.get_referents(found)
    return num_bytes, num_objects


def test_an_hour_of_words_without_gap_or_overlap(recognizer: Recognizer, play, listen: Listen) -> None:
    tones = talk(3600.0, seed=1)
    options = StreamingOptions(chunk_size=25, mode="ctc_prefix_beam_search", beam_size=4)
    stream, sizes = recognizer.streams.create_stream(options), []

    def minutes() -> Iterator[np.ndarray]:
        for start in range(0, 3600, 60):
            here = [(tone, max(a - start, 0.0), min(b - start, 60.0)) for tone, a, b in tones]
            yield play([(tone, a, b) for tone, a, b in here if a < b], 60.0, noise=0)
            sizes.append(reachable(stream))

    heard = listen(recognizer, stream, minutes())
    finals = heard.finals
    assert [result.utterance for result in finals] == list(range(len(finals)))
    assert [result.start_ms for result in finals] == [0, *(result.end_ms for result in finals[:-1])]
    assert finals[-1].end_ms == 3_600_000
    assert all(0 < result.end_ms - result.start_ms <= 20_000 for result in finals)
    words = [word for result in finals for word in result.words]
    assert heard.text.split() == [word.text for word in words] == [NAMES[tone] for tone, _, _ in tones]
    for word, (_, start, end) in zip(words, tones, strict=True):
        assert start * 1000 - 130 <= word.start_ms <= start * 1000 + 45
        assert end * 1000 - 45 <= word.end_ms <= end * 1000 + 130
    for result in finals:
        assert all(result.start_ms <= word.start_ms < word.end_ms <= result.end_ms for word in result.words)
    # Ended by their length, and so in a pause: less than a second of silence is behind the last word.
    too_long = [result for result in finals[:-1] if result.words and result.end_ms - result.words[-1].end_ms < 900]
    assert len(too_long) > 30
    # Of an utterance its encoder frames and its tokens, of the next chunk some feature frames.
    assert max(num_bytes for num_bytes, _ in sizes) < (500 + 25 + 103) * 80 * 4
    assert max(num_objects for _, num_objects in sizes) < 1000


@pytest.mark.parametrize("rate", [16000, 48000])
def test_memory_after_ten_minutes_is_that_after_one(recognizer: Recognizer, play, rate: int) -> None:
    """The same minute again and again, in blocks that are no whole chunks."""
    minute = np.repeat(play(talk(60.0, seed=2), 60.0, noise=0), rate // 16000)
    options = StreamingOptions(chunk_size=25, num_left_chunks=2, mode="ctc_prefix_beam_search", beam_size=4)
    stream, sizes, endpoints = recognizer.streams.create_stream(options), [], 0
    for _ in range(10):
        for block in np.array_split(minute, 7):
            stream.accept_waveform(block, rate)
            while recognizer.streams.is_ready(stream):
                recognizer.streams.decode_streams([stream])
                recognizer.streams.get_result(stream)
                while recognizer.streams.is_endpoint(stream):
                    recognizer.streams.get_result(stream)
                    recognizer.streams.reset(stream)
                    endpoints += 1
        sizes.append(reachable(stream))
    assert endpoints > 30
    num_bytes, num_objects = zip(*sizes, strict=True)
    assert max(num_bytes) - min(num_bytes) <= 4 * 80 * 4  # a few frames more or less wait for their chunk
    assert max(num_objects) - min(num_objects) <= 2


def test_audio_that_waits_is_not_kept_longer_than_it_waits(recognizer: Recognizer, play) -> None:
    stream = recognizer.streams.create_stream()
    stream.accept_waveform(play([], 300.0), 16000)
    while recognizer.streams.is_ready(stream):
        recognizer.streams.decode_streams([stream])
        while recognizer.streams.is_endpoint(stream):
            recognizer.streams.reset(stream)
    num_bytes, _ = reachable(stream)
    assert num_bytes < 200_000  # the features of 300 s: 9.6 million
    for _ in range(20_000):  # blocks of a sample leave nothing behind
        stream.accept_waveform(np.zeros(1, np.float32), 16000)
    assert len(stream._feats) < 200


def test_a_stream_holds_on_to_nothing_of_its_batch_mates(recognizer: Recognizer, play) -> None:
    """Forty streams go together, some of them over an endpoint, with frames left over for the next utterance."""
    options = StreamingOptions(chunk_size=25, endpoint=EndpointRules(silence_after_speech=0.2))
    samples = [play([(3, 0.1, 0.4)], 1.2), play([], 1.2)]
    streams = [recognizer.streams.create_stream(options) for _ in range(40)]
    for place, stream in enumerate(streams):
        stream.accept_waveform(samples[place % 2], 16000)
    recognizer.streams.decode_streams(streams)
    assert [recognizer.streams.is_endpoint(stream) for stream in streams] == [True, False] * 20
    assert max(reachable(stream)[0] for stream in streams) < 2 * 25 * 80 * 4  # all of them: 40 * 25 * 80 * 4


@pytest.mark.parametrize("mode", ["ctc_prefix_beam_search", "attention_rescoring"])
def test_partial_results_know_the_utterance_so_far(recognizer: Recognizer, play, mode) -> None:
    """Against the search over the frames of the utterance that have been heard, encoded with the whole."""
    samples = play([(3, 0.2, 0.5), (4, 0.9, 1.3), (5, 1.3, 1.6), (3, 3.4, 3.9), (4, 4.1, 4.4)], 5.3)
    feats = compute_fbank(samples, recognizer.fbank_config)
    encoder_out, _ = encode_utterance(recognizer.backend, feats[None], np.array([len(feats)]))
    log_probs = recognizer.backend.ctc_log_probs(encoder_out)[0]
    for partial_words in (False, True):
        options = StreamingOptions(chunk_size=6, mode=mode, beam_size=5, num_best=3, partial_words=partial_words)
        stream, seen = recognizer.streams.create_stream(options), 0
        stream.accept_waveform(samples, 16000)
        while recognizer.streams.is_ready(stream):
            recognizer.streams.decode_streams([stream])
            if recognizer.streams.is_endpoint(stream):
                recognizer.streams.reset(stream)
            partial = recognizer.streams.get_result(stream)
            assert not partial.is_final
            assert partial == recognizer.streams.get_result(stream)  # asking changes nothing
            first, last = partial.start_ms // 40, partial.end_ms // 40
            hyps = ctc_prefix_beam_search(log_probs[first:last], 5)[:3]
            assert [reading.text for reading in partial.nbest] == [
                recognizer.tokenizer.decode(hyp.tokens) for hyp in hyps
            ]
            assert [reading.score for reading in partial.nbest] == pytest.approx([hyp.score for hyp in hyps])
            tokens = [hyp.tokens if partial_words else () for hyp in hyps]
            assert [tuple(token.id for token in reading.tokens) for reading in partial.nbest] == tokens
            assert all(" ".join(w.text for w in r.words) == r.text for r in partial.nbest if partial_words)
            seen += 1
        assert seen == (len(log_probs)) // 6
        assert partial.utterance == 1


def test_a_final_result_follows_the_mode_and_stays(recognizer: Recognizer, backend, play, listen: Listen) -> None:
    """The decoders' scores are asked for anew, by hand, for every reading of every utterance."""
    samples = play([(3, 0.2, 0.5), (4, 0.9, 1.3), (5, 1.3, 1.6), (3, 3.4, 3.9), (4, 4.1, 4.4)], 5.3)
    ctc = StreamingOptions(mode="ctc_prefix_beam_search", beam_size=5, num_best=5)
    by_ctc = listen(recognizer, recognizer.streams.create_stream(ctc), [samples])
    options = replace(ctc, mode="attention_rescoring", ctc_weight=0.7, reverse_weight=0.4)
    stream = recognizer.streams.create_stream(options)
    heard = listen(recognizer, stream, [samples])
    assert len(heard.finals) == 2
    for result, first, encoder_out in zip(heard.finals, by_ctc.finals, heard.encoder_out, strict=True):
        expected = {}
        for reading in first.nbest:
            ids = [token.id for token in reading.tokens]
            left, right = (token_scores(backend, encoder_out, [ids], reverse)[0].sum() for reverse in (False, True))
            expected[tuple(ids)] = 0.6 * left + 0.4 * right + 0.7 * reading.score
        found = {tuple(token.id for token in reading.tokens): reading.score for reading in result.nbest}
        assert found == pytest.approx(expected)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert (result.text, result.words, result.tokens) == (
            result.nbest[0].text,
            result.nbest[0].words,
            result.nbest[0].tokens,
        )
        for reading in result.nbest:
            assert " ".join(word.text for word in reading.words) == reading.text
        content = json.loads(json.dumps(result.to_dict()))
        assert (content["text"], content["confidence"]) == (result.text, result.confidence)
        assert len(content["nbest"]) == len(found)


def test_a_final_result_is_computed_once(recognizer: Recognizer, backend, play) -> None:
    stream = recognizer.streams.create_stream()
    stream.accept_waveform(play([(3, 0.2, 0.5)], 2.0), 16000)
    while not recognizer.streams.is_endpoint(stream):
        recognizer.streams.decode_streams([stream])
    final = recognizer.streams.get_result(stream)
    backend.decoder = None
    assert recognizer.streams.get_result(stream) is final
    with pytest.raises(DecodingError, match="must be reset"):
        recognizer.streams.decode_streams([stream])


def test_silence_has_no_words_whatever_the_decoders_think_of(recognizer: Recognizer, backend, play, listen) -> None:
    """Decoders to which every word is more probable than none."""
    backend.next_token = lambda reverse, encoder_out, prefix: np.full(6, 9.0)
    silence, tone = play([], 12.0, noise=0), play([(3, 0.2, 0.5)], 1.0, noise=0)
    options = StreamingOptions(beam_size=4, num_best=2)
    finals = listen(recognizer, recognizer.streams.create_stream(options), [silence, tone]).finals
    assert [(result.text, result.end_ms) for result in finals[:2]] == [("", 5000), ("", 10_000)]
    assert all(result.words == result.tokens == () for result in finals[:2])
    assert finals[2].text != ""
    # With the input at its end the decoders do have a say, as with a recording.
    (final,) = listen(recognizer, recognizer.streams.create_stream(options), [silence[:20_000]]).finals
    assert final.tokens != ()


@pytest.fixture(scope="module")
def included() -> Recognizer:
    return load_recognizer(SMALL_MODEL, num_threads=1)


def stays(before: StreamResult, after: StreamResult) -> int:
    """Check the times of every word whose text, predecessors and next two words are unchanged; return their number."""
    kept = 0
    for place, (old, new) in enumerate(zip(before.words[:-2], after.words, strict=False)):
        if texts(before.words[: place + 3]) != texts(after.words[: place + 3]):
            break
        assert abs(old.start_ms - new.start_ms) <= 40
        assert abs(old.end_ms - new.end_ms) <= 40
        kept += 1
    return kept


def texts(words: tuple[Word, ...]) -> list[str]:
    return [word.text for word in words]


@pytest.mark.parametrize(("chunk_size", "num_left_chunks"), [(16, 4), (6, 10)])
def test_words_keep_their_times(included: Recognizer, chunk_size: int, num_left_chunks: int) -> None:
    """Wherever chunks begin in the speech."""
    options = StreamingOptions(chunk_size=chunk_size, num_left_chunks=num_left_chunks, partial_words=True)
    kept = 0
    for path, delay in product((*CLIPS, DEMO / "digits.flac", DEMO / "name.flac"), range(0, 10_000, 2000)):
        stream, before = included.streams.create_stream(options), None
        stream.accept_waveform(np.pad(load_audio(path, sample_rate=16000), (delay, 0)), 16000)
        stream.input_finished()
        while included.streams.is_ready(stream):
            included.streams.decode_streams([stream])
            result = included.streams.get_result(stream)
            if before is not None and result.utterance == before.utterance:
                kept += stays(before, result)
            before = result
            while included.streams.is_endpoint(stream):
                included.streams.reset(stream)
    assert kept > 50
