"""Writes the pages of the reference: every part of every registry with its docstring, every command with its help.

Registries flow in, Markdown for Sphinx's autodoc flows out. A page is written only when its content changed, so that Sphinx reads it again only then.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from framework.registry import CORE, Part, families, registry

COMMANDS = "framework.commands"
HIDDEN = {COMMANDS, "framework.share", "framework.testing"}
LIBRARY = {  # what users of the library import, beside the parts
    "framework.generation.generator": ["Generator"],
    "framework.engine.engine": ["Engine"],
    "framework.engine.request": ["Request"],
    "framework.recipes.recipe": ["Recipe"],
    "framework.networks.base": ["Network"],
    "framework.networks.shape": ["NetworkShape"],
    "framework.tokenizers.base": ["Tokenizer"],
    "framework.datasets.base": ["Documents", "Rows"],
    "framework.samplers.base": ["Sampler"],
    "framework.rewards.base": ["Reward"],
    "framework.tasks.base": ["Task"],
    "framework.formats.base": ["Format"],
    "framework.checkpoint": ["save", "load", "load_network"],
}


def write(folder: Path) -> None:
    """Write every page into `folder` and take away those of families that are gone."""
    folder.mkdir(exist_ok=True)
    names = [name for name in families() if name not in HIDDEN]
    pages = {name.rpartition(".")[2]: "\n".join(_family(name)) for name in names}
    pages["commands"] = "\n".join(_commands())
    pages["library"] = "\n".join(_library())
    listed = "\n".join(["commands", "library", *sorted(set(pages) - {"commands", "library"})])
    pages["index"] = f"# Reference\n\nMade from the docstrings and the registries.\n\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"
    for stale in set(folder.glob("*.md")) - {folder / f"{name}.md" for name in pages}:
        stale.unlink()
    for name, text in pages.items():
        file = folder / f"{name}.md"
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def _own(family: str) -> Iterator[Part]:
    return (part for part in registry(family).parts() if part.distribution == CORE)


def _family(family: str) -> Iterator[str]:
    yield f"# {family}\n"
    yield f"{inspect.getdoc(import_module(family)) or ''}\n"
    for part in _own(family):
        module, _, name = part.target.partition(":")
        yield f"## {part.name}\n"
        if module.startswith("framework."):
            yield from _described(module, name)
        else:
            yield f"`{part.target.replace(':', '.')}`, as it is.\n"


def _described(module: str, name: str) -> Iterator[str]:
    kind = "autoclass" if isinstance(getattr(import_module(module), name), type) else "autofunction"
    yield f"```{{eval-rst}}\n.. {kind}:: {module}.{name}\n   :no-index-entry:\n```\n"


def _commands() -> Iterator[str]:
    yield "# The commands\n\n`framework COMMAND --help` shows every argument with its default.\n"
    for part in _own(COMMANDS):
        yield f"## framework {part.name}\n\n```text\n{inspect.getdoc(part.load())}\n```\n"


def _library() -> Iterator[str]:
    yield "# The library\n"
    for module, names in LIBRARY.items():
        for name in names:
            yield f"## {name}\n"
            kind = "autoclass" if isinstance(getattr(import_module(module), name), type) else "autofunction"
            members = "\n   :members:" if kind == "autoclass" else ""
            yield f"```{{eval-rst}}\n.. {kind}:: {module}.{name}{members}\n   :no-index-entry:\n```\n"
