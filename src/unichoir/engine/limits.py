"""Limits that the command line shows, in a module without heavy imports."""

MAX_LEFT_FRAMES = 1500
"""The most encoder frames (one minute of 40 ms frames) that a stream remembers; this limits its memory."""
