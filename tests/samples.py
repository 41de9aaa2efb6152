"""A small, fast model and recordings with known words, for tests of the code around a model. They stay the same,
whatever model the package includes and whatever the demo plays."""

from pathlib import Path

FIXTURES = Path(__file__).resolve().parent / "fixtures"
SMALL_MODEL = FIXTURES / "unichoir-small-en"
"""int8, 12 MB: knows letters, digits and dates, in capitals."""
WITH_SMALL_MODEL = ("--model", str(SMALL_MODEL))
"""For commands."""
SPOKEN = FIXTURES / "spoken"
"""Synthetic speech: a folder `audio` with clip-1.flac to clip-5.flac, and what is said in them."""
REFERENCES = SPOKEN / "references.jsonl"
CLIPS = sorted((SPOKEN / "audio").glob("*.flac"))
