"""Files from web servers, by Python's own HTTP client: it knows proxies, redirects and TLS, and adds no package.

A download that stops, for whatever reason, goes on where it stopped, if the server knows byte ranges and says with an
ETag or a date that the file is the same (RFC 9110, sections 13.1.5 and 14). Otherwise it starts over. Beside the file
lies `FILE.json` with what the server said about it.
"""

import errno
import http.client
import json
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import asdict, dataclass
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from unichoir.bundle.messages import megabytes, say, showing
from unichoir.bundle.replacing import replace_text, writing
from unichoir.errors import DownloadError

ATTEMPTS = 4
"""Attempts in a row that bring nothing, after which a download fails."""
BACKOFF_SECONDS = 0.5
"""Delay before the second attempt in seconds. It doubles before each further attempt."""
TIMEOUT_SECONDS = 60.0
"""Seconds within which a server has to send something."""
LIST_ATTEMPTS, LIST_TIMEOUT_SECONDS = 2, 20.0
"""The same for `fetch_json`, for which there is another way."""
BLOCK_BYTES = 1 << 18
MAX_JSON_BYTES = 1 << 22
_PASSING_STATUS = frozenset({408, 425, 429})
_RANGE = re.compile(r"bytes (?:(?P<first>\d+)-\d+|\*)/(?P<total>\d+|\*)")


class _Retry(Exception):
    """A failure that may pass."""


@dataclass(frozen=True)
class _State:
    """What the server said about a file of which a part is here; validator: its strong ETag, or its date."""

    validator: str = ""


def download(url: str, target: Path, *, name: str, size: int | None = None) -> None:
    """Fetch a file, or the rest of it if `target` has a part. The folder must exist.

    name: for messages; size: in bytes, if known from elsewhere. A failure leaves the part, and the next call goes on
    from there. Raises DownloadError, naming the URL, if the server can't be reached, refuses, sends a web page, or
    offers another size; OSError for a full disk.
    """
    said: list[str] = []
    failures, delay = 0, BACKOFF_SECONDS
    while True:
        before = _length(target)
        try:
            _attempt(url, target, name, size, said)
            return
        except _Retry as error:
            brought = _length(target) > before
            failures = 1 if brought else failures + 1
            if failures >= ATTEMPTS:
                part = _length(target)
                rest = f"; {megabytes(part)} are kept, and the next attempt goes on from there" if part else ""
                raise DownloadError(f"{shown(url)}: {error}{rest}") from None
        if brought:
            delay = BACKOFF_SECONDS
        time.sleep(delay)
        delay *= 2


def fetch_json(url: str) -> Any:
    """Return the content of a small JSON file. Raises DownloadError."""
    for attempt in range(LIST_ATTEMPTS):
        try:
            with _open(url, {}, LIST_TIMEOUT_SECONDS) as response:
                content = response.read(MAX_JSON_BYTES + 1)
            if len(content) > MAX_JSON_BYTES:
                raise DownloadError(f"{shown(url)}: more than {megabytes(MAX_JSON_BYTES)}, so not a list")
            return json.loads(content)
        except (ValueError, RecursionError):
            raise DownloadError(f"{shown(url)}: not JSON") from None
        except (_Retry, OSError, http.client.HTTPException) as error:
            if attempt + 1 == LIST_ATTEMPTS:
                raise DownloadError(f"{shown(url)}: {_reason(error)}") from None
        time.sleep(BACKOFF_SECONDS * 2**attempt)
    raise AssertionError("unreachable")


def discard(target: Path) -> None:
    """Delete a download, complete or not."""
    target.unlink(missing_ok=True)
    _state_file(target).unlink(missing_ok=True)


def is_web(text: str) -> bool:
    """Return whether this is the URL of a web server."""
    return text.lower().startswith(("https://", "http://"))


