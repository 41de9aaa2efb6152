"""All that computes: ONNX Runtime and PyTorch behind one Backend, from features to encoder outputs."""
