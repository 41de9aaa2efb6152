"""From hypotheses to results: alignment, words with times, written forms, file formats.

`Reader` is the entrance for recognition; `results` has the public types. This wing may import `search`, `engine`,
`text` and, for the timing of features, `audio.fbank`; it knows nothing of audio files.
"""
