"""A decoder's tree of hypotheses, compared with hypotheses one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unichoir.engine.backend import Floats
from unichoir.engine.tree_decoder import DecoderStep, TreeDecoder

SOS = 9
HYPOTHESES = st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=8)


class Engine:
    """An engine whose state is a token and its position, and whose output is a number for all visible tokens."""

    def __init__(self) -> None:
        self.computed = 0

    def __call__(self, step: DecoderStep) -> tuple[Floats, Floats]:
        self.computed += len(step.tokens)
        states = np.stack([step.tokens, step.positions], axis=1).astype(np.float32)
        every = np.concatenate([step.past, states])
        assert step.visible.shape == (len(states), len(every))
        assert step.visible.any(axis=0).all()  # nothing is passed that nobody sees
        rows = []
        for row, visible in enumerate(step.visible):
            seen = every[visible]
            assert seen[:, 1].tolist() == list(range(len(seen)))
            assert visible[len(step.past) + row]
            rows.append([text_number(seen[1:, 0].astype(int).tolist()), -1.0])
        return np.array(rows, np.float32), states


def text_number(tokens: list[int]) -> int:
    """Return a different number for every sequence."""
    return int("".join(str(token + 1) for token in tokens) or "0")


@given(calls=st.lists(HYPOTHESES, min_size=1, max_size=4))
def test_every_beginning_is_followed_by_what_follows_it_alone(calls: list[list[list[int]]]) -> None:
    engine = Engine()
    decoder = TreeDecoder(engine, SOS, np.zeros((0, 2), np.float32))
    beginnings = set()
    for hyps in calls:
        found = decoder.continuations(hyps)
        assert [len(rows) for rows in found] == [len(hyp) + 1 for hyp in hyps]
        for hyp, rows in zip(hyps, found, strict=True):
            assert rows[:, 0].tolist() == [text_number(hyp[:length]) for length in range(len(hyp) + 1)]
        # Each is computed once, whenever it was asked for first.
        beginnings |= {tuple(hyp[:length]) for hyp in hyps for length in range(len(hyp) + 1)}
        assert engine.computed == len(beginnings)


def test_nothing_asked_for() -> None:
    engine = Engine()
    assert TreeDecoder(engine, SOS, np.zeros((0, 2), np.float32)).continuations([]) == []
