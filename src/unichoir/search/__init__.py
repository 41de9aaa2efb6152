"""From encoder outputs to hypotheses: the searches, the second pass, hotwords, language models."""
