"""Transcription and serving on many machines, with Ray."""
