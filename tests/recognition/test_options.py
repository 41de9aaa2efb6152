"""Invalid options are refused by name."""

import pytest

from unichoir.errors import DecodingError
from unichoir.recognition.options import DecodingOptions, EndpointRules, StreamingOptions


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "greedy"},
        {"beam_size": 0},
        {"beam_size": True},
        {"chunk_size": -1},
        {"num_left_chunks": -2},
        {"chunk_size": 16, "num_left_chunks": -2},
        {"num_left_chunks": 4},
        {"ctc_weight": -0.1},
        {"ctc_weight": float("nan")},
        {"attention_beam": -1},
        {"attention_beam": True},
        {"reverse_weight": 1.5},
        {"max_length": 0},
        {"length_penalty": float("inf")},
        {"max_segment_seconds": 0.5},
    ],
)
def test_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(DecodingError) as caught:
        DecodingOptions(**wrong)  # type: ignore[arg-type]
    assert any(str(caught.value).startswith(f"{name}: ") for name in wrong)
    assert "\n" not in str(caught.value)


def test_accepted() -> None:
    DecodingOptions()
    DecodingOptions(chunk_size=0)
    DecodingOptions(ctc_weight=None, attention_beam=None)
    DecodingOptions(ctc_weight=0.0, attention_beam=0)
    DecodingOptions(chunk_size=1, num_left_chunks=0, reverse_weight=1.0, max_segment_seconds=None, max_length=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "attention"},
        {"mode": "ctc_greedy_search"},
        {"mode": None},
        {"chunk_size": 0},
        {"chunk_size": -1},
        {"chunk_size": 26},
        {"chunk_size": 16.0},
        {"chunk_size": True},
        {"num_left_chunks": -1},
        {"num_left_chunks": -2},
        {"num_left_chunks": 94},  # of 16 frames: more than a minute
        {"num_left_chunks": 61, "chunk_size": 25},
        {"num_left_chunks": "4"},
        {"beam_size": 0},
        {"num_best": 0},
        {"num_best": 11},
        {"num_best": 4, "beam_size": 3},
        {"ctc_weight": -0.1},
        {"ctc_weight": float("inf")},
        {"ctc_weight": "0.5"},
        {"attention_beam": -1},
        {"attention_beam": 1.0},
        {"reverse_weight": 1.1},
        {"reverse_weight": float("nan")},
        {"partial_words": 1},
        {"partial_words": None},
        {"endpoint": 1.0},
        {"endpoint": True},
        {"endpoint": {"max_utterance": 20.0}},
    ],
)
def test_refused_for_streams(wrong: dict[str, object]) -> None:
    with pytest.raises(DecodingError) as caught:
        StreamingOptions(**wrong)  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{next(iter(wrong))}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["silence_before_speech", "silence_after_speech", "max_utterance", "blank_threshold"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "1", True, [1.0]])
def test_refused_for_endpoints(name: str, value: object) -> None:
    with pytest.raises(DecodingError, match=f"^{name}: "):
        EndpointRules(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"silence_before_speech": 0.0},
        {"silence_after_speech": 0.03},
        {"max_utterance": 0.9},
        {"blank_threshold": 1.1},
        {"blank_threshold": None},
    ],
)
def test_durations_too_short(wrong: dict[str, object]) -> None:
    with pytest.raises(DecodingError, match=f"^{next(iter(wrong))}: "):
        EndpointRules(**wrong)  # type: ignore[arg-type]


def test_accepted_for_streams() -> None:
    assert StreamingOptions().num_left_frames == 64
    StreamingOptions(ctc_weight=None, attention_beam=3)
    assert StreamingOptions(chunk_size=25, num_left_chunks=60).num_left_frames == 1500
    StreamingOptions(chunk_size=1, num_left_chunks=0, beam_size=1, ctc_weight=0, reverse_weight=0, endpoint=None)
    EndpointRules(silence_before_speech=None, silence_after_speech=None, max_utterance=None, blank_threshold=0)
    EndpointRules(silence_before_speech=0.04, silence_after_speech=1, max_utterance=1)
