"""Options that make no sense are refused with their name."""

import pytest

from unichoir.decoding.options import DecodingOptions
from unichoir.errors import DecodingError


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
    DecodingOptions(chunk_size=1, num_left_chunks=0, reverse_weight=1.0, max_segment_seconds=None, max_length=1)
