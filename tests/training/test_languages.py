"""Training with language tokens: the decoders' input, and what is refused before training begins."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from unichoir.errors import ConfigError
from unichoir.network.asr_model import add_sos_eos, reverse_tokens
from unichoir.text.tokenizer import CharTokenizer, build_char_units
from unichoir.training.config import experiment_from_mapping
from unichoir.training.setup import prepare


def manifest(folder: Path, languages: list[str]) -> Path:
    entries = []
    for number, lang in enumerate(languages):
        wav = folder / f"{number}.wav"
        soundfile.write(wav, np.random.default_rng(number).normal(0, 0.1, 16000), 16000)
        entries.append({"key": f"u{number}", "wav": wav.name, "txt": "AB", **({"lang": lang} if lang else {})})
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def setup(folder: Path, languages: list[str], tokens: tuple[str, ...]):
    CharTokenizer(build_char_units(["AB"], languages=tokens)).save(folder / "tokenizer")
    config = {"tokenizer": str(folder / "tokenizer"), "model": "moe-tiny", "trainer": {"max_steps": 1}}
    path = manifest(folder, languages)
    return prepare(experiment_from_mapping(config, "test"), [path], [path])


def test_both_readers_label_with_the_language(tmp_path: Path) -> None:
    made = setup(tmp_path, ["en", "ar"], ("en", "ar"))
    a, b = made.tokenizer.encode("AB")
    for dataset in (made.train, made.dev):
        read = [dataset.reader.read(one, 0).tokens.tolist() for one in made.dev_corpus.utterances]
        assert read == [[made.tokenizer.languages["en"], a, b], [made.tokenizer.languages["ar"], a, b]]


def test_the_left_decoder_meets_the_language_first_and_the_right_decoder_last() -> None:
    tokens, lengths = torch.tensor([[9, 5, 6], [8, 5, -1]]), torch.tensor([3, 2])
    assert add_sos_eos(tokens, lengths, 2, 2)[0][:, :2].tolist() == [[2, 9], [2, 8]]
    _, targets = add_sos_eos(reverse_tokens(tokens, lengths), lengths, 2, 2)
    assert targets.tolist() == [[6, 5, 9, 2], [5, 8, 2, -1]]


@pytest.mark.parametrize(("lang", "named"), [("zh", "language 'zh'"), ("", "no language")])
def test_an_utterance_of_a_language_without_token_is_an_error(tmp_path: Path, lang: str, named: str) -> None:
    with pytest.raises(ConfigError, match=f"utterance 'u1': {named}, but the vocabulary has tokens for en, ar"):
        setup(tmp_path, ["en", lang], ("en", "ar"))


def test_without_language_tokens_languages_are_not_asked_for(tmp_path: Path) -> None:
    made = setup(tmp_path, ["en", ""], ())
    read = [made.train.reader.read(one, 0).tokens.tolist() for one in made.dev_corpus.utterances]
    assert read == [made.tokenizer.encode("AB")] * 2
