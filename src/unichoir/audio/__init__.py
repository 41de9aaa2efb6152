"""Audio files to samples, samples to features, and their augmentation."""
