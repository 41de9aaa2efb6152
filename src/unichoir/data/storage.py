"""Access to files by path or URL: the same few functions for a local disk, a web server and an object store.

Paths are opened directly. URLs (`https://`, `s3://`, `gs://` and others that fsspec supports) need fsspec, which the
extra `train` installs; S3 needs the extra `s3`. A part of a file is requested as a byte range, and the server sends
nothing else. Temporary failures, such as a lost connection or an overloaded server, are retried.

All failures are OSErrors whose `strerror` is the reason and whose `filename` is the location; a missing extra is a
UnichoirError. fsspec's file systems belong to the process that created them. They are looked up for every read, so
forked and spawned processes each have their own.
"""

import errno
import io
import os
import posixpath
import re
import time
import urllib.parse
from pathlib import Path
from typing import Any, BinaryIO

from unichoir.errors import UnichoirError

ATTEMPTS = 4
BACKOFF_SECONDS = 0.5
"""Delay before the second attempt in seconds. It doubles before each further attempt."""
BLOCK_BYTES = 1 << 23
"""Bytes that `open_binary` requests from a server at once."""
TIMEOUT_SECONDS = 60.0
"""Seconds within which a web server has to send something. The total time depends on the file size."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_EXTRAS = {"fsspec": "train", "aiohttp": "train", "s3fs": "s3"}
_PASSING_STATUS = frozenset({408, 425, 429})
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError, ValueError, TypeError)


def is_url(location: str) -> bool:
    """Return whether this is a URL rather than a path. A single letter before the colon is a Windows drive."""
    return _URL.match(location) is not None


def parent(location: str) -> str:
    """Return the folder of a file, without the URL's query."""
    if not is_url(location):
        return str(Path(location).parent)
    root, path = _split(location)
    return root + posixpath.dirname(path)


def join(folder: str, relative: str) -> str:
    """Resolve `relative` as named by a file in `folder`. Absolute paths and URLs stay the same."""
    if is_url(relative):
        return relative
    if not is_url(folder) or os.path.isabs(relative):
        return str(Path(folder) / relative)
    root, path = _split(folder)
    # It is a path, in which "#", "?" and "%" are ordinary characters. Object stores use names unchanged.
    name = urllib.parse.quote(relative) if root.startswith("http") else relative
    return root + posixpath.normpath(posixpath.join(path or "/", name))


def suffix(location: str) -> str:
    """Return the lower-case suffix of the file name with its dot, such as ".tar", or ""."""
    name = _split(location)[1] if is_url(location) else location
    return posixpath.splitext(name)[1].lower()


def exists(location: str) -> bool:
    """Return whether a file exists. Raises OSError if that can't be determined."""
    if not is_url(location):
        return Path(location).is_file()
    try:
        _fetch(location, 0, 1)
    except FileNotFoundError:
        return False
    return True


def read_bytes(location: str, offset: int | None = None, size: int | None = None) -> bytes:
    """Return the content of a file, or exactly `size` bytes from `offset` on (both or neither). Raises OSError."""
    if offset is None or size is None:
        return _fetch(location) if is_url(location) else Path(location).read_bytes()
    if not is_url(location):
        with Path(location).open("rb") as file:
            there = max(0, file.seek(0, io.SEEK_END) - offset)
            file.seek(offset)
            content = file.read(min(size, there))  # a list may name any size, and read() allocates it first
    else:
        content = _fetch(location, offset, size)
    if len(content) < size:
        raise OSError(errno.EIO, f"truncated: {size - len(content)} bytes are missing", location)
    return content


def open_binary(location: str) -> BinaryIO:
    """Open a file for reading from front to back. A URL is fetched in blocks. Raises OSError, now or later."""
    if not is_url(location):
        return Path(location).open("rb")
    return io.BufferedReader(_RangeReader(location), BLOCK_BYTES)


class _RangeReader(io.RawIOBase):
    """A URL as a seekable file, with one request for each read."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("the size is not known")
        self._position = offset + (self._position if whence == io.SEEK_CUR else 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        content = _fetch(self._url, self._position, len(buffer))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def _split(url: str) -> tuple[str, str]:
    """Split into ("https://host", "/folder/file"), without query and fragment for web servers."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() in ("http", "https"):
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}", slash + path


def _fetch(url: str, offset: int | None = None, size: int | None = None) -> bytes:
    """Return the complete file, or at most `size` bytes from `offset` on, fewer at the end of the file."""
    if size == 0:
        return b""
    filesystem, path = _filesystem(url)
    part = {} if offset is None or size is None else {"start": offset, "end": offset + size}
    # s3fs retries by itself.
    attempts = 1 if hasattr(filesystem, "retries") else ATTEMPTS
    for attempt in range(1, attempts + 1):
        try:
            content: bytes = filesystem.cat_file(path, **part)
            break
        except Exception as error:  # each file system has its own errors
            if part and _is_beyond_end(error):
                return b""
            if attempt == attempts or not _may_pass(error):
                raise _as_os_error(error, url) from None
            time.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))
    if size is not None and len(content) > size:
        raise OSError(errno.EIO, "the server does not support byte ranges", url)
    return content


def _filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system and the path within it."""
    try:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(url, **_options(url))
    except ImportError as error:
        # fsspec's message names the missing package; the module's name is in the original error.
        missing = error.name or str(getattr(error.__cause__, "name", ""))
        extra = _EXTRAS.get(missing.partition(".")[0])
        hint = f"pip install 'unichoir[{extra}]' (no {missing})" if extra else str(error)
        raise UnichoirError(f"{url}: reading it needs an extra: {hint}") from None
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), url) from None
    return filesystem, path


def _options(url: str) -> dict[str, Any]:
    scheme = url.partition("://")[0].lower()
    if scheme not in ("http", "https"):
        return {}
    import aiohttp
    import fsspec

    # The defaults fail for files that take more than five minutes, and ignore proxies from the environment.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_SECONDS, sock_read=TIMEOUT_SECONDS)
    chosen = fsspec.config.conf.get(scheme, {}).get("client_kwargs", {})
    return {"client_kwargs": {"timeout": timeout, "trust_env": True, **chosen}}


def _is_beyond_end(error: Exception) -> bool:
    """Return whether the range starts after the end of the file: HTTP's status, or S3's code as s3fs reports it."""
    return getattr(error, "status", None) == 416 or (
        isinstance(error, OSError) and error.errno == errno.EINVAL and "range" in str(error).lower()
    )


def _may_pass(error: Exception) -> bool:
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status >= 500 or status in _PASSING_STATUS
    return not (isinstance(error, _PERMANENT) or (isinstance(error, OSError) and error.errno == errno.EINVAL))


def _as_os_error(error: Exception, url: str) -> OSError:
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "No such file", url)
    if isinstance(error, PermissionError):
        return PermissionError(errno.EACCES, error.strerror or str(error) or "Permission denied", url)
    status = getattr(error, "status", None)
    if isinstance(status, int):
        reason = f"the server answers {status} {getattr(error, 'message', '')}".strip()
    else:
        reason = str(error) or type(error).__name__
    return OSError(errno.EIO, reason, url)
