"""From audio files to samples, from samples to features, and data augmentation.

Sources become samples in one way. `io.open_recording` turns a path, a stream or bytes into a seekable file, and
`decoders.open_sound` detects its format. The resulting `Sound` yields blocks of samples and reports what is missing.
`io.Recording.blocks` checks the blocks, mixes the channels and resamples.
"""
