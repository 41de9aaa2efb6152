"""The searches by the name of their mode."""

from functools import partial

from unichoir.engine.backend import Backend, Floats
from unichoir.search.attention_beam import attention_beam_search
from unichoir.search.greedy import ctc_greedy_search
from unichoir.search.hypothesis import Hypothesis
from unichoir.search.language import LanguageTokens
from unichoir.search.options import OfflineSearchOptions, SearchOptions
from unichoir.search.prefix_beam import ctc_prefix_beam_search
from unichoir.search.rescoring import attention_rescoring
from unichoir.search.scoring import PrefixScorer


def search(
    backend: Backend,
    encoder_out: Floats,
    log_probs: Floats,
    options: SearchOptions,
    languages: LanguageTokens | None = None,
    scorer: PrefixScorer | None = None,
) -> list[Hypothesis]:
    """The n-best hypotheses, best first, of one utterance in the mode of the options.

    encoder_out: (T', D); log_probs: (T', V) its CTC log-probabilities, restricted to the options' language; both
    without padding, T' > 0. languages: the vocabulary's; scorer: what the options' hotwords and a language model add.
    """
    blank_id = backend.info.blank_id
    if options.mode == "ctc_greedy_search":
        return [ctc_greedy_search(log_probs, blank_id)]
    restrict = partial((languages or LanguageTokens()).restrict, language=options.language)
    if isinstance(options, OfflineSearchOptions) and options.mode == "attention":
        # By default as many steps as frames; WeNet takes the most frames of the batch.
        length = len(encoder_out) if options.max_length is None else options.max_length
        decoder = backend.decoder(encoder_out)
        return attention_beam_search(decoder, backend.info, options.beam_size, length, options.length_penalty, restrict)
    hyps = ctc_prefix_beam_search(log_probs, options.beam_size, blank_id, scorer)
    if options.mode == "ctc_prefix_beam_search":
        return hyps
    return attention_rescoring(backend, encoder_out, log_probs, hyps, options, scorer, restrict)
