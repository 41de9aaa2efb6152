"""Manifests, examples and batches."""
