"""The tree that hypotheses are scored in, against the hypotheses one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unichoir.decoding.engine import prefix_tree

SOS = 9
HYPOTHESES = st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=8)


@given(hyps=HYPOTHESES)
def test_every_hypothesis_is_a_path_that_sees_itself_only(hyps: list[list[int]]) -> None:
    tree = prefix_tree(hyps, SOS)
    assert len(tree.paths) == len(hyps)
    for hyp, path in zip(hyps, tree.paths, strict=True):
        assert tree.tokens[path].tolist() == [SOS, *hyp]
        assert tree.positions[path].tolist() == list(range(len(hyp) + 1))
        for count, place in enumerate(path, start=1):
            assert set(np.flatnonzero(tree.visible[place])) == set(path[:count].tolist())


@given(hyps=HYPOTHESES)
def test_what_is_shared_is_there_once(hyps: list[list[int]]) -> None:
    beginnings = {tuple(hyp[:length]) for hyp in hyps for length in range(len(hyp) + 1)}
    assert len(prefix_tree(hyps, SOS).tokens) == len(beginnings)
