"""Quiet calls of lhotse's recipes, and conversion of their results to utterances."""

import contextlib
import importlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from unichoir.corpora.corpus import Entry, LeftOut
from unichoir.data.utterance import Utterance
from unichoir.errors import UnichoirError

Normalize = Callable[[str], str | None]


def lhotse_module(name: str) -> Any:
    """Return the module `lhotse.NAME`. Raises UnichoirError if lhotse isn't installed."""
    try:
        return importlib.import_module(f"lhotse.{name}")
    except ModuleNotFoundError as error:
        raise UnichoirError(f"corpora need lhotse: pip install 'unichoir[corpora]' (no {error.name})") from None


@contextlib.contextmanager
def quietly(what: str) -> Iterator[None]:
    """Wrap a call into lhotse.

    Its log is dropped, its progress bars only appear on terminals, and all its errors become an UnichoirError that says
    `what` failed.
    """
    root, disabled = logging.getLogger(), logging.root.manager.disable
    handler = logging.NullHandler()  # without one, logging would permanently install its own
    root.addHandler(handler)
    logging.disable(logging.WARNING)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", DeprecationWarning)
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            if not sys.stderr.isatty():
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            yield
    except UnichoirError:
        raise
    except Exception as error:  # recipes use assert, and pass on errors of their readers
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnichoirError(f"{what} failed: {reason}") from None
    finally:
        logging.disable(disabled)
        root.removeHandler(handler)


def entries(
    split: str, recordings: Any, supervisions: Iterable[Any], lang: str, normalize: Normalize
) -> Iterator[Entry]:
    """Yield lhotse's supervisions, each with its recording, as utterances of a split."""
    by_id = {recording.id: recording for recording in recordings}
    for supervision in supervisions:
        txt = normalize(supervision.text or "")
        if not txt:
            yield split, LeftOut(supervision.id, "no speech" if txt is None else "no transcript")
            continue
        recording = by_id[supervision.recording_id]
        whole = supervision.start == 0 and abs(supervision.duration - recording.duration) < 0.001
        yield (
            split,
            Utterance(
                key=supervision.id,
                wav=str(Path(recording.sources[0].source).absolute()),
                txt=txt,
                start=None if whole else supervision.start,
                end=None if whole else supervision.end,
                speaker="" if supervision.speaker in (None, "N/A") else supervision.speaker,
                lang=lang,
                duration=supervision.duration,
            ),
        )


def with_missing(found: Iterable[Entry], split: str, expected: Iterable[str], reason: str) -> Iterator[Entry]:
    """Yield `found`, and a LeftOut for each other key of the corpus, because recipes only log them."""
    keys = set()
    for entry in found:
        keys.add(entry[1].key)
        yield entry
    for key in expected:
        if key not in keys:
            yield split, LeftOut(key, reason)
