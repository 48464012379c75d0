"""A tiny model on disk, and servers of it on free ports, each in a thread of its own with real sockets."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Running(NamedTuple):
    """A server that runs."""

    url: str
    app: Any
    server: Any

    @property
    def worker(self) -> Any:
        """Its first model's."""
        return next(iter(self.app.state.models.values())).worker

    def until(self, condition: Callable[[], Any], seconds: float = 10.0) -> None:
        """Return when it holds: what a server does beside and after an answer has happened some time later; fails if it does not by then."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.worker.statistics
            time.sleep(0.002)

    def wait_until_idle(self, seconds: float = 10.0) -> None:
        """Return when no reply runs or waits."""
        self.until(lambda: not ((told := self.worker.statistics).running or told.waiting or self.worker.num_replies), seconds)


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model over bytes that favours letters, with a chat template."""
    from framework.checkpoint import save
    from framework.networks.shape import NetworkShape
    from framework.networks.transformer import Transformer
    from framework.tokenizers.byte import Byte

    torch.manual_seed(0)
    tokenizer = Byte()
    network = Transformer(NetworkShape(num_layers=1, width=16, num_heads=2, tied_embeddings=False), tokenizer.vocab_size, 256)
    with torch.no_grad():
        network.head.weight.normal_(std=0.5)  # type: ignore[union-attr]
        network.head.weight[:97] = network.head.weight[123:] = 0.0  # type: ignore[union-attr]
    directory = tmp_path_factory.mktemp("models") / "tiny"
    save(directory, network, tokenizer, {})
    (directory / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def serving(model_directory: Path) -> Callable[..., Any]:
    """`with serving(api_key="k", max_queue=3) as running`: a server of one or more tiny models; keyword arguments are limits."""
    from framework.generation import Generator
    from framework.server import serving as package
    from framework.server.app import create_app
    from framework.server.limits import Limits

    Generator.load(model_directory).generate("", max_new_tokens=2)  # what is compiled at first use is compiled now

    @contextmanager
    def serve(names: tuple[str, ...] = ("tiny",), api_key: str | None = None, engine: Any = None, **limits: Any) -> Iterator[Running]:
        bounds = Limits(**limits)
        app = create_app({name: Generator.load(model_directory, **(engine or {})) for name in names}, bounds, api_key)
        place = package.bind("127.0.0.1", 0, api_key)
        server = package.Server(app, bounds)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[place])), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        try:
            yield Running(package.url(place), app, server)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()

    return serve


@pytest.fixture(scope="session")
def running(serving: Callable[..., Any]) -> Iterator[Running]:
    """The server that most tests share; each leaves it idle."""
    with ExitStack() as stack:
        yield stack.enter_context(serving(("tiny", "other")))


@pytest.fixture
def server(running: Running) -> Iterator[Running]:
    """The shared server, which must be idle and alive after each test."""
    yield running
    running.wait_until_idle()
    assert running.worker.failure is None


@pytest.fixture
def slow(server: Running, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Makes each step of the engine take so many seconds more."""

    def slow_down(seconds: float) -> None:
        engine = server.worker.generator.engine
        step = engine.step
        monkeypatch.setattr(engine, "step", lambda: (time.sleep(seconds), step())[1])

    return slow_down


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    """A client of the shared server."""
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client


def events(lines: Any) -> list[dict[str, Any]]:
    """The events of a stream of lines, without the last [DONE]."""
    told = [line.removeprefix("data: ") for line in lines if line]
    assert told[-1] == "[DONE]"
    return [json.loads(line) for line in told[:-1]]


@pytest.fixture(scope="session")
def read_events() -> Callable[[Any], list[dict[str, Any]]]:
    """As `events`."""
    return events
