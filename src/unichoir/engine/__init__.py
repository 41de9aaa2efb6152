"""Engines that run a model: ONNX Runtime and PyTorch behind one `Backend`, features in, encoder outputs out.

This wing knows nothing of searches, texts or results. It may import `network`, `audio.fbank` for the configuration of
features, and `bundle`.
"""
