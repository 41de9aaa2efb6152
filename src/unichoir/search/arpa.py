"""Opening n-gram models with KenLM: ARPA files, plain or compressed with gzip, and KenLM's own binaries.

KenLM checks an ARPA file, but not before it has made room for as many n-grams as the file promises, and its Python
module does not say which words a model has. So the header and the unigrams are read here first.
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
"""What KenLM's wheels are compiled for."""
BINARY_MAGIC = b"mmap lm http://kheafield.com/code"
_GZIP_MAGIC = b"\x1f\x8b"
_BYTES = frozenset(BYTE_TOKENS)
_COUNT = re.compile(rb"ngram (\d{1,3})=\s*(\d{1,18})")


def open_model(path: str) -> tuple[Any, list[str]]:
    """KenLM's model of a file, and its words without <s>, </s>, <unk> and the like, but with the tokens of bytes.

    Raises CheckpointError naming the file, and its line where that is known, for one that is missing, truncated,
    malformed, of an order that is not 2 to 6 or without words; UnichoirError without KenLM.
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
    """Without <s>, </s>, <unk> and the like, but with the tokens of bytes. Raises CheckpointError if none are left."""
    spoken = [word for word in words if word in _BYTES or not (word.startswith("<") and word.endswith(">"))]
    if not spoken:
        raise CheckpointError(f"{path}: a language model without words")
    return spoken


class KenlmNgram:
    """The model of a file that KenLM reads. Raises as `open_model` does."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._model, self.words = open_model(path)
        self._state = import_kenlm().State
        self.order: int = self._model.order

    def begin(self) -> Any:
        """KenLM's state after <s>. States are never changed."""
        state = self._state()
        self._model.BeginSentenceWrite(state)
        return state

    def score(self, state: Any, word: str) -> tuple[Any, float, bool]:
        """The state after `word`, its log10 probability, and whether the model knows it."""
        after = self._state()
        found = self._model.BaseFullScore(state, word, after)
        return after, found.log_prob, not found.oov


def import_kenlm() -> Any:
    """The module. Raises UnichoirError saying what to install."""
    try:
        import kenlm
    except ImportError:
        raise UnichoirError("a language model needs KenLM: pip install 'unichoir[lm]'") from None
    return kenlm


@contextmanager
def _plain_file(path: str) -> Iterator[tuple[BinaryIO, str]]:
    """The file open and its path; of a compressed one a temporary copy, since not every KenLM can decompress."""
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
    """KenLM writes the words at the end of its file, by id, of which 0 is <unk>; each ends with a zero byte."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.rfind(b"<unk>\0")
        if start < 0 or content[-1:] != b"\0":
            raise CheckpointError(f"{path}: a KenLM binary that is truncated or lacks its words: build it anew")
        return content[start:].decode("utf-8", "replace").rstrip("\0").split("\0")


def _arpa_words(file: BinaryIO, path: str) -> list[str]:
    """The words of the unigrams; checks the header and them."""
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
    """Go on behind the line `wanted`, before which only blank lines and comments may stand."""
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
    """What KenLM means, with the line instead of the byte."""
    byte = re.search(r"[Bb]yte:? (\d+)", message)
    where = path
    if byte is not None:
        file.seek(0)
        # Before a number that it cannot parse, else behind what it has read, which may be the end of the line.
        size = int(byte[1]) - ("Could not parse" not in message)
        number = file.read(max(size, 0)).count(b"\n") + 1
        where = f"{path}, line {number}"
    message = re.sub(r"^Cannot read model '.*?' \(|\)$", "", message, flags=re.DOTALL)
    message = re.sub(r"^.* threw \w+(?: because `.*?')?\. ", "", message, flags=re.DOTALL)
    message = re.sub(r"(?: at byte \d+)? Byte: \d+|[^ ]* in file .*", "", message)
    return f"{where}: {' '.join(message.split())}"


def _shown(line: bytes) -> str:
    return repr(line.strip()[:60].decode("utf-8", "replace"))
