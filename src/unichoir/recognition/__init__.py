"""Recognition of recordings and streams, with the cutting of long audio, endpoints, and forced alignment.

`Recognizer` holds the parts of a model. `recordings` takes a recording from samples to a transcript; `streams` takes
live audio to results. This wing may import everything below it: `audio`, `engine`, `search`, `transcript`, `text`.
"""
