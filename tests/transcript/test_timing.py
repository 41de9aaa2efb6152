"""Words are those of the text, times agree with the filterbank, and combinations are the best ones."""

from itertools import pairwise, product

import numpy as np
import pytest

from unichoir.audio.fbank import FbankConfig, compute_fbank
from unichoir.engine.backend import ModelInfo
from unichoir.text.normalize import split_words
from unichoir.text.tokenizer import BpeTokenizer, CharTokenizer
from unichoir.transcript.alignment import Span
from unichoir.transcript.results import Alternative, Token
from unichoir.transcript.segments import Segment, join_segments
from unichoir.transcript.timing import FrameClock, group_words, timed_tokens
from unichoir.transcript.word_edges import Loudness

INFO = ModelInfo(vocab_size=6, encoder_dim=80, sos_id=2, eos_id=2)
SPACE = "\u2581"


def tokens_of(ids: list[int], tokenizer: CharTokenizer | BpeTokenizer) -> list[Token]:
    return [
        Token(id=i, text=tokenizer.tokens[i], start_ms=100 * n, end_ms=100 * n + 80, confidence=1 / (n + 2))
        for n, i in enumerate(ids)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_words_are_those_of_the_text(seed: int) -> None:
    special = ["<blank>", "<unk>", "<sos/eos>"]
    if seed % 2:
        tokenizer: CharTokenizer | BpeTokenizer = CharTokenizer([*special, SPACE, "a", "b", "'", "我", "们"])
    else:
        tokenizer = BpeTokenizer([*special, SPACE, SPACE + "th", "is", "'", "我", "们"], None)
    ids = np.random.default_rng(seed).integers(0, tokenizer.vocab_size, size=12).tolist()
    tokens = tokens_of(ids, tokenizer)
    words = group_words(tokens, tokenizer)
    assert [word.text for word in words] == split_words(tokenizer.decode(ids))
    for before, after in pairwise(words):
        assert before.start_ms < before.end_ms <= after.start_ms


def test_a_word_spans_its_tokens_and_is_as_sure_as_the_least_sure_one() -> None:
    tokenizer = CharTokenizer(["<blank>", "<unk>", "<sos/eos>", SPACE, "a", "b"])
    tokens = tokens_of([4, 5, 3, 5, 2], tokenizer)
    first, second = group_words(tokens, tokenizer)
    assert (first.text, first.start_ms, first.end_ms, first.confidence) == ("ab", 0, 180, 1 / 3)
    assert (second.text, second.start_ms, second.end_ms, second.confidence) == ("b", 300, 380, 1 / 5)


@pytest.mark.parametrize(
    "config",
    [
        FbankConfig(),
        FbankConfig(snip_edges=False),
        FbankConfig(lead_frames=3),
        FbankConfig(kind="mfcc"),
        FbankConfig(kind="whisper"),
        FbankConfig(kind="whisper", lead_frames=2),
    ],
)
def test_the_clock_tells_which_encoder_frame_hears_a_click(config: FbankConfig) -> None:
    clock = FrameClock.of(INFO, config)
    faint = np.random.default_rng(0).normal(0, 1e-5, 16000).astype(np.float32)
    quiet = compute_fbank(faint, config)
    for position in range(4000, 12000, 173):
        clicked = faint.copy()
        clicked[position] = 0.5
        heard = np.flatnonzero(np.abs(compute_fbank(clicked, config) - quiet).max(axis=1) > 0.01)
        time_ms = position / 16
        frame = next(i for i in range(30) if clock.at(i) <= time_ms < clock.at(i + 1))
        # Encoder frame i sees feature frames 4 i to 4 i + 6, so 4 i + 3 is its middle and every 4th is another's.
        assert abs(heard.mean() - (4 * frame + 3)) <= 2.6


def test_usual_settings_are_40_ms_a_frame_from_22_5_ms() -> None:
    clock = FrameClock.of(INFO, FbankConfig())
    assert (clock.at(0), clock.at(1), clock.at(2.5)) == (22.5, 62.5, 122.5)


def test_with_whispers_features_frame_0_is_around_10_ms() -> None:
    """With 2 frames in front it sees the feature frames up to the fifth: 0 to 40 ms, and 20 ms of padding."""
    clock = FrameClock.of(INFO, FbankConfig(kind="whisper", lead_frames=2))
    assert (clock.at(0), clock.at(1), clock.at(2.5)) == (-10.0, 30.0, 90.0)


def test_tokens_reach_half_way_to_their_neighbours_and_not_far_nor_out_of_the_segment(tokenizer: BpeTokenizer) -> None:
    clock = FrameClock(first_ms=20.0, step_ms=40.0)
    spans = [Span(1, 2, 0.5), Span(4, 4, 0.6), Span(5, 5, 0.7), Span(30, 31, 0.8)]
    tokens = timed_tokens([3, 4, 5, 3], spans, tokenizer, clock, start_ms=1000, end_ms=2300)
    assert [(token.start_ms, token.end_ms) for token in tokens] == [
        (1000, 1160),
        (1160, 1220),
        (1220, 1340),
        (2140, 2300),
    ]
    assert [token.confidence for token in tokens] == [0.5, 0.6, 0.7, 0.8]


@pytest.mark.parametrize("num_best", [1, 3, 10])
def test_the_nbest_of_the_whole_are_the_best_combinations(num_best: int) -> None:
    rng = np.random.default_rng(0)
    segments = []
    for _ in range(4):
        scores = sorted(rng.normal(size=3), reverse=True)
        segments.append(
            Segment(nbest=tuple(Alternative(text=f"t{k}", tokens=(k,), score=s) for k, s in enumerate(scores)))
        )
    everything = sorted(product(*(s.nbest for s in segments)), key=lambda c: -sum(a.score for a in c))
    transcript = join_segments(segments, num_best, duration_ms=5)
    assert len(transcript.nbest) == num_best
    for found, expected in zip(transcript.nbest, everything, strict=False):
        assert found.text == " ".join(part.text for part in expected)
        assert found.tokens == tuple(part.tokens[0] for part in expected)
        assert found.score == pytest.approx(sum(part.score for part in expected))
    assert (transcript.text, transcript.score) == (transcript.nbest[0].text, transcript.nbest[0].score)


def test_very_many_segments_are_joined_without_recursion() -> None:
    num_segments, depth = 20_000, 3
    parts = tuple(Alternative(text=f"t{k}", tokens=(k,), score=-k / 2) for k in range(depth))
    transcript = join_segments([Segment(nbest=parts)] * num_segments, depth, duration_ms=5)
    assert transcript.nbest[0].tokens == (0,) * num_segments
    assert [reading.score for reading in transcript.nbest] == [0.0, -0.5, -0.5]
    assert all(sorted(reading.tokens) == [0] * (num_segments - 1) + [1] for reading in transcript.nbest[1:])


def test_texts_are_joined_as_their_script_is_written() -> None:
    def segment(text: str) -> Segment:
        return Segment(nbest=(Alternative(text=text, tokens=(), score=0.0),))

    assert (
        join_segments([segment("我们"), segment("去"), segment("new york"), segment("")], 1, 0).text
        == "我们去 new york"
    )


@pytest.mark.parametrize("seed", range(200))
def test_words_never_overlap_whatever_the_sound_says(seed: int) -> None:
    """Any alignment, any stretches of quiet, which may be where CTC is certain of a word."""
    rng = np.random.default_rng(seed)
    tokenizer = BpeTokenizer(["<blank>", "<unk>", "<sos/eos>", SPACE + "a", "b", SPACE], None)
    spans, frame = [], int(rng.integers(0, 3))
    for _ in range(int(rng.integers(2, 9))):
        last = frame + int(rng.integers(0, 3))
        spans.append(Span(frame, last, 0.5))
        frame = last + 1 + int(rng.integers(0, 4))
    ids = [3, *rng.choice([3, 4, 5], len(spans) - 1, p=[0.6, 0.3, 0.1]).tolist()]
    levels = np.repeat(rng.choice([-60.0, -20.0], frame + 1), 4) + rng.normal(0, 3, 4 * (frame + 1))
    loudness = Loudness(levels.astype(np.float32), levels < -40, 4)
    end = 40 * (frame + 2)
    tokens = timed_tokens(ids, spans, tokenizer, FrameClock(first_ms=22.5, step_ms=40.0), 0, end, loudness)
    words = group_words(tokens, tokenizer)
    assert len(words) == len(tokenizer.decode_words(ids))
    for word in words:
        assert 0 <= word.start_ms < word.end_ms <= end
    for before, after in pairwise(words):
        assert before.end_ms <= after.start_ms
