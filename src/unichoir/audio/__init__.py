"""Audio files to samples, samples to features, and their augmentation.

One way leads from a source to samples. `io.open_recording` makes a path, a stream or bytes a file that can be gone back
in; `decoders.open_sound` finds out what it is; that `Sound` gives blocks of samples and says what is missing;
`io.Recording.blocks` checks them, mixes the channels and resamples.
"""
