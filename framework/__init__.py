"""A language model's whole life on PyTorch Lightning: tokenizer, corpus, pretraining, fine-tuning, RLHF, generation, serving."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# what library users begin with; imported when asked for, so that `framework --help` stays quick
_PUBLIC = {
    "Engine": "framework.engine.engine",
    "Generator": "framework.generation",
    "Recipe": "framework.recipes.recipe",
    "Registry": "framework.registry",
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