def shown(url: str) -> str:
    """Return a URL for messages, without what may be a secret: a password, and a signature in the query."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    query = parts.query if len(parts.query) <= 100 and "sign" not in parts.query.lower() else "..."
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, query, ""))


def _attempt(url: str, target: Path, name: str, size: int | None, said: list[str]) -> None:
    """Fetch what is missing. Raises _Retry if it may work later."""
    validator, begin = _read_state(target).validator, _length(target)
    if not validator:
        begin = 0
    headers = {"Range": f"bytes={begin}-", "If-Range": validator} if begin else {}
    try:
        response = _open(url, headers)
    except urllib.error.HTTPError as error:
        # The server has no bytes behind ours: the file is complete, or is another one.
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not begin:
            raise DownloadError(f"{shown(url)}: {_reason(error)}") from None
        if _content_range(error.headers)[1] == begin and size in (None, begin):
            return
        discard(target)
        raise _Retry("the server has a shorter file than before") from None
    with response:
        kind = response.headers.get_content_type() if "Content-Type" in response.headers else ""
        if kind in ("text/html", "application/xhtml+xml"):
            raise DownloadError(f"{shown(url)}: the server sends a web page ({kind}), not an archive")
        begin, total = _place(response, target, begin, validator)
        if size is not None and total is not None and total != size:
            raise DownloadError(f"{shown(url)}: the server offers {total} bytes, the list says {size}")
        total = total if total is not None else size
        if not begin:
            discard(target)
            replace_text(_state_file(target), json.dumps(asdict(_State(_validator(response.headers)))))
        if not said:
            from_where = f", of which {megabytes(begin)} are here already" if begin else ""
            of_size = f" ({megabytes(total)}{from_where})" if total else " (of unknown size)"
            say(f"{name}: downloading {shown(url)}{of_size}")
        else:
            say(f"{name}: {said[-1]}; " + (f"going on at {megabytes(begin)}" if begin else "starting over"))
        try:
            done = _copy(response, target, begin, total, name)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.filename is not None:
                raise  # the disk
            said.append(_reason(error))
            raise _Retry(_reason(error)) from None
    if total is not None and done != total:
        said.append(f"the connection broke off after {megabytes(done)} of {megabytes(total)}")
        raise _Retry(said[-1])


def _place(response: Any, target: Path, begin: int, validator: str) -> tuple[int, int | None]:
    """Return where the content begins in the file, and the size of the whole file, if the server says it."""
    headers = response.headers
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        first, total = _content_range(headers)
        if not begin or first != begin or _validator(headers) not in ("", validator):
            discard(target)
            raise _Retry("the server sends another part than the one asked for")
        return begin, total
    length = headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _copy(response: Any, target: Path, begin: int, total: int | None, name: str) -> int:
    """Append the content to the file and return the file's new size."""
    done = begin
    with writing(target), target.open("ab") as file, showing(name, begin, total) as show:
        while block := response.read(BLOCK_BYTES):
            try:
                file.write(block)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(target)) from error
            done += len(block)
            show(done)
    return done


def _open(url: str, headers: dict[str, str], timeout: float = TIMEOUT_SECONDS) -> Any:
    """Return the response. Raises _Retry for failures that may pass, HTTPError 416, and DownloadError."""
    if not is_web(url):
        raise DownloadError(f"{shown(url)}: not the address of a web server (https://...)")
    own = {"User-Agent": f"unichoir/{metadata.version('unichoir')}", "Accept-Encoding": "identity"}
    try:
        request = urllib.request.Request(url, headers={**own, **headers})
        return urllib.request.build_opener(_Redirects).open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        if error.code >= 500 or error.code in _PASSING_STATUS:
            raise _Retry(_reason(error)) from None
        raise DownloadError(f"{shown(url)}: {_reason(error)}") from None
    except (ValueError, http.client.InvalidURL) as error:
        raise DownloadError(f"{shown(url)}: {error}") from None
    except (OSError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, (socket.gaierror, ssl.SSLCertVerificationError)):
            raise DownloadError(f"{shown(url)}: {_reason(error)}") from None
        raise _Retry(_reason(error)) from None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to web servers, but not from an encrypted connection to one that isn't."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        """Return the next request, as urllib requires. Raises DownloadError."""
        lost = req.full_url.lower().startswith("https://") and not newurl.lower().startswith("https://")
        if lost or not is_web(newurl):
            raise DownloadError(f"{shown(req.full_url)}: leads to {shown(newurl)}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}".strip()
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "the server does not answer"
    if isinstance(cause, OSError) and cause.errno == errno.ECONNRESET:
        return "the connection broke off"
    return (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__) if cause else "no connection"


def _validator(headers: Any) -> str:
    """Return what identifies the file's version. Weak tags don't promise the same bytes."""
    tag = headers.get("ETag", "")
    if tag and not tag.startswith("W/"):
        return str(tag)
    return "" if tag else str(headers.get("Last-Modified", ""))


def _content_range(headers: Any) -> tuple[int | None, int | None]:
    match = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if match is None:
        return None, None
    first, total = match["first"], match["total"]
    return int(first) if first else None, None if total == "*" else int(total)


def _length(target: Path) -> int:
    return target.stat().st_size if target.exists() else 0


def _state_file(target: Path) -> Path:
    return target.with_name(target.name + ".json")


def _read_state(target: Path) -> _State:
    try:
        content = json.loads(_state_file(target).read_text(encoding="utf-8"))
        return _State(str(content["validator"]))
    except (OSError, ValueError, KeyError, TypeError):
        return _State()
