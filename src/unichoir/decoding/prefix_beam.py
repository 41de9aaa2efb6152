"""CTC prefix beam search (Hannun et al. 2014, arXiv 1408.2873), chunk by chunk or over a whole utterance."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unichoir.decoding.hypothesis import Hypothesis

NEVER = -math.inf


@dataclass(slots=True)
class _Prefix:
    """Log-probability of all alignments of one prefix so far, and the best single one among them.

    `blank`/`token`: sums over the alignments that end in blank / in the prefix's last token. `best_*`: the largest of
    them, with the frame of each token in it: the last frame of the token's run.
    """

    blank: float = NEVER
    token: float = NEVER
    best_blank: float = NEVER
    best_token: float = NEVER
    frames_blank: tuple[int, ...] = ()
    frames_token: tuple[int, ...] = ()

    @property
    def score(self) -> float:
        return log_add(self.blank, self.token)

    @property
    def best(self) -> tuple[float, tuple[int, ...]]:
        if self.best_blank > self.best_token:
            return self.best_blank, self.frames_blank
        return self.best_token, self.frames_token


class PrefixBeam:
    """The `beam_size` most probable token sequences, each summed over its CTC alignments, for the frames seen so far.

    Where the sum leaves the beam and where a token is not among the `beam_size` most probable of its frame, it is lost,
    as in WeNet; with a beam as large as the vocabulary and the number of prefixes the result is exact. An extension
    that cannot enter the next beam is not computed, which changes no result: where blank is nearly certain a frame
    costs one update of each prefix.
    """

    def __init__(self, beam_size: int, blank_id: int = 0) -> None:
        self.beam_size = beam_size
        self.blank_id = blank_id
        self.num_frames = 0
        self._beam: dict[tuple[int, ...], _Prefix] = {(): _Prefix(blank=0.0, best_blank=0.0)}

    def advance(self, log_probs: NDArray[np.floating[Any]]) -> None:
        """Go on by the next frames; log_probs: (t, V) CTC log-probabilities. Any split into calls gives the same."""
        width = min(self.beam_size, log_probs.shape[1])
        top = np.argpartition(log_probs, log_probs.shape[1] - width, axis=1)[:, -width:]
        values = np.take_along_axis(log_probs, top, axis=1)
        for tokens, scores in zip(top.tolist(), values.tolist(), strict=True):
            self._step(dict(zip(tokens, scores, strict=True)))
            self.num_frames += 1

    def nbest(self) -> list[Hypothesis]:
        """The hypotheses in the beam, best first; before any frame the empty one with score 0."""
        return [
            Hypothesis(tokens=tokens, score=prefix.score, frames=prefix.best[1])
            for tokens, prefix in self._beam.items()
        ]

    def _step(self, frame: dict[int, float]) -> None:
        """One frame; `frame`: log-probability of each token that is considered."""
        blank = frame.get(self.blank_id, NEVER)
        kept: dict[tuple[int, ...], _Prefix] = {}
        for tokens, prefix in self._beam.items():
            kept[tokens] = self._stay(tokens, prefix, blank, frame, parent_first=tokens[:-1] in kept)
        scored = [(prefix.score, tokens, prefix) for tokens, prefix in kept.items()]
        worst = min(entry[0] for entry in scored) if len(scored) == self.beam_size else NEVER
        extensions = [(score, token) for token, score in frame.items() if token != self.blank_id]
        extensions.sort(reverse=True)
        for tokens, prefix in self._beam.items():
            total, last = prefix.score, tokens[-1] if tokens else -1
            for score, token in extensions:
                # A new prefix has one parent, so this is its whole score, and the prefixes kept only push others out.
                if total + score < worst:
                    break
                if (*tokens, token) not in kept:
                    new = self._extend(prefix, token == last, score)
                    scored.append((new.token, (*tokens, token), new))
        scored.sort(key=lambda entry: entry[0], reverse=True)
        self._beam = {tokens: prefix for score, tokens, prefix in scored[: self.beam_size] if score > NEVER}

    def _stay(
        self, tokens: tuple[int, ...], prefix: _Prefix, blank: float, frame: dict[int, float], parent_first: bool
    ) -> _Prefix:
        """`tokens` after the frame: by a blank, by its last token again, or grown from its parent, if that is alive."""
        best, frames = prefix.best
        new = _Prefix(blank=prefix.score + blank, best_blank=best + blank, frames_blank=frames)
        if not tokens or tokens[-1] not in frame:
            return new
        score = frame[tokens[-1]]
        new.token, new.best_token = prefix.token + score, prefix.best_token + score
        new.frames_token = (*prefix.frames_token[:-1], self.num_frames)
        parent = self._beam.get(tokens[:-1])
        if parent is not None:
            grown = self._extend(parent, tokens[-2:-1] == tokens[-1:], score)
            new.token = log_add(new.token, grown.token)
            # WeNet's times: a parent ranked higher hands on the frames of its tokens even if growing is less probable.
            if grown.best_token > (NEVER if parent_first else new.best_token):
                new.frames_token = grown.frames_token
            new.best_token = max(new.best_token, grown.best_token)
        return new

    def _extend(self, prefix: _Prefix, repeated: bool, score: float) -> _Prefix:
        """`prefix` and one token more in this frame; the same token twice needs a blank between."""
        total = prefix.blank if repeated else prefix.score
        best, frames = (prefix.best_blank, prefix.frames_blank) if repeated else prefix.best
        return _Prefix(token=total + score, best_token=best + score, frames_token=(*frames, self.num_frames))


def ctc_prefix_beam_search(
    log_probs: NDArray[np.floating[Any]], beam_size: int = 10, blank_id: int = 0
) -> list[Hypothesis]:
    """The n-best token sequences of one utterance, best first; log_probs: (T', V) without padding."""
    beam = PrefixBeam(beam_size, blank_id)
    beam.advance(log_probs)
    return beam.nbest()


def log_add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == NEVER else a + math.log1p(math.exp(b - a))
