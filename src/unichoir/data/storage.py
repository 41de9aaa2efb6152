"""Files by path or by URL: the same few verbs for a local disk, a web server and an object store.

Paths are opened as they are. URLs (`https://`, `s3://`, `gs://`, ... whatever fsspec knows) need fsspec, which comes
with the extra `train`; S3 needs the extra `s3`. A part of a file is asked for as a byte range, and nothing else is
sent. Failures that may pass, such as a connection lost or an overloaded server, are tried again.

Everything that goes wrong is an OSError whose `strerror` is the reason and whose `filename` is the location, and an
UnichoirError where only an extra is missing. File systems of fsspec belong to the process that made them; they are
looked up anew for every read, so that forked and spawned processes each have their own.
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
"""Before the second attempt; twice as long before each further one."""
BLOCK_BYTES = 1 << 23
"""What `open_binary` asks a server for at once."""
TIMEOUT_SECONDS = 60.0
"""For a web server to send something; how long a whole file takes depends on its size."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_EXTRAS = {"fsspec": "train", "aiohttp": "train", "s3fs": "s3"}
_PASSING_STATUS = frozenset({408, 425, 429})
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError, ValueError, TypeError)


def is_url(location: str) -> bool:
    """Whether it is a URL rather than a path; one letter before the colon is a drive of Windows."""
    return _URL.match(location) is not None


def parent(location: str) -> str:
    """The folder of a file, without the URL's query."""
    if not is_url(location):
        return str(Path(location).parent)
    root, path = _split(location)
    return root + posixpath.dirname(path)


def join(folder: str, relative: str) -> str:
    """What a file in `folder` means by `relative`; absolute paths and URLs stay as they are."""
    if is_url(relative):
        return relative
    if not is_url(folder) or os.path.isabs(relative):
        return str(Path(folder) / relative)
    root, path = _split(folder)
    # It is a path, in which "#", "?" and "%" are ordinary characters; object stores take names as they are.
    name = urllib.parse.quote(relative) if root.startswith("http") else relative
    return root + posixpath.normpath(posixpath.join(path or "/", name))


def suffix(location: str) -> str:
    """The ending of the file's name with its dot, in lower case, such as ".tar"; "" where there is none."""
    name = _split(location)[1] if is_url(location) else location
    return posixpath.splitext(name)[1].lower()


def exists(location: str) -> bool:
    """Whether there is such a file. Raises OSError where that cannot be told."""
    if not is_url(location):
        return Path(location).is_file()
    try:
        _fetch(location, 0, 1)
    except FileNotFoundError:
        return False
    return True


def read_bytes(location: str, offset: int | None = None, size: int | None = None) -> bytes:
    """The content of a file, or exactly `size` bytes from `offset` on (both or neither). Raises OSError."""
    if offset is None or size is None:
        return _fetch(location) if is_url(location) else Path(location).read_bytes()
    if not is_url(location):
        with Path(location).open("rb") as file:
            there = max(0, file.seek(0, io.SEEK_END) - offset)
            file.seek(offset)
            content = file.read(min(size, there))  # a list may name any size, and reading makes room for it first
    else:
        content = _fetch(location, offset, size)
    if len(content) < size:
        raise OSError(errno.EIO, f"truncated: {size - len(content)} more bytes should follow", location)
    return content


def open_binary(location: str) -> BinaryIO:
    """For reading from front to back: of a URL one block after another is fetched. Raises OSError, then or later."""
    if not is_url(location):
        return Path(location).open("rb")
    return io.BufferedReader(_RangeReader(location), BLOCK_BYTES)


class _RangeReader(io.RawIOBase):
    """A URL as a file that can be read and sought, one request for each read."""

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
    """("https://host", "/folder/file"), without query and fragment where a web server would not see them as names."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() in ("http", "https"):
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}", slash + path


def _fetch(url: str, offset: int | None = None, size: int | None = None) -> bytes:
    """The whole file, or at most `size` bytes from `offset` on: fewer where the file ends."""
    if size == 0:
        return b""
    filesystem, path = _filesystem(url)
    part = {} if offset is None or size is None else {"start": offset, "end": offset + size}
    # s3fs tries again by itself.
    attempts = 1 if hasattr(filesystem, "retries") else ATTEMPTS
    for attempt in range(1, attempts + 1):
        try:
            content: bytes = filesystem.cat_file(path, **part)
            break
        except Exception as error:  # each file system has its own kinds
            if part and _is_beyond_end(error):
                return b""
            if attempt == attempts or not _may_pass(error):
                raise _as_os_error(error, url) from None
            time.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))
    if size is not None and len(content) > size:
        raise OSError(errno.EIO, "the server sends whole files where a range of bytes is asked for", url)
    return content


def _filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system and the path within it."""
    try:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(url, **_options(url))
    except ImportError as error:
        # fsspec tells in words what is missing; the module's name is in the error from which that was raised.
        missing = error.name or str(getattr(error.__cause__, "name", ""))
        extra = _EXTRAS.get(missing.partition(".")[0])
        hint = f"pip install 'unichoir[{extra}]' (no {missing})" if extra else str(error)
        raise UnichoirError(f"{url}: reading it needs more than a plain install: {hint}") from None
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), url) from None
    return filesystem, path


def _options(url: str) -> dict[str, Any]:
    scheme = url.partition("://")[0].lower()
    if scheme not in ("http", "https"):
        return {}
    import aiohttp
    import fsspec

    # By default a file that takes more than five minutes fails, and proxies of the environment are not used.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_SECONDS, sock_read=TIMEOUT_SECONDS)
    chosen = fsspec.config.conf.get(scheme, {}).get("client_kwargs", {})
    return {"client_kwargs": {"timeout": timeout, "trust_env": True, **chosen}}


def _is_beyond_end(error: Exception) -> bool:
    """A range that starts after the end of the file: HTTP's status, or S3's word for it as s3fs passes it on."""
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
