"""Structured logs: one JSON object per line on standard error, without audio and, by default, without text."""

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any

_logger = logging.getLogger("unichoir.serving")


class JsonFormatter(logging.Formatter):
    """Formats each record as one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return `time`, `level`, `event` and the event's own fields as JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logs() -> None:
    """Send the server's records, and warnings of its libraries, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(_is_of_interest)
    for name in ("unichoir.serving", "unichoir.transcript", "uvicorn", "asyncio", "python_multipart"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if logger is _logger else logging.WARNING)


def _is_of_interest(record: logging.LogRecord) -> bool:
    if record.name == "unichoir.transcript.rewriting":  # its message contains text
        record.msg, record.args = "written_form_failed", ()
    # uvicorn reports WebSockets that we refuse with an HTTP error as unanswered.
    return record.getMessage() != "ASGI callable returned without completing handshake."


def log_event(event: str, **fields: Any) -> None:
    """Log an event. fields: JSON values."""
    _logger.info(event, extra={"fields": fields})


def log_failure(event: str, error: BaseException, **fields: Any) -> None:
    """Log an unexpected error, with its traceback."""
    _logger.error(event, exc_info=error, extra={"fields": fields})
