"""Whisper's checkpoints (arXiv 2212.04356) in the formats of Hugging Face, OpenAI and CTranslate2.

No code in a file is ever executed.
"""
