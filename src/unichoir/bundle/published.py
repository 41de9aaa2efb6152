"""The models that WeNet has published: their training data, their error rates, and the files of a checkpoint.

Facts are those of WeNet's `docs/pretrained_models.md` and `examples/*/s0/README.md`
(https://github.com/wenet-e2e/wenet), and of the pages of the data. Nothing here was measured by this project.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

NEEDED = ("train.yaml", "final.pt")
WENET_FILES = (*NEEDED, "units.txt", "*_units.txt", "words.txt", "lang_char.txt", "global_cmvn", "*.model", "README.md")
"""Patterns of the files of a WeNet checkpoint that are read; they lie in one folder."""
NOT_STATED = "not stated"
_PINNED = re.compile(r"(?P<name>[^@]+)@(?P<sha256>[0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True)
class ErrorRates:
    """Published error rates in percent, with the published digits: words for English, characters for Mandarin."""

    test_set: str
    full: str
    """With the whole recording as context."""
    streaming: str
    """With chunks of `PublishedModel.chunk_size` encoder frames."""


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A published model and its training data."""

    archive: str
    architecture: str
    language: str
    data: str
    hours: str
    licence: str
    """Of the training data, which WeNet says the model follows."""
    rates: tuple[ErrorRates, ...]
    decoding: str
    chunk_size: int
    megabytes: int
    """Approximate size of the archive, as listed for a mirror (`openspeech/wenet-models` on the Hugging Face hub)."""

    @property
    def metric(self) -> str:
        """WER or CER."""
        return "WER" if self.language == "en" else "CER"

    @property
    def scores(self) -> str:
        """The error rates on one line: whole recordings / chunks."""
        return f"{self.metric} % " + ", ".join(f"{e.test_set} {e.full} / {e.streaming}" for e in self.rates)

    @property
    def conditions(self) -> str:
        """What the error rates were measured with."""
        return f"whole recordings / chunks of {self.chunk_size} encoder frames; {self.decoding}"


_RESCORING = "attention rescoring"
PUBLISHED: Mapping[str, PublishedModel] = {
    "wenet/aishell": PublishedModel(
        archive="aishell_u2pp_conformer_exp.tar.gz",
        architecture="U2++ Conformer",
        language="zh",
        data="AISHELL-1",
        hours="151",
        licence="Apache-2.0",
        rates=(ErrorRates(test_set="test", full="4.63", streaming="5.05"),),
        decoding=_RESCORING,
        chunk_size=16,
        megabytes=191,
    ),
    "wenet/aishell2": PublishedModel(
        archive="aishell2_u2pp_conformer_exp.tar.gz",
        architecture="U2++ Conformer",
        language="zh",
        data="AISHELL-2",
        hours="about 1000",
        licence="academic use, on application",
        rates=(ErrorRates(test_set=f"(set {NOT_STATED})", full="5.39", streaming="5.78"),),
        decoding=_RESCORING,
        chunk_size=16,
        megabytes=196,
    ),
    "wenet/gigaspeech": PublishedModel(
        archive="gigaspeech_u2pp_conformer_exp.tar.gz",
        architecture="U2++ Conformer",
        language="en",
        data="GigaSpeech XL",
        hours="10000",
        licence="non-commercial research and education",
        rates=(ErrorRates(test_set="test", full="11.3", streaming="12.5"),),
        decoding=f"decoding mode {NOT_STATED}",
        chunk_size=8,
        megabytes=504,
    ),
    "wenet/librispeech": PublishedModel(
        archive="librispeech_u2pp_conformer_exp.tar.gz",
        architecture="U2++ Conformer",
        language="en",
        data="LibriSpeech",
        hours="960",
        licence="CC-BY-4.0",
        rates=(
            ErrorRates(test_set="test-clean", full="3.32", streaming="3.80"),
            ErrorRates(test_set="test-other", full="8.67", streaming="10.38"),
        ),
        decoding=_RESCORING,
        chunk_size=16,
        megabytes=195,
    ),
    "wenet/multi_cn": PublishedModel(
        archive="multi_cn_unified_conformer_exp.tar.gz",
        architecture="U2 Conformer, one decoder",
        language="zh",
        data="Aidatatang, AISHELL-1, AISHELL-2, MagicData, Primewords, ST-CMDS, TAL ASR, THCHS-30",
        hours="about 2800",
        licence="those of eight corpora",
        rates=(
            ErrorRates(test_set="AISHELL-1", full="1.65", streaming="2.01"),
            ErrorRates(test_set="AISHELL-2", full="5.27", streaming="5.78"),
            ErrorRates(test_set="MagicData", full="2.71", streaming="3.23"),
            ErrorRates(test_set="THCHS-30", full="9.90", streaming="10.74"),
        ),
        decoding=_RESCORING,
        chunk_size=16,
        megabytes=202,
    ),
    "wenet/wenetspeech": PublishedModel(
        archive="wenetspeech_u2pp_conformer_exp.tar.gz",
        architecture="U2++ Conformer",
        language="zh",
        data="WenetSpeech",
        hours="10000",
        licence="CC BY 4.0, non-commercial",
        rates=(
            ErrorRates(test_set="Test_Net", full="9.26", streaming="10.22"),
            ErrorRates(test_set="Test_Meeting", full="17.34", streaming="18.11"),
        ),
        decoding=_RESCORING,
        chunk_size=16,
        megabytes=499,
    ),
}
"""The models by name, in alphabetical order."""


def split_pinned(name: str) -> tuple[str, str | None]:
    """Return the name without its pin, and the SHA-256 that `NAME@SHA256` pins the archive to, if any."""
    match = _PINNED.fullmatch(name)
    return (match["name"], match["sha256"]) if match else (name, None)


def is_published(name: str) -> bool:
    """Return whether this names a published model, pinned or not. A folder of the same name counts first."""
    return split_pinned(name)[0] in PUBLISHED and not os.path.exists(name)
