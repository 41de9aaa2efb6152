"""Many recordings into folders of results, and transcription and serving on many machines with Ray."""
