"""The verbs: recordings, streams, endpoints, cutting of long audio, forced alignment."""
