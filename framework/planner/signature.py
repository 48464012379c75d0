"""What a part takes and what it takes for granted, read from its source: the signature is the config, and importing most parts costs seconds.

An import path flows in, parameters with their defaults flow out. Imports nothing but the parents of no module: files are found and parsed.
"""

from __future__ import annotations

import ast
import importlib.util
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from framework.registry import PluginError, registry


class Required:
    """The default of a parameter that has none."""


class Computed:
    """A default that is not a plain value."""


def signature(path: str) -> dict[str, Any] | None:
    """Parameter -> default of the class or function at an import path; None where its source says nothing certain.

    Args:
        path: `framework.optimizers.AdamW` (a registered name) or the path of a module's attribute.
    """
    module, _, name = path.rpartition(".")
    if module.startswith("framework."):
        with suppress(PluginError):  # an import path that happens to lie in the package
            module, _, name = registry(module).part(name).target.partition(":")
    return _of(module, name)


@cache
def _of(module: str, name: str) -> dict[str, Any] | None:
    file = _file(module)
    if file is None:
        return None
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _parameters(node.args)
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _of_class(node, module)
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
            return _of(_absolute(node, module, file), original)
    return None


def _of_class(node: ast.ClassDef, module: str) -> dict[str, Any] | None:
    """Of its `__init__`, else its fields, else its first base's."""
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
            return _parameters(inner.args, skip_first=True)
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        fields = [inner for inner in node.body if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name)]
        return {ast.unparse(inner.target): _value(inner.value) for inner in fields}
    return _of(module, ast.unparse(node.bases[0])) if node.bases and isinstance(node.bases[0], ast.Name) else None


def _parameters(arguments: ast.arguments, skip_first: bool = False) -> dict[str, Any] | None:
    if arguments.kwarg is not None:
        return None
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [*[None] * (len(positional) - len(arguments.defaults)), *arguments.defaults]
    pairs = list(zip(positional, defaults, strict=True))[1 if skip_first else 0 :]
    pairs += list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    return {argument.arg: _value(default) for argument, default in pairs}


def _value(node: ast.expr | None) -> Any:
    if node is None:
        return Required
    try:
        return ast.literal_eval(node)
    except ValueError:
        return Computed


def _absolute(node: ast.ImportFrom, module: str, file: Path) -> str:
    """The module that a `from ... import` names."""
    if not node.level:
        return node.module or ""
    package = module.split(".")
    package = package[: len(package) - node.level + (1 if file.name == "__init__.py" else 0)]
    return ".".join([*package, *([node.module] if node.module else [])])


@cache
def _file(module: str) -> Path | None:
    """A module's source. Only the top package is looked up by import machinery, which imports nothing for it."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    place = Path(spec.origin) if not rest else Path(spec.origin).parent.joinpath(*rest)
    candidates = [place] if not rest else [place.with_suffix(".py"), place / "__init__.py"]
    return next((candidate for candidate in candidates if candidate.suffix == ".py" and candidate.is_file()), None)
