"""All searches of one model behind one call: the mode of the options selects the algorithm."""

from collections.abc import Sequence
from functools import partial

from unichoir.engine.backend import Backend, Floats
from unichoir.errors import DecodingError
from unichoir.search.attention_beam import attention_beam_search
from unichoir.search.greedy import ctc_greedy_search
from unichoir.search.hypothesis import Hypothesis
from unichoir.search.language import LanguageTokens
from unichoir.search.options import OfflineSearchOptions, SearchOptions
from unichoir.search.prefix_beam import PrefixBeam, ctc_prefix_beam_search
from unichoir.search.rescoring import attention_rescoring
from unichoir.search.scoring import LanguageModel, PrefixScorer, Scorers
from unichoir.text.tokenizer import Tokenizer


class Search:
    """The searches of one model, with its language tokens, hotwords and language model.

    It holds no state of an utterance and can be used from any thread.
    """

    def __init__(self, backend: Backend, tokenizer: Tokenizer, language_model: LanguageModel | None = None) -> None:
        self.languages = LanguageTokens(tokenizer.languages)
        self._backend = backend
        self._scorers = Scorers(tokenizer, language_model)

    def check(self, options: SearchOptions) -> None:
        """Raise DecodingError for options that the model cannot fulfil: language, hotwords, weights."""
        if options.reverse_weight and not self._backend.info.has_reverse_decoder:
            raise DecodingError(f"reverse_weight {options.reverse_weight}: this model has no right-to-left decoder")
        self.languages.check(options.language)
        self.scorer(options)

    def scorer(self, options: SearchOptions) -> PrefixScorer | None:
        """Return the scorer of the options' hotwords and of the language model; None if nothing is to be scored.

        Raises DecodingError for hotwords that the vocabulary cannot write, for weights of a language model that does
        not exist, and for a mode that cannot use the language model.
        """
        return self._scorers.of(options)

    def ctc_log_probs(self, encoder_out: Floats, options: SearchOptions) -> Floats:
        """Return the CTC log-probabilities (T', V) of one utterance (T', D), restricted to the options' language."""
        return self.languages.restrict(self._backend.ctc_log_probs(encoder_out[None])[0], options.language)

    def __call__(self, encoder_out: Floats, log_probs: Floats, options: SearchOptions) -> list[Hypothesis]:
        """Return the n-best hypotheses of one utterance, best first.

        encoder_out: (T', D); log_probs: (T', V), its CTC log-probabilities, restricted to the options' language; both
        without padding, T' > 0. Raises DecodingError as `scorer` does.
        """
        info = self._backend.info
        scorer = self.scorer(options)
        if options.mode == "ctc_greedy_search":
            return [ctc_greedy_search(log_probs, info.blank_id)]
        if isinstance(options, OfflineSearchOptions) and options.mode == "attention":
            # The default is as many steps as frames. WeNet takes the largest number of frames in the batch.
            steps = len(encoder_out) if options.max_length is None else options.max_length
            # All frames, whatever `ModelInfo.decoder_memory` says: WeNet only chooses frames for rescoring.
            decoder, restrict = self._backend.decoder(encoder_out), self._restrict(options)
            return attention_beam_search(decoder, info, options.beam_size, steps, options.length_penalty, restrict)
        hyps = ctc_prefix_beam_search(log_probs, options.beam_size, info.blank_id, scorer)
        if options.mode == "ctc_prefix_beam_search":
            return hyps
        return self.rescore(encoder_out, log_probs, hyps, options)

    def rescore(
        self, encoder_out: Floats, log_probs: Floats, hyps: Sequence[Hypothesis], options: SearchOptions
    ) -> list[Hypothesis]:
        """Return the hypotheses of CTC prefix beam search after the second pass (`attention_rescoring`), best first."""
        scorer, restrict = self.scorer(options), self._restrict(options)
        return attention_rescoring(self._backend, encoder_out, log_probs, hyps, options, scorer, restrict)

    def prefix_beam(self, options: SearchOptions) -> PrefixBeam:
        """Return a CTC prefix beam search that continues frame by frame."""
        languages = self.languages.ids.values()
        return PrefixBeam(options.beam_size, self._backend.info.blank_id, languages, self.scorer(options))

    def _restrict(self, options: SearchOptions) -> "partial[Floats]":
        return partial(self.languages.restrict, language=options.language)
