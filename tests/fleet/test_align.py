"""Alignment of manifests with a multilingual model."""

from pathlib import Path

import numpy as np
import soundfile
from tests.samples import SMALL_MODEL
from tests.tone_model import RATE, TOKENS, TONES, ToneBackend

from unichoir.audio.fbank import FbankConfig
from unichoir.data.utterance import Utterance
from unichoir.fleet.align import align
from unichoir.fleet.worker import ModelSource
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.text.tokenizer import CharTokenizer

WORD = 5


class Tones(ModelSource):
    """A model for English and Arabic that recognises tones."""

    def load(self) -> Recognizer:
        tokens = [*TOKENS[:3], "<|en|>", "<|ar|>", "H"]
        return Recognizer(ToneBackend(), CharTokenizer(tokens), FbankConfig())


def test_the_language_of_each_utterance_counts_unless_one_is_given(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(size=RATE, scale=1e-4)
    samples[RATE // 2 : RATE * 3 // 4] += 0.5 * np.sin(2 * np.pi * TONES[WORD] * np.arange(RATE // 4) / RATE)
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    wav = str(tmp_path / "a.wav")
    # With the vowels of Arabic script, which only its own spelling leaves out; de is not the model's affair.
    texts = {"en": "H", "ar": "H\u064e", "de": "H", "": "H"}
    utterances = [Utterance(key=f"{lang}-", wav=wav, txt=txt, lang=lang) for lang, txt in texts.items()]
    results = align(utterances, tmp_path / "each", Tones(str(SMALL_MODEL)), DecodingOptions())
    assert [result.get("language", result.get("error")) for result in results] == ["en", "ar", None, None]
    (word,) = results[1]["words"]
    assert abs(word["start_ms"] - 500) < 60
    results = align(utterances, tmp_path / "all", Tones(str(SMALL_MODEL)), DecodingOptions(language="ar"))
    assert [result.get("language", result.get("error")) for result in results] == ["ar"] * 4
