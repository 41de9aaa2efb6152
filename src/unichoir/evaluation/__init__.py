"""Measure a model: error rates, calibration of confidence, use of the experts, and weights of a language model."""
