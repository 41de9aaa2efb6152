"""Access to the server: its key, its names, and the origins of web pages."""

import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from unichoir.serving.errors import ApiError, shown
from unichoir.serving.settings import Settings

REALTIME_SUBPROTOCOL = "realtime"
KEY_SUBPROTOCOL = "openai-insecure-api-key."
"""Prefix of the key in a subprotocol. Web pages cannot set headers on WebSockets."""


def check_access(connection: HTTPConnection, settings: Settings) -> None:
    """Raise ApiError: 421 for another host, 403 for a web page of another origin, 401 without the right key."""
    host, origin = connection.headers.get("host", ""), connection.headers.get("origin")
    if not _is_expected(host, settings):
        message = f"this server is not {shown(host)}: start it with --allow-host if it is"
        raise ApiError(421, message, code="host_not_allowed")
    if origin and not _is_allowed(origin, host, settings):
        raise ApiError(403, f"pages of {shown(origin)} may not use this server", code="origin_not_allowed")
    if settings.api_key and not _has_key(connection, settings.api_key):
        raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key", kind="authentication_error")


def subprotocols(connection: HTTPConnection) -> list[str]:
    """Return the subprotocols that a WebSocket client offers."""
    return [name.strip() for name in connection.headers.get("sec-websocket-protocol", "").split(",") if name.strip()]


def _is_allowed(origin: str, host: str, settings: Settings) -> bool:
    if "*" in settings.allowed_origins or origin in settings.allowed_origins:
        return True
    try:
        return urlsplit(origin).netloc == host
    except ValueError:  # not an address
        return False


def _is_expected(host: str, settings: Settings) -> bool:
    """Return whether a request is for this server: by an address, by localhost, or by one of its names.

    A page can point its own name here after it was loaded (DNS rebinding). Its requests then have this name as host and
    as origin.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost") or {"*", name} & set(settings.allowed_hosts):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _has_key(connection: HTTPConnection, key: str) -> bool:
    scheme, _, shown = connection.headers.get("authorization", "").partition(" ")
    offered = [shown.strip()] if scheme.lower() == "bearer" else []
    offered += [name[len(KEY_SUBPROTOCOL) :] for name in subprotocols(connection) if name.startswith(KEY_SUBPROTOCOL)]
    return any(hmac.compare_digest(each.encode(), key.encode()) for each in offered)
