"""The models that WeNet has published: their training data, their error rates, and where their archives are.

Facts are those of WeNet's `docs/pretrained_models.md` and `examples/*/s0/README.md`
(https://github.com/wenet-e2e/wenet), and of the pages of the data. Nothing here was measured by this project.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unichoir.bundle.download import fetch_json
from unichoir.errors import DownloadError

LIST_VARIABLE = "UNICHOIR_WENET_LIST"
"""The variable with the address of the list of archives; empty: no list."""
ARCHIVES_VARIABLE = "UNICHOIR_WENET_ARCHIVES"
"""The variable with the address that the name of an archive is appended to, used if the list doesn't help."""
DEFAULT_LIST = "https://modelscope.cn/api/v1/datasets/wenet/wenet_pretrained_models/oss/tree"
DEFAULT_ARCHIVES = "https://wenet.org.cn/downloads?models=wenet&version="

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


@dataclass(frozen=True)
class Source:
    """Where an archive may be fetched; size in bytes, if the list says it."""

    url: str
    size: int | None = None


def split_pinned(name: str) -> tuple[str, str | None]:
    """Return the name without its pin, and the SHA-256 that `NAME@SHA256` pins the archive to, if any."""
    match = _PINNED.fullmatch(name)
    return (match["name"], match["sha256"]) if match else (name, None)


def is_published(name: str) -> bool:
    """Return whether this names a published model, pinned or not. A folder of the same name counts first."""
    return split_pinned(name)[0] in PUBLISHED and not os.path.exists(name)


def archive_sources(archive: str) -> tuple[list[Source], str]:
    """Return where to fetch an archive, best first, and why the list didn't help ("" if it did).

    The list is asked first. Raises DownloadError if nothing is configured.
    """
    listed, where = os.environ.get(LIST_VARIABLE, DEFAULT_LIST), os.environ.get(ARCHIVES_VARIABLE, DEFAULT_ARCHIVES)
    fallback = [Source(where + archive)] if where else []
    if not listed:
        if not fallback:
            raise DownloadError(f"{archive}: {LIST_VARIABLE} and {ARCHIVES_VARIABLE} are both empty")
        return fallback, ""
    try:
        source = _find(fetch_json(listed), archive, listed)
    except DownloadError as error:
        if not fallback:
            raise
        return fallback, str(error)
    return [source, *(Source(each.url, source.size) for each in fallback)], ""


def _find(content: Any, archive: str, listed: str) -> Source:
    entries = content.get("Data") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DownloadError(f"{listed}: not a list of archives (it has no 'Data')")
    for entry in entries:
        if isinstance(entry, dict) and entry.get("Key") == archive:
            url, size = entry.get("Url"), entry.get("Size")
            if not isinstance(url, str):
                raise DownloadError(f"{listed}: {archive} has no 'Url'")
            return Source(url, size if isinstance(size, int) and size > 0 else None)
    raise DownloadError(f"{listed}: does not list {archive}")
