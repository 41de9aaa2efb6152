"""Fixtures of the model of three tones, and exported models."""

from tests.export.conftest import exports
from tests.tone_model import backend

__all__ = ["backend", "exports"]
