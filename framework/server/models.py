"""The models of a server by name, each with the worker that runs its engine. Names flow in, models flow out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from framework.generation import Generator
from framework.server.answers import ModelCard
from framework.server.errors import Refusal
from framework.server.worker import Worker


@dataclass
class Model:
    """A model that is served.

    Args:
        name: what requests call it.
        generator: for text and ids; its engine is the worker's.
        worker: runs its requests.
        created: seconds since 1970.
    """

    name: str
    generator: Generator
    worker: Worker
    created: int = field(default_factory=lambda: int(time.time()))

    @cached_property
    def max_characters(self) -> int:
        """A longer text has more tokens than the context: no token stands for more bytes than the longest."""
        return self.generator.context_length * int(self.generator.tokenizer.byte_lengths().max())

    @property
    def room(self) -> int:
        """The most tokens of a prompt and its reply together: the context's, or the cache's if that is smaller."""
        return min(self.generator.context_length, self.worker.statistics.cache_tokens)

    @property
    def card(self) -> ModelCard:
        """As /v1/models shows it."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "framework",
            "max_model_len": self.generator.context_length,
            "vocab_size": self.generator.vocab_size,
            "chat": self.generator.template is not None,
        }


class Models(dict[str, Model]):
    """Every model by its name; the first one serves requests that name none."""

    def find(self, name: str | None) -> Model:
        """The model that a request asks for. Raises Refusal 404 with the names there are."""
        if name is None:
            return next(iter(self.values()))
        if name not in self:
            known = ", ".join(self)
            raise Refusal(404, f"there is no model {name[:100]!r}; served: {known}", param="model", code="model_not_found")
        return self[name]

    @property
    def status(self) -> Literal["ok", "stopping", "failed"]:
        """How the worst of the engines is."""
        workers = [model.worker for model in self.values()]
        return "failed" if any(worker.failure for worker in workers) else "stopping" if any(worker.stopping for worker in workers) else "ok"
