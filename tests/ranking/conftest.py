"""A tiny model with a chat template, and sessions of it served on free ports with real sockets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model over bytes that favours letters."""
    from framework.checkpoint import save
    from framework.networks.shape import NetworkShape
    from framework.networks.transformer import Transformer
    from framework.tokenizers.byte import Byte

    torch.manual_seed(0)
    tokenizer = Byte()
    network = Transformer(NetworkShape(num_layers=1, width=16, num_heads=2, tied_embeddings=False), tokenizer.vocab_size, 128)
    with torch.no_grad():
        network.head.weight.normal_(std=0.5)  # type: ignore[union-attr]
        network.head.weight[:97] = network.head.weight[123:] = 0.0  # type: ignore[union-attr]
    directory = tmp_path_factory.mktemp("models") / "tiny"
    save(directory, network, tokenizer, {})
    (directory / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return directory


class Served(NamedTuple):
    """A session that is served."""

    url: str
    session: Any
    ledger: Any


@pytest.fixture
def serving(model_directory: Path, tmp_path: Path) -> Callable[..., Any]:
    """`with serving(["a", "b"], token="t") as served`; the output is preferences.jsonl in the test's directory."""
    pytest.importorskip("fastapi")
    from framework.generation import Generator, Settings
    from framework.ranking.app import create_app
    from framework.ranking.ledger import Ledger
    from framework.ranking.session import Session
    from framework.server import serving as package
    from framework.server.limits import Limits

    @contextmanager
    def serve(prompts: list[Any], token: str | None = None, samples: int = 3, written: Any = None, **limits: Any) -> Iterator[Served]:
        ledger = Ledger(tmp_path / "preferences.jsonl")
        settings = Settings(n=samples, seed=0, max_new_tokens=8)
        session = Session(Generator.load(model_directory), "model", prompts, settings, ledger, "ann")
        session.writer._written.update(written or {})
        bounds = Limits(**{"max_body_bytes": 2**16, **limits})
        place = package.bind("127.0.0.1", 0, token)
        server = package.Server(create_app(session, ledger, "ann", bounds, token), bounds)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[place])), daemon=True)
        thread.start()
        try:
            yield Served(package.url(place), session, ledger)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()

    return serve


def _browse() -> Any:
    """The fixture that the chat page is driven with."""
    loader = SourceFileLoader("page_tests", str(Path(__file__).parent.parent / "server" / "test_page.py"))
    module = module_from_spec(spec_from_loader("page_tests", loader))  # type: ignore[arg-type]
    loader.exec_module(module)
    return module.browse


pytest.importorskip("httpx")
browse = _browse()
