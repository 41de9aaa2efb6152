"""Plain queries of attention decoders: scores of whole hypotheses, and of the token after a prefix."""

from collections.abc import Sequence

import numpy as np

from unichoir.engine.backend import Backend, Floats


def token_scores(backend: Backend, encoder_out: Floats, hyps: Sequence[Sequence[int]], reverse: bool) -> list[Floats]:
    """Return the log-probabilities of each hypothesis' tokens and the closing eos (U_i + 1,), in the order in which the
    decoder writes: with `reverse` the last token first."""
    ordered = [hyp[::-1] if reverse else hyp for hyp in hyps]
    found = backend.decoder(encoder_out, reverse).continuations(ordered)
    targets = [[*hyp, backend.info.eos_id] for hyp in ordered]
    return [rows[np.arange(len(each)), each] for rows, each in zip(found, targets, strict=True)]


def next_token_log_probs(backend: Backend, encoder_out: Floats, prefixes: Sequence[Sequence[int]]) -> Floats:
    """The left-to-right decoder's log-probabilities (N, V) of the token after each prefix; prefixes: without sos."""
    return np.stack([rows[-1] for rows in backend.decoder(encoder_out).continuations(prefixes)])
