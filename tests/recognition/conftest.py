"""Fixtures of the model of three tones."""

from tests.tone_model import any_recognizer, backend, encoder_out, listen, play, recognizer, tokenizer

__all__ = ["any_recognizer", "backend", "encoder_out", "listen", "play", "recognizer", "tokenizer"]
