"""Open n-gram models with KenLM: ARPA files, plain or compressed with gzip, and KenLM's own binaries.

KenLM allocates memory for the number of n-grams that an ARPA file claims before it checks the file, and its Python
module does not list the words of a model. This module therefore reads the header and the unigrams first.
"""

import gzip
import math
import mmap
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, BinaryIO

from unichoir.errors import CheckpointError, UnichoirError
from unichoir.text.units import BYTE_TOKENS

MAX_ORDER = 6
"""The highest order that KenLM's wheels are compiled for."""
BINARY_MAGIC = b"mmap lm http://kheafield.com/code"
_GZIP_MAGIC = b"\x1f\x8b"
_BYTES = frozenset(BYTE_TOKENS)
_COUNT = re.compile(rb"ngram (\d{1,3})=\s*(\d{1,18})")


def open_model(path: str) -> tuple[Any, list[str]]:
    """Open a file with KenLM; return the model and its words (`spoken_words`).

    Raises CheckpointError, with the file and if possible the line, for a file that is missing, truncated or malformed,
    without words, or of an order outside 2 to 6; UnichoirError if KenLM is not installed.
    """
    kenlm = import_kenlm()
    config = kenlm.Config()
    config.show_progress, config.arpa_complain = False, kenlm.ARPALoadComplain.NONE
    with _plain_file(path) as (file, plain):
        words = _binary_words(file, path) if file.read(len(BINARY_MAGIC)) == BINARY_MAGIC else _arpa_words(file, path)
        words = spoken_words(words, path)
        try:
            model = kenlm.Model(plain, config)
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            raise CheckpointError(_reason(str(error), file, path)) from None
    return model, words


def spoken_words(words: Iterable[str], path: str) -> list[str]:
    """Return the words without <s>, </s>, <unk> and the like, but with byte tokens.

    Raises CheckpointError if none are left.
    """
    spoken = [word for word in words if word[:1] != "<" or word[-1:] != ">" or word in _BYTES]
    if not spoken:
        raise CheckpointError(f"{path}: a language model without words")
    return spoken


class KenlmNgram:
    """An n-gram model that KenLM reads. Raises as `open_model` does."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._model, self.words = open_model(path)
        self._state = import_kenlm().State
        self.order: int = self._model.order

    def begin(self) -> Any:
        """Return KenLM's state after <s>. States are immutable."""
        state = self._state()
        self._model.BeginSentenceWrite(state)
        return state

    def score(self, state: Any, word: str) -> tuple[Any, float, bool]:
        """Return the state after `word`, its log10 probability, and whether the model knows the word."""
        after = self._state()
        found = self._model.BaseFullScore(state, word, after)
        return after, found.log_prob, not found.oov


def import_kenlm() -> Any:
    """Import KenLM. Raises UnichoirError with the package to install."""
    try:
        import kenlm
    except ImportError:
        raise UnichoirError("a language model needs KenLM: pip install 'unichoir[lm]'") from None
    return kenlm


@contextmanager
def _plain_file(path: str) -> Iterator[tuple[BinaryIO, str]]:
    """Open a file and yield it with its path; a compressed file is copied, because not every KenLM can decompress."""
    try:
        with open(path, "rb") as file:
            if file.read(2) != _GZIP_MAGIC:
                file.seek(0)
                yield file, path
                return
        with tempfile.TemporaryDirectory() as folder, open(os.path.join(folder, "lm.arpa"), "w+b") as copy:
            try:
                with gzip.open(path) as compressed:
                    shutil.copyfileobj(compressed, copy, 1 << 20)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise CheckpointError(f"{path}: truncated or damaged ({error})") from None
            copy.flush()
            copy.seek(0)
            yield copy, copy.name
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None


def _binary_words(file: BinaryIO, path: str) -> list[str]:
    """Return the words of a KenLM binary: its last part, in the order of ids from 0 (<unk>), each with a zero byte."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.rfind(b"<unk>\0")
        if start < 0 or content[-1:] != b"\0":
            raise CheckpointError(f"{path}: a KenLM binary that is truncated or has no words: build it again")
        return content[start:].decode("utf-8", "replace").rstrip("\0").split("\0")


def _arpa_words(file: BinaryIO, path: str) -> list[str]:
    """Return the words of the unigrams; check the header and the unigrams."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    lines = enumerate(file, start=1)
    _expect(lines, b"\\data\\", path)
    counts: list[int] = []
    for number, line in lines:
        match = _COUNT.fullmatch(line.strip())
        if match is None:
            if line.strip():
                raise CheckpointError(f"{path}, line {number}: expected 'ngram N=COUNT', found {_shown(line)}")
            break
        order, count = int(match[1]), int(match[2])
        if order != len(counts) + 1 or order > MAX_ORDER:
            raise CheckpointError(f"{path}, line {number}: orders must be 1, 2, ... up to {MAX_ORDER}, found {order}")
        if count > size:
            raise CheckpointError(f"{path}, line {number}: {count} n-grams do not fit in {size} bytes")
        counts.append(count)
    _expect(lines, b"\\1-grams:", path)
    if not counts:
        raise CheckpointError(f"{path}: no counts of n-grams below \\data\\")
    if len(counts) == 1:
        raise CheckpointError(f"{path}: a model of single words; KenLM reads orders 2 to {MAX_ORDER}")
    words = [_unigram(line, f"{path}, line {number}") for number, line in islice(lines, counts[0])]
    if len(words) < counts[0]:
        raise CheckpointError(f"{path}: truncated, {len(words)} of {counts[0]} unigrams")
    return words


def _expect(lines: Iterator[tuple[int, bytes]], wanted: bytes, path: str) -> None:
    """Skip to the line `wanted`; only blank lines and comments may come before it."""
    for number, line in lines:
        if line.strip() == wanted:
            return
        if line.strip() and not line.startswith(b"#"):
            raise CheckpointError(f"{path}, line {number}: expected {wanted.decode()}, found {_shown(line)}")
    raise CheckpointError(f"{path}: no {wanted.decode()}: not an ARPA file, or truncated")


def _unigram(line: bytes, where: str) -> str:
    fields = line.split()
    try:
        numbers = [float(fields[0]), *map(float, fields[2:])]
        word = fields[1].decode("utf-8")
    except (ValueError, IndexError):
        numbers, word = [], ""
    if not 1 <= len(numbers) <= 2 or not all(math.isfinite(number) for number in numbers):
        raise CheckpointError(
            f"{where}: expected a log-probability, a word and perhaps a backoff, found {_shown(line)}"
        )
    return word


def _reason(message: str, file: BinaryIO, path: str) -> str:
    """Return KenLM's message with a line number instead of a byte position."""
    byte = re.search(r"[Bb]yte:? (\d+)", message)
    where = path
    if byte is not None:
        file.seek(0)
        # The byte before a number that it cannot parse; otherwise the byte after the text that it read.
        size = int(byte[1]) - ("Could not parse" not in message)
        number = file.read(max(size, 0)).count(b"\n") + 1
        where = f"{path}, line {number}"
    message = re.sub(r"^Cannot read model '.*?' \(|\)$", "", message, flags=re.DOTALL)
    message = re.sub(r"^.* threw \w+(?: because `.*?')?\. ", "", message, flags=re.DOTALL)
    message = re.sub(r"(?: at byte \d+)? Byte: \d+|[^ ]* in file .*", "", message)
    return f"{where}: {' '.join(message.split())}"


def _shown(line: bytes) -> str:
    return repr(line.strip()[:60].decode("utf-8", "replace"))
