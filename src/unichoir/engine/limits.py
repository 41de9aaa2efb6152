"""Limits that commands name, without the numerics behind them: commands start fast."""

MAX_LEFT_FRAMES = 1500
"""Encoder frames, one minute: what a stream remembers of each block, and so the memory it takes, has a limit."""
