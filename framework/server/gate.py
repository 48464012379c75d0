"""Who may come in: a key for every route but those of health and the chat page; without a key, only requests to this machine's own names.

Requests flow in; they pass, or 401 or 403 flows out. Keys are compared in constant time and never logged.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from framework.server.errors import Refusal

OPEN = {"/", "/health", "/health/live"}  # the page holds no secret, and asks for the key itself


class Gate:
    """Middleware around an app.

    Args:
        app: what is behind the gate.
        api_key: what `Authorization: Bearer` must bring; None: the server is this machine's alone. A page on the web can make a browser
            send requests here under a name of its own (DNS rebinding): those are refused.
    """

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        self._app = app
        self._digest = None if api_key is None else _digest(api_key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and (refused := self._refusal(scope)):
            await refused.response()(scope, receive, send)
        elif scope["type"] != "websocket":
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers = Headers(scope=scope)
        if self._digest is None:
            if is_loopback(_name(headers.get("host", "localhost"))):
                return None
            return Refusal(403, "without an API key this server answers to localhost alone: start it with --api_key", code="wrong_host")
        if scope["path"] in OPEN:
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(_digest(key.strip().encode("latin-1")), self._digest):
            return None
        wanted = {"www-authenticate": "Bearer"}
        return Refusal(401, "give the server's key: Authorization: Bearer KEY", code="invalid_api_key", headers=wanted)


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _name(host: str) -> str:
    """A Host header without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].lower()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
