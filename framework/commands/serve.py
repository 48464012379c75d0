"""`framework serve`: models behind OpenAI's routes and a chat page, until Ctrl-C. Stdout stays empty; the log goes to stderr."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from framework.commands.fields import spread
from framework.errors import ConfigError

if TYPE_CHECKING:
    from framework.commands.model_options import ModelOptions
    from framework.server.limits import Limits

KEY_VARIABLE = "FRAMEWORK_API_KEY"


@spread("limits", "framework.server.limits:Limits")
@spread("model", "framework.commands.model_options:ModelOptions")
def serve(
    *directories: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    log_requests: bool = True,
    max_running: int = 32,
    cache_tokens: int | None = None,
    limits: Limits,
    model: ModelOptions,
) -> int:
    """Serve models over HTTP: OpenAI's API and a chat page.

    Ctrl-C or SIGTERM stops it: replies that run may finish first. The exit code is then 0.

    Args:
        directories: runs, model directories, GGUF files or ORG/NAME of the Hugging Face hub, each `DIR` or `NAME=DIR`; requests choose by name, the first one is the default.
        host: address to listen on; one that others can reach needs a key.
        port: 0 takes a free one.
        api_key: what every request must bring as `Authorization: Bearer KEY`; better set in FRAMEWORK_API_KEY, which other users cannot see.
        max_running: replies that a model computes together; further ones wait.
        cache_tokens: room for the keys and values of so many tokens a model; what lasts for max_running replies unless given.
        log_requests: one line a request on stderr, without prompts, replies and keys.
    """
    places = named(directories)
    _require_packages()
    from framework.server import serving
    from framework.server.app import create_app

    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("framework").setLevel(logging.INFO if log_requests else logging.WARNING)
    key = os.environ.get(KEY_VARIABLE) if api_key is None else api_key
    with serving.bind(host, port, key) as place:
        generators = {name: model.load(directory, max_running=max_running, cache_tokens=cache_tokens) for name, directory in places.items()}
        for generator in generators.values():
            generator.generate("", max_new_tokens=2)  # what is compiled at first use is compiled before anyone waits for it
        app = create_app(generators, limits, key)
        print(
            f"serving {', '.join(generators)} on {serving.url(place)} (chat page; API under /v1); Ctrl-C stops", file=sys.stderr, flush=True
        )
        return serving.run(app, limits, place)


def named(directories: tuple[str, ...]) -> dict[str, Path]:
    """Name -> directory. A directory's own name, the run's for a run's `model`. Raises ConfigError for none, or two of one name."""
    if not directories:
        raise ConfigError("framework serve needs a model: framework serve DIR")
    places: dict[str, Path] = {}
    for word in directories:
        name, equals, rest = word.partition("=")
        directory = Path(rest if equals and "/" not in name else word)
        if not equals or "/" in name:
            resolved = directory.resolve()
            name = resolved.parent.name if resolved.name == "model" else resolved.name.removesuffix(".gguf")
        if not name:
            raise ConfigError(f"{word} has no name: write NAME=DIR")
        if name in places:
            raise ConfigError(f"{places[name]} and {directory} would both be called {name}: name one, NAME=DIR")
        places[name] = directory
    return places


def _require_packages() -> None:
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"framework serve needs {package}: pip install 'framework[serve]'")
