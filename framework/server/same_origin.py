"""Refuses what other sites' pages make a browser send here: a request that a page sends must come from a page of this server.

Requests flow in; they pass, or 403 flows out. Programs that are no browsers name no origin, and pass.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from framework.server.errors import Refusal


class SameOrigin:
    """Middleware around an app whose routes change something for whoever can reach them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and not _from_here(scope):
            refused = Refusal(403, "another site's page may not ask this of this server", code="wrong_origin")
            await refused.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _from_here(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if origin is not None:
        return origin.partition("://")[2] == headers.get("host")
    return scope["method"] in ("GET", "HEAD") or headers.get("sec-fetch-site", "none") in ("none", "same-origin")
