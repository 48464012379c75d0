"""The routes of the ranking page.

A session flows in, an ASGI application flows out. Must not know how replies are made, or where judgements are kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt

import framework
from framework.errors import UserError
from framework.ranking.agreement import agreement
from framework.ranking.ledger import Ledger
from framework.ranking.session import LONGEST_NAME, Session, View
from framework.server.access import AccessLog
from framework.server.body import BodyLimit
from framework.server.errors import SERVER, Refusal, install
from framework.server.gate import Gate
from framework.server.limits import Limits
from framework.server.models import Models
from framework.server.policy import page_policy
from framework.server.same_origin import SameOrigin

Rater = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]


class Judgement(BaseModel):
    """What a person says of the replies to one prompt."""

    model_config = ConfigDict(extra="forbid")

    rater: Rater
    key: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    ranks: Annotated[list[Annotated[StrictInt, Field(ge=1)] | None], Field(max_length=64)]


class Undo(BaseModel):
    """A person who wants the last judgement back."""

    model_config = ConfigDict(extra="forbid")

    rater: Rater


def create_app(session: Session, ledger: Ledger, rater: str, limits: Limits, token: str | None = None) -> FastAPI:
    """The application.

    Args:
        session: started and closed with it.
        ledger: the session's.
        rater: the name that the page suggests.
        limits: what is taken.
        token: what every request but that of the page must bring; None: requests of this machine alone are served.
    """

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        session.writer.start()
        yield
        session.close()

    app = FastAPI(title="framework rank", version=framework.__version__, docs_url=None, redoc_url=None, lifespan=running)
    app.state.models = Models()  # that framework.server.serving stops: none

    @app.get("/", response_class=HTMLResponse)
    def show_page() -> Response:
        """The page."""
        return HTMLResponse(page(), headers=page_policy(page()))

    @app.get("/raters")
    def raters() -> Response:
        """The name that the page suggests."""
        return JSONResponse({"suggested": rater})

    @app.get("/next")
    def show_next(rater: Annotated[str, Query(min_length=1, max_length=LONGEST_NAME)]) -> Response:
        """What a person is to rank now."""
        return _shown(session.next(rater))

    @app.post("/rank")
    def rank(body: Judgement) -> Response:
        """A judgement; what is next."""
        session.rank(body.rater, body.key, body.ranks)
        return _shown(session.next(body.rater))

    @app.post("/undo")
    def undo(body: Undo) -> Response:
        """The last judgement is taken back; what is next."""
        session.undo(body.rater)
        return _shown(session.next(body.rater))

    @app.get("/agreement")
    def show_agreement() -> Response:
        """How far all raters of these files agree."""
        ledger.read()
        found = agreement(ledger.rankings.values())
        return JSONResponse({**vars(found), "text": str(found)})

    _guard(app, limits, token)
    return app


def _guard(app: FastAPI, limits: Limits, token: str | None) -> None:
    """What every request passes, the last named first."""
    install(app)
    app.add_exception_handler(UserError, _refuse)
    app.add_middleware(BodyLimit, max_bytes=limits.max_body_bytes, seconds=limits.read_seconds)
    app.add_middleware(SameOrigin)
    app.add_middleware(Gate, api_key=token)
    app.add_middleware(AccessLog)


@cache
def page() -> str:
    """The HTML."""
    return (files("framework.ranking") / "page.html").read_text(encoding="utf-8")


def _shown(view: View) -> Response:
    prompt: Any = view.prompt if isinstance(view.prompt, str) else [message._asdict() for message in view.prompt]
    replies = [{"text": reply.text, "finished": reply.finished} for reply in view.replies]
    return JSONResponse({**view._asdict(), "prompt": prompt, "replies": replies})


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    """A full disk or a model that fails: for the person to know, who is the one that runs this."""
    return Refusal(500, str(error), kind=SERVER, code="failed").response()
