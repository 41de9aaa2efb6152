"""The left-to-right decoder corrects a hypothesis: greedy decoding with the hypothesis as its draft.

A decoder that writes token by token runs once for every token. Here it reads the whole draft at once, as in speculative
decoding (arXiv 2211.17192). Up to the first token that it would clearly not have written the draft stands; there its
own token comes instead, and the rest of the draft is tried behind it, as after a substitution, an insertion and
deletions. So it runs once for every error of the draft, not for every token, and what it finds is not limited to an
n-best list.
"""

from collections.abc import Callable, Sequence

import numpy as np

from unichoir.decoding.backend import Backend, Floats

MARGIN = 0.7
"""By so many nats the decoder must prefer its own token to that of the draft."""
END_MARGIN = 4.0
"""The same where it wants to end before the draft does: decoders end too early more often than CTC says too much."""
SKIPPED = 3
"""So many tokens of the draft may be left out in one correction."""


def correct(
    backend: Backend,
    encoder_out: Floats,
    draft: Sequence[int],
    max_rounds: int,
    restrict: Callable[[Floats], Floats] | None = None,
) -> tuple[int, ...]:
    """The draft as the decoder would have it, after at most `max_rounds` corrections.

    encoder_out: (T', D) without padding; restrict: changes the log-probabilities (N, V) of every step. Tokens before
    the last correction are those of greedy decoding, but where the draft was nearly as good. The decoder runs once more
    than it corrects: the last time says which rest of the draft belongs behind the last correction.
    """
    eos = backend.info.eos_id
    drafts, begin = [tuple(draft)], 0
    for left in range(max_rounds, -1, -1):
        found = backend.continuations(encoder_out, drafts)
        found = [restrict(log_probs) for log_probs in found] if restrict else found
        stands = [_first_error(log_probs, each, begin, eos) for log_probs, each in zip(found, drafts, strict=True)]
        ranks = [_rank(*each, eos=eos) for each in zip(found, drafts, stands, strict=True)]
        best = ranks.index(max(ranks))  # of equal ones the first, which changes least
        place, chosen, log_probs = stands[best], drafts[best], found[best]
        if place > len(chosen) or not left:
            break
        token = int(log_probs[place].argmax())
        if token == eos:
            return chosen[:place]
        drafts, begin = _repaired(chosen, place, token), place + 1
    return chosen


def _rank(log_probs: Floats, draft: tuple[int, ...], place: int, eos: int) -> tuple[bool, float]:
    """How good a draft is that stands up to `place`: one that stands to its end is better than any other.

    Those are as good as they are probable, the others as far as they stand.
    """
    if place <= len(draft):
        return False, place
    return True, float(log_probs[np.arange(len(draft) + 1), [*draft, eos]].sum())


def _first_error(log_probs: Floats, draft: Sequence[int], begin: int, eos: int) -> int:
    """The first place from `begin` on where the decoder clearly wants another token; one past the end if nowhere.

    log_probs: (U + 1, V), of what follows each beginning of the draft.
    """
    targets = np.array([*draft, eos])
    wanted = log_probs.argmax(axis=1)
    gain = log_probs.max(axis=1) - log_probs[np.arange(len(targets)), targets]
    margin = np.where((wanted == eos) & (targets != eos), END_MARGIN, MARGIN)
    wrong = np.flatnonzero(gain[begin:] > margin[begin:])
    return begin + int(wrong[0]) if len(wrong) else len(draft) + 1


def _repaired(draft: tuple[int, ...], place: int, token: int) -> list[tuple[int, ...]]:
    """The draft with `token` at `place`, followed by what may be its rest: after a substitution, an insertion, and as
    many tokens left out as allowed."""
    rests = [draft[place + skipped :] for skipped in (1, 0, *range(2, SKIPPED + 1))]
    return list(dict.fromkeys((*draft[:place], token, *rest) for rest in rests))


def ctc_score(log_probs: Floats, tokens: Sequence[int], blank_id: int = 0) -> float:
    """The CTC log-probability of a token sequence, over all its alignments (Graves et al. 2006, section 4.1).

    log_probs: (T', V). Minus infinity where there is none: the frames are too few, or the blank is among the tokens.
    """
    if blank_id in tokens or len(log_probs) < len(tokens):
        return -np.inf
    if not len(log_probs):
        return 0.0
    labels = np.full(2 * len(tokens) + 1, blank_id)
    labels[1::2] = tokens
    emitted = log_probs[:, labels].astype(np.float64)
    may_skip = np.zeros(len(labels), dtype=bool)
    may_skip[3::2] = labels[3::2] != labels[1:-2:2]
    alpha = np.full(len(labels), -np.inf)
    alpha[: min(2, len(labels))] = emitted[0, :2]
    for row in emitted[1:]:
        before = np.concatenate([[-np.inf], alpha[:-1]])
        skipped = np.where(may_skip, np.concatenate([[-np.inf, -np.inf], alpha[:-2]])[: len(alpha)], -np.inf)
        alpha = np.logaddexp(np.logaddexp(alpha, before), skipped) + row
    return float(np.logaddexp.reduce(alpha[-2:]))
