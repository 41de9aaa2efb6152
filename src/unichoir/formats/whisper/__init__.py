"""Whisper's checkpoints (arXiv 2212.04356), as Hugging Face, OpenAI and CTranslate2 write them. No code of a file is
ever run."""
