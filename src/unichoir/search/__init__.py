"""From encoder outputs to hypotheses: the searches, the second pass, hotwords and language models.

`Search` is the entrance. This wing may import `engine` for the interface of a model, and `text` for tokenizers and
language models; it knows nothing of audio, times or results.
"""
