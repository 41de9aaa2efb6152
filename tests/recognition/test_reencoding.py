"""Final results from the whole utterance, which is encoded again without chunks."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.samples import CLIPS, REFERENCES, SMALL_MODEL, WITH_SMALL_MODEL

from unichoir.api import load_recognizer
from unichoir.audio.fbank import compute_fbank
from unichoir.audio.io import load_audio
from unichoir.errors import DecodingError
from unichoir.recognition.forced import force_align
from unichoir.recognition.options import DecodingOptions, EndpointRules, StreamingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.recognition.stream import Stream
from unichoir.search.prefix_beam import ctc_prefix_beam_search
from unichoir.search.rescoring import Rescorer

RATE = 16000
CHUNKS = StreamingOptions(chunk_size=4, num_left_chunks=1, reencode=True)


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return load_recognizer(SMALL_MODEL, num_threads=1)


@pytest.fixture(scope="module")
def spoken() -> np.ndarray:
    """Five clips with pauses that end utterances, and one that ends without."""
    noise = np.random.default_rng(3).normal(0, 1e-4, int(1.4 * RATE)).astype(np.float32)
    parts = [part for clip in CLIPS for part in (load_audio(clip), noise)]
    return np.concatenate(parts[:-1])


def frames_and_tokens(recognizer: Recognizer, stream: Stream) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Return first frame, number of frames and tokens of each final result, while samples arrive."""
    while recognizer.streams.is_ready(stream) or recognizer.streams.is_endpoint(stream):
        if not recognizer.streams.is_endpoint(stream):
            recognizer.streams.decode_streams([stream])
            continue
        result, utterance = recognizer.streams.get_result(stream), stream.utterance
        yield utterance.first_frame, utterance.num_frames, tuple(token.id for token in result.tokens)
        recognizer.streams.reset(stream)


@pytest.mark.parametrize("max_utterance", [20.0, 1.5])
def test_each_utterance_is_recognised_as_if_it_were_a_recording(
    recognizer: Recognizer, spoken: np.ndarray, max_utterance: float
) -> None:
    """Against the searches by hand, on features of the whole that are cut at the utterance's frames."""
    options = replace(CHUNKS, endpoint=EndpointRules(max_utterance=max_utterance))
    stream, found = recognizer.streams.create_stream(options), []
    for block in np.split(spoken, range(3000, len(spoken), 3000)):
        stream.accept_waveform(block, RATE)
        found += frames_and_tokens(recognizer, stream)
    stream.input_finished()
    found += frames_and_tokens(recognizer, stream)
    assert len(found) >= 5
    assert sum(num_frames for _, num_frames, _ in found) == found[-1][0] + found[-1][1]
    feats, info = compute_fbank(spoken, recognizer.fbank_config), recognizer.backend.info
    for first, num_frames, tokens in found:
        start = info.subsampling_rate * first
        window = feats[start : start + info.subsampling_rate * (num_frames - 1) + info.right_context + 1]
        encoder_out, lens, _ = recognizer.backend.encode_chunk(window[None], np.array([len(window)]), None, 0)
        assert lens.tolist() == [num_frames]
        hyps = ctc_prefix_beam_search(recognizer.backend.ctc_log_probs(encoder_out)[0], options.beam_size)
        assert tokens == Rescorer(recognizer.backend, encoder_out[0])(hyps)[0].tokens
    in_chunks = recognizer.streams.create_stream(replace(options, reencode=False))
    in_chunks.accept_waveform(spoken, RATE)
    in_chunks.input_finished()
    assert [tokens for *_, tokens in frames_and_tokens(recognizer, in_chunks)] != [tokens for *_, tokens in found]


@pytest.mark.parametrize("clip", CLIPS, ids=lambda path: path.stem)
def test_a_stream_of_one_utterance_ends_as_the_recording_would(recognizer: Recognizer, clip: Path) -> None:
    samples = load_audio(clip)
    expected = recognizer.recordings.recognize(samples)
    stream = recognizer.streams.create_stream(replace(CHUNKS, endpoint=None))
    stream.accept_waveform(samples, RATE)
    stream.input_finished()
    *_, final = recognizer.streams.results(stream)
    assert final.text == expected.text
    assert [word.start_ms for word in final.words] == [word.start_ms for word in expected.words]
    # A recording that is heard in chunks stands for a stream.
    under_chunks = DecodingOptions(chunk_size=4, num_left_chunks=1)
    assert recognizer.recordings.recognize(samples, replace(under_chunks, reencode=True)) == expected
    assert recognizer.recordings.recognize(samples, under_chunks).nbest != expected.nbest
    # Other modes have no second pass, whatever the model wants.
    partial = replace(under_chunks, mode="ctc_prefix_beam_search")
    before = recognizer.recordings.recognize(samples, partial)

    def aligned(options: DecodingOptions) -> float:
        return force_align(recognizer, [samples], expected.text, options).confidence

    in_chunks = aligned(under_chunks)
    info = recognizer.backend.info
    recognizer.backend.info = replace(info, reencode=True)  # type: ignore[misc]
    try:
        assert recognizer.recordings.recognize(samples, under_chunks) == expected
        assert recognizer.recordings.recognize(samples, partial) == before
        assert aligned(under_chunks) == in_chunks != aligned(DecodingOptions())
    finally:
        recognizer.backend.info = info  # type: ignore[misc]


def test_options_that_contradict_themselves() -> None:
    with pytest.raises(DecodingError, match="reencode: needs a chunk_size"):
        DecodingOptions(reencode=True)
    with pytest.raises(DecodingError, match="reencode: ctc_prefix_beam_search has no second pass"):
        StreamingOptions(reencode=True, mode="ctc_prefix_beam_search")
    with pytest.raises(DecodingError, match="reencode: expected True, False or None, found 1"):
        StreamingOptions(reencode=1)  # type: ignore[arg-type]
    DecodingOptions(reencode=False)


def test_from_the_command_line(run_command, tmp_path: Path) -> None:
    """Errors of streams with a second hearing are those of whole recordings, in rescoring alone."""
    counts: dict[str, list[dict[str, int]]] = {}
    chunks = ("--chunk-size", "full,2", "--num-left-chunks", 0, "--decoding", "ctc_greedy_search,attention_rescoring")
    for name, arguments in {"once": chunks, "again": (*chunks, "--reencode")}.items():
        code, _, err = run_command("evaluate", SMALL_MODEL, REFERENCES, "--output", tmp_path / name, *arguments)
        assert code == 0, err
        scores = json.loads((tmp_path / name / "results.json").read_text(encoding="utf-8"))["scores"]
        errors = {(row["mode"], row["chunk_size"]): row["wer"] for row in scores}
        counts[name] = [
            errors[mode, size] for mode in ("ctc_greedy_search", "attention_rescoring") for size in (None, 2)
        ]
    greedy, greedy_chunks, whole, in_chunks = counts["once"]
    assert in_chunks != whole
    assert counts["again"] == [greedy, greedy_chunks, whole, whole]
    clip = CLIPS[0]
    _, whole, _ = run_command("transcribe", clip, *WITH_SMALL_MODEL)
    chunks = ("--chunk-size", 2, "--num-left-chunks", 0, "--reencode")
    code, heard, err = run_command("stream", "--simulate", clip, "--speed", 0, *WITH_SMALL_MODEL, *chunks)
    assert code == 0, err
    assert heard.split()[-5:] == whole.split()[-5:]
    code, _, err = run_command("transcribe", clip, *WITH_SMALL_MODEL, "--reencode")
    assert code == 2
    assert "needs a chunk_size" in err
