"""Fixtures of the model of three tones."""

from tests.tone_model import tokenizer

__all__ = ["tokenizer"]
