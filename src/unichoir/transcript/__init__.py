"""From hypotheses to results: alignment, words with times, written forms, file formats.

`Reader` is the entrance for recognition; `results` has the public types. This wing may import `search`, `engine` and
`text`; it knows nothing of audio.
"""
