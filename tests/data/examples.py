"""Examples for training, read with a tokenizer of letters."""

import numpy as np

from unichoir.data.dataset import DataConfig, ExampleReader
from unichoir.data.features import FeatureReader

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven"]


class Letters:
    """A tokenizer with one token for each character, from 3 on."""

    def encode(self, text):
        return [3 + ord(character) % 64 for character in text]


def reader_of(utterances, augment=None, cache_dir=None, seed=0, **data):
    features = FeatureReader(cache_dir=cache_dir)
    return ExampleReader(
        utterances, tokenizer=Letters(), features=features, data=DataConfig(**data), augment=augment, seed=seed
    )


def assert_same(first, second):
    assert first.key == second.key
    np.testing.assert_array_equal(first.feats, second.feats)
    np.testing.assert_array_equal(first.tokens, second.tokens)
