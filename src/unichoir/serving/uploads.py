"""Reading of a multipart form with a file, in pieces. Limits apply before the whole form has arrived."""

import errno
import io
import tempfile
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, cast

import anyio
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from unichoir.serving.errors import ApiError, shown
from unichoir.serving.hotwords import MAX_PHRASE_BYTES
from unichoir.serving.settings import Settings

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MEMORY_BYTES = 1 << 20
"""Larger files go to the disk."""
MAX_FIELDS = 32
KEYWORDS_FIELD = "keywords[]"
MAX_FIELD_BYTES = 64 << 10
"""Size of all fields together, without keywords."""
MAX_OVERHEAD_BYTES = 256 << 10
"""Size of the rest of a form, beside the file and keywords: fields, headers of parts, boundaries."""
MAX_HEADER_BYTES = 256
"""Mean size of the headers and the boundary of a keyword's part."""
LEAST_RATE, GRACE_SECONDS, MAX_UPLOAD_SECONDS = 4096, 10.0, 1800.0
"""Least bytes per second of an upload, seconds before this rate applies, and the longest time of an upload."""
FILE_FIELD = "file"


class UploadedFile:
    """The bytes of a file: in memory up to 1 MiB, else in an unnamed temporary file, gone with the process."""

    def __init__(self, name: str) -> None:
        self.name = shown(name.strip()) or "the file"
        """The client's name of the file, safe for messages."""
        self.size = 0
        self._memory = bytearray()
        self._file: BinaryIO | None = None

    @property
    def source(self) -> BinaryIO:
        """The file for reading. Don't write after this."""
        if self._file is None:
            return io.BytesIO(self._memory)
        self._file.seek(0)
        return self._file

    def fits_memory(self, num_bytes: int) -> bool:
        """Return whether this many more bytes fit into memory."""
        return self._file is None and self.size + num_bytes <= MEMORY_BYTES

    def write(self, data: bytes) -> None:
        """Append data. Waits for the disk unless `fits_memory`."""
        in_memory = self.fits_memory(len(data))
        self.size += len(data)
        if in_memory:
            self._memory += data
            return
        if self._file is None:
            self._file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - until `close`
            self._file.write(self._memory)
            self._memory.clear()
        self._file.write(data)

    def close(self) -> None:
        """Delete the content."""
        self._memory.clear()
        if self._file is not None:
            with suppress(OSError):  # flushing to a full disk
                self._file.close()


class Form:
    """A received form: the fields, each with all of its values in order, and the file."""

    def __init__(self) -> None:
        self.fields: dict[str, list[str]] = {}
        self.file: UploadedFile | None = None


@asynccontextmanager
async def receive_form(request: Request, names: Collection[str], settings: Settings) -> AsyncIterator[Form]:
    """Receive a form with fields called `names` and a file called `file`. The file is deleted with the context.

    Names may end in brackets, as those of lists (`include[]`) and objects do.

    Raises:
        ApiError: 415 for another content type, 413 as soon as the form is larger than max_upload_bytes allows, 408 if
            nothing arrives for idle_timeout seconds or the upload is too slow, 507 for a full disk, 400 for an unknown
            field, too many fields, a second file, text that is not UTF-8, and an incomplete form.
        ClientDisconnect: the client has gone.
    """
    kind, parameters = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise ApiError(415, "Content-Type: expected multipart/form-data", code="unsupported_media_type")
    if b"boundary" not in parameters:
        raise ApiError(400, "Content-Type: a boundary is missing", code="invalid_form")
    max_file_bytes = settings.max_upload_bytes
    max_keyword_bytes = MAX_FIELD_BYTES + MAX_PHRASE_BYTES * settings.max_hotwords
    max_bytes = max_file_bytes + MAX_OVERHEAD_BYTES + (MAX_PHRASE_BYTES + MAX_HEADER_BYTES) * settings.max_hotwords
    # Refuse a form by its announced length before it arrives.
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:19]) > max_bytes:
        raise _too_large(max_file_bytes)
    form = Form()
    try:
        parts = _Parts(form, names, max_file_bytes, max_keyword_bytes)
        try:
            await _feed(parts, parameters[b"boundary"], request, max_bytes, settings.idle_timeout)
        except FormParserError as error:
            raise ApiError(400, f"the body is not a multipart form ({error})", code="invalid_form") from None
        if not parts.are_complete:
            raise ApiError(400, "the multipart form ends before its last boundary", code="invalid_form")
        yield form
    finally:
        if form.file is not None:
            form.file.close()


