"""Who may use the server: its token and the origins of web pages."""

import hmac
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from unichoir.serving.errors import ApiError
from unichoir.serving.settings import Settings

REALTIME_SUBPROTOCOL = "realtime"
KEY_SUBPROTOCOL = "openai-insecure-api-key."
"""What the key follows in a subprotocol: web pages cannot set headers on WebSockets."""


def check_access(connection: HTTPConnection, settings: Settings) -> None:
    """Raises ApiError: 403 for a web page of another origin, 401 without the right token."""
    origin = connection.headers.get("origin")
    if origin and not _is_allowed(origin, connection.headers.get("host", ""), settings):
        raise ApiError(403, f"pages of {origin[:200]} may not use this server", code="origin_not_allowed")
    if settings.api_key and not _has_key(connection, settings.api_key):
        raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key", kind="authentication_error")


def subprotocols(connection: HTTPConnection) -> list[str]:
    """Those that a WebSocket client offers."""
    return [name.strip() for name in connection.headers.get("sec-websocket-protocol", "").split(",") if name.strip()]


def _is_allowed(origin: str, host: str, settings: Settings) -> bool:
    return "*" in settings.allowed_origins or origin in settings.allowed_origins or urlsplit(origin).netloc == host


def _has_key(connection: HTTPConnection, key: str) -> bool:
    scheme, _, shown = connection.headers.get("authorization", "").partition(" ")
    offered = [shown.strip()] if scheme.lower() == "bearer" else []
    offered += [name[len(KEY_SUBPROTOCOL) :] for name in subprotocols(connection) if name.startswith(KEY_SUBPROTOCOL)]
    return any(hmac.compare_digest(each.encode(), key.encode()) for each in offered)
