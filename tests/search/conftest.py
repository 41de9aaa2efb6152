"""Fixtures of the model of three tones."""

from tests.tone_model import backend, encoder_out, listen, play, recognizer, tokenizer

__all__ = ["backend", "encoder_out", "listen", "play", "recognizer", "tokenizer"]
