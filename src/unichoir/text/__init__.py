"""Text: tokenizers, normalisation and error rates."""