async def _feed(parts: "_Parts", boundary: bytes, request: Request, max_bytes: int, idle_timeout: float) -> None:
    parser, stream, received = MultipartParser(boundary, parts.callbacks()), request.stream(), 0
    start = time.monotonic()
    while True:
        try:
            with anyio.fail_after(idle_timeout):
                chunk = await anext(stream)
        except StopAsyncIteration:
            break
        except TimeoutError:
            raise ApiError(408, f"nothing has arrived for {idle_timeout:g} s", code="upload_timeout") from None
        received += len(chunk)
        if received > max_bytes:
            raise _too_large(parts.max_file_bytes)
        seconds = time.monotonic() - start
        if received < LEAST_RATE * (seconds - GRACE_SECONDS) or seconds > MAX_UPLOAD_SECONDS:
            message = f"{received} bytes in {seconds:.0f} s: the upload is too slow"
            raise ApiError(408, message, code="upload_timeout")
        parser.write(chunk)
        data, file = parts.take_file_data(), parts.form.file
        if file is None or not data:
            continue
        if file.fits_memory(len(data)):
            file.write(data)
            continue
        try:
            await run_in_threadpool(file.write, data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            message = "this server has no space for the file"
            raise ApiError(507, message, code="out_of_storage", kind="server_error") from None
    parser.finalize()


class _Parts:
    """The parser's callbacks for the parts of a form."""

    def __init__(self, form: Form, names: Collection[str], max_file_bytes: int, max_keyword_bytes: int) -> None:
        self.form = form
        self.names = names
        self.max_file_bytes = max_file_bytes
        self.are_complete = False
        self._num_fields = 0
        self._num_bytes = {KEYWORDS_FIELD: 0, "": 0}
        self._max_bytes = {KEYWORDS_FIELD: max_keyword_bytes, "": MAX_FIELD_BYTES}
        self._num_file_bytes = 0
        self._header = b""
        self._value = b""
        self._disposition = b""
        self._field = ""
        self._text = bytearray()
        self._file_data: list[bytes] = []

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_header,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._start,
            "on_part_data": self._add_data,
            "on_part_end": self._end,
            "on_end": self._complete,
        }

    def take_file_data(self) -> bytes:
        """Return the bytes of the file since the last call."""
        data = b"".join(self._file_data)
        self._file_data.clear()
        return data

    def _begin(self) -> None:
        self._disposition = b""
        self._text.clear()

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _start(self) -> None:
        _, parameters = parse_options_header(self._disposition)
        if b"name" not in parameters:
            raise ApiError(400, "a part of the form has no name", code="invalid_form")
        self._field = parameters[b"name"].decode(errors="replace")
        if self._field == FILE_FIELD:
            if self.form.file is not None:
                raise ApiError(400, "file: expected only one", code="duplicate_parameter", param=FILE_FIELD)
            self.form.file = UploadedFile(parameters.get(b"filename", b"").decode(errors="replace"))
            return
        if self._field.partition("[")[0] not in self.names:
            name = shown(self._field)
            raise ApiError(400, f"{name}: unknown parameter", code="unknown_parameter", param=name)
        self._num_fields += self._field != KEYWORDS_FIELD  # the size of the form limits their number
        if self._num_fields > MAX_FIELDS:
            raise ApiError(400, f"the form has more than {MAX_FIELDS} fields", code="too_many_fields")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._field == FILE_FIELD:
            self._num_file_bytes += end - start
            if self._num_file_bytes > self.max_file_bytes:
                raise _too_large(self.max_file_bytes)
            self._file_data.append(data[start:end])
            return
        kind = KEYWORDS_FIELD if self._field == KEYWORDS_FIELD else ""
        self._num_bytes[kind] += end - start
        if self._num_bytes[kind] > self._max_bytes[kind]:
            name = shown(self._field)
            message = f"{name}: the fields have more than {self._max_bytes[kind]} bytes"
            raise ApiError(400, message, code="invalid_value", param=name)
        self._text += data[start:end]

    def _end(self) -> None:
        if self._field == FILE_FIELD:
            return
        try:
            text = self._text.decode()
        except UnicodeDecodeError:
            name = shown(self._field)
            raise ApiError(400, f"{name}: the text is not UTF-8", code="invalid_value", param=name) from None
        self.form.fields.setdefault(self._field, []).append(text)

    def _complete(self) -> None:
        self.are_complete = True


def _too_large(max_file_bytes: int) -> ApiError:
    message = f"file: larger than the {max_file_bytes} bytes that this server takes"
    return ApiError(413, message, code="file_too_large", param=FILE_FIELD)
