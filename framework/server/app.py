"""The routes, and everything around them put together.

Generators flow in, an ASGI application flows out. Must not know how a reply is made: a route checks its body and names who answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic_core import from_json

import framework
from framework.generation import Generator
from framework.server import answers
from framework.server.access import AccessLog
from framework.server.body import BodyLimit
from framework.server.chats import ChatCall, messages
from framework.server.completions import CompletionCall
from framework.server.errors import Refusal, install
from framework.server.gate import Gate
from framework.server.limits import Limits
from framework.server.logprobs import spelling, token_text
from framework.server.metrics import Metrics
from framework.server.models import Model, Models
from framework.server.page import page, page_headers
from framework.server.reply import Reply, encode
from framework.server.schema import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from framework.server.worker import Worker

SHORT_BODY = 2**16  # parsed where it is; a longer one in a thread, so that it holds up nobody


class JSONRequest(Request):
    """A request whose body is parsed strictly (no NaN, at most 200 levels), and in a thread if it is long."""

    async def json(self) -> Any:
        """The body."""
        body = await self.body()
        try:
            return parse(body) if len(body) < SHORT_BODY else await asyncio.to_thread(parse, body)
        except ValueError as broken:
            raise Refusal(400, f"the body is no JSON that can be read: {broken}", code="invalid_json") from None


class JSONRoute(APIRoute):
    """A route that reads its body through `JSONRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI asks for it."""
        handle = super().get_route_handler()

        async def read(request: Request) -> Response:
            return await handle(JSONRequest(request.scope, request.receive))

        return read


def parse(body: bytes) -> Any:
    """JSON as the standard has it. Raises ValueError."""
    return from_json(body, allow_inf_nan=False)


def create_app(generators: Mapping[str, Generator], limits: Limits | None = None, api_key: str | None = None) -> FastAPI:
    """A server's application; `app.state.models` holds its models.

    Args:
        generators: by the name that requests call them; the first serves requests that name none. Their engines are the server's from
            now on.
        limits: what it takes.
        api_key: asked of everyone.
    """
    limits = limits or Limits()
    models = Models()
    metrics = Metrics(models)
    for name, generator in generators.items():
        observe = metrics.observer(name)
        worker = Worker(generator, max_queue=limits.max_queue, max_waiting=limits.stream_chunks, observe=observe)
        models[name] = Model(name, generator, worker)

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        for model in models.values():
            model.worker.start()
        yield
        for model in models.values():
            await model.worker.stop()

    app = FastAPI(title="framework", version=framework.__version__, docs_url=None, redoc_url=None, lifespan=running)
    app.state.models = models
    app.include_router(_completions(models, limits))
    app.include_router(_models(models))
    app.include_router(_tokens(models))
    app.include_router(_operation(models, metrics))
    install(app)
    app.add_middleware(BodyLimit, max_bytes=limits.max_body_bytes, seconds=limits.read_seconds)
    app.add_middleware(Gate, api_key=api_key)
    app.add_middleware(AccessLog)
    return app


def _router(*, locked: bool = True) -> APIRouter:
    errors: dict[int | str, dict[str, Any]] = {"default": {"model": answers.ErrorAnswer, "description": "what was wrong"}}
    key = [Depends(HTTPBearer(auto_error=False, description="the server's --api_key, if it has one"))]  # for the document: Gate checks it
    return APIRouter(route_class=JSONRoute, responses=errors, dependencies=key if locked else None)


def _completions(models: Models, limits: Limits) -> APIRouter:
    routes = _router()
    stream: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/event-stream": {"schema": {"description": "with stream: true; the data of each event is a chunk"}}}}
    }

    @routes.post("/v1/completions", response_model=answers.Completion, responses=stream)
    async def completions(body: CompletionRequest) -> Response:
        """Continue prompts."""
        return Reply(CompletionCall(body, models.find(body.model), limits), limits.reply_seconds)

    @routes.post("/v1/chat/completions", response_model=answers.ChatCompletion, responses=stream)
    async def chat_completions(body: ChatRequest) -> Response:
        """Give a chat's next reply."""
        return Reply(ChatCall(body, models.find(body.model), limits), limits.reply_seconds)

    return routes


def _models(models: Models) -> APIRouter:
    routes = _router()

    @routes.get("/v1/models", response_model=answers.ModelList)
    async def list_models() -> Response:
        """What is served."""
        return JSONResponse({"object": "list", "data": [model.card for model in models.values()]})

    @routes.get("/v1/models/{name:path}", response_model=answers.ModelCard)
    async def show_model(name: str) -> Response:
        """One of them."""
        return JSONResponse(models.find(name).card)

    return routes


def _tokens(models: Models) -> APIRouter:
    routes = _router()

    @routes.post("/tokenize", response_model=answers.Tokens)
    async def tokenize(body: TokenizeRequest) -> Response:
        """The ids of a prompt, or of a chat."""
        return Response(await asyncio.to_thread(_tokenized, body, models.find(body.model)), media_type="application/json")

    @routes.post("/detokenize", response_model=answers.Detokenized)
    async def detokenize(body: DetokenizeRequest) -> Response:
        """The text of ids."""
        return Response(await asyncio.to_thread(_detokenized, body, models.find(body.model)), media_type="application/json")

    return routes


def _tokenized(body: TokenizeRequest, model: Model) -> bytes:
    generator = model.generator
    if body.messages is not None:
        ids = generator.render(messages(body.messages))
    else:
        assert body.prompt is not None
        encode_text = generator.tokenizer.encode if body.add_special_tokens is False else generator.tokenizer.encode_prompt
        ids = encode_text(body.prompt)
    spelt = [token_text(spelling(generator.tokenizer, token)) for token in ids] if body.return_token_strs else None
    return encode({"count": len(ids), "max_model_len": generator.context_length, "tokens": ids, "token_strs": spelt})


def _detokenized(body: DetokenizeRequest, model: Model) -> bytes:
    tokenizer = model.generator.tokenizer
    if wrong := [token for token in body.tokens if token >= tokenizer.vocab_size]:
        raise Refusal(400, f"token {wrong[0]} is outside the vocabulary of {tokenizer.vocab_size}", param="tokens", code="invalid_value")
    return encode({"prompt": tokenizer.decode(body.tokens)})


def _operation(models: Models, metrics: Metrics) -> APIRouter:
    routes, locked = _router(locked=False), _router()

    @routes.get("/", response_class=HTMLResponse, responses={200: {"content": {"text/html": {}}}})
    async def chat_page() -> Response:
        """The chat page."""
        return HTMLResponse(page(), headers=page_headers())

    @routes.get("/health", response_model=answers.Health)
    async def health() -> Response:
        """Whether requests are taken: 503 while the server stops and after an engine has failed."""
        return JSONResponse({"status": models.status}, 200 if models.status == "ok" else 503)

    @routes.get("/health/live", response_model=answers.Health)
    async def live() -> Response:
        """Whether the server is alive: 503 only when it must be started again."""
        return JSONResponse({"status": models.status}, 503 if models.status == "failed" else 200)

    @locked.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
    async def show_metrics() -> Response:
        """Prometheus' numbers."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    routes.include_router(locked)
    return routes
