"""Work on many recordings, with folders of results, and transcription and serving on many machines with Ray."""
