"""Who may use the server: its token and the origins of web pages."""

import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from unichoir.serving.errors import ApiError, shown
from unichoir.serving.settings import Settings

REALTIME_SUBPROTOCOL = "realtime"
KEY_SUBPROTOCOL = "openai-insecure-api-key."
"""What the key follows in a subprotocol: web pages cannot set headers on WebSockets."""


def check_access(connection: HTTPConnection, settings: Settings) -> None:
    """Raises ApiError: 421 for another host than this one, 403 for a web page of another origin, 401 without the right
    token."""
    host, origin = connection.headers.get("host", ""), connection.headers.get("origin")
    if not _is_expected(host, settings):
        message = f"this server is not {shown(host)}: start it with --allow-host if it is"
        raise ApiError(421, message, code="host_not_allowed")
    if origin and not _is_allowed(origin, host, settings):
        raise ApiError(403, f"pages of {shown(origin)} may not use this server", code="origin_not_allowed")
    if settings.api_key and not _has_key(connection, settings.api_key):
        raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key", kind="authentication_error")


def subprotocols(connection: HTTPConnection) -> list[str]:
    """Those that a WebSocket client offers."""
    return [name.strip() for name in connection.headers.get("sec-websocket-protocol", "").split(",") if name.strip()]


def _is_allowed(origin: str, host: str, settings: Settings) -> bool:
    if "*" in settings.allowed_origins or origin in settings.allowed_origins:
        return True
    try:
        return urlsplit(origin).netloc == host
    except ValueError:  # no address at all
        return False


def _is_expected(host: str, settings: Settings) -> bool:
    """Whether a request is for this server: by an address, by a name of the machine itself, or by a name it was given.

    A page may have its own name point here after it was loaded (DNS rebinding); its requests then have the page's
    origin and that name as host.
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
