"""Where the archives of published models are. A module of its own, since only a pull needs a client for the web."""

import os
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


@dataclass(frozen=True)
class Source:
    """Where an archive may be fetched; size in bytes, if the list says it."""

    url: str
    size: int | None = None


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
