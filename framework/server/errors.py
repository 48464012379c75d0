"""Every refusal in OpenAI's form: a status and {"error": {message, type, param, code}}; never a traceback, never a path.

Exceptions flow in, JSON responses flow out. What a client did wrong is said; what broke in the server is for the server's log alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from framework.errors import RequestError
from framework.server.answers import ErrorAnswer
from framework.server.schema import Sampling
from framework.server.worker import EngineFailed, QueueFull, ReaderTooSlow, Stopped

log = logging.getLogger(__name__)

INVALID, SERVER = "invalid_request_error", "server_error"
RETRY = {"retry-after": "1"}


class Refusal(HTTPException):
    """A request that is answered with an error.

    Args:
        status: of the HTTP response.
        message: one sentence for whoever sent the request.
        kind, param, code: OpenAI's `type`, the parameter that is wrong, and a word for programs.
        headers: further ones of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.body: ErrorAnswer = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def response(self) -> JSONResponse:
        """The refusal as a response."""
        return JSONResponse(self.body, self.status_code, self.headers)


def refusal(error: BaseException) -> Refusal:
    """What a client is told of any error."""
    match error:
        case Refusal():
            return error
        case RequestValidationError():
            return _of_body(error.errors())
        case RequestError():
            return _of_request(error)
        case QueueFull():
            return Refusal(429, str(error), kind="rate_limit_error", code="queue_full", headers=RETRY)
        case Stopped() | EngineFailed():
            return Refusal(503, str(error), kind=SERVER, code="unavailable", headers=RETRY)
        case ReaderTooSlow():
            return Refusal(408, str(error), code="reader_too_slow")
        case TimeoutError():
            return Refusal(504, "the reply was not complete in time: ask for fewer tokens", kind=SERVER, code="deadline")
        case HTTPException():
            return Refusal(error.status_code, _of_status(error), headers=error.headers)
    return Refusal(500, "the server failed to answer this request; its log says why", kind=SERVER, code="internal_error")


def install(app: FastAPI) -> None:
    """Answer every error that leaves a route by `refusal`."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        return refusal(error).response()

    for kind in (HTTPException, RequestValidationError, RequestError, QueueFull, Stopped, EngineFailed, TimeoutError):
        app.add_exception_handler(kind, answer)
    app.add_middleware(Shield)


class Shield:
    """Middleware that answers what nobody expected, and logs it. Starlette's own raises it again, which costs the connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception as unexpected:
            if begun:
                raise
            log.exception("a request failed")
            await refusal(unexpected).response()(scope, receive, send)


def _of_status(error: HTTPException) -> str:
    match error.status_code:
        case 404:
            return "there is no such route: /openapi.json lists them"
        case 405:
            allowed = (error.headers or {}).get("Allow")
            return f"this route does not take that method{f', only {allowed}' if allowed else ''}"
    return str(error.detail)


def _of_request(error: RequestError) -> Refusal:
    """The library's own words, with the names that the routes use."""
    message = str(error).replace("max_new_tokens", "max_tokens").replace("min_new_tokens", "min_tokens")
    word = message.partition(" ")[0]
    return Refusal(400, message, param=word if word in Sampling.model_fields or word == "max_tokens" else None, code="invalid_value")


def _of_body(errors: Sequence[Mapping[str, Any]]) -> Refusal:
    """The first thing that is wrong with a body, and where."""
    error = errors[0]
    place = [part for part in error["loc"] if part != "body" and not str(part).startswith(("<", "["))]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")[:200]
    message = str(error["msg"]).removeprefix("Value error, ")
    if not place and error["type"] in ("missing", "model_attributes_type", "model_type", "dict_type"):
        return Refusal(400, "the body must be a JSON object, sent with the content type application/json", code="invalid_body")
    return Refusal(400, f"{param}: {message}" if param else message, param=param or None, code="invalid_value")
