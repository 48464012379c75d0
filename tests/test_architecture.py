"""How the package hangs together: imports point down, modules stand alone, names resolve, files stay readable."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "framework"

# a name may import what stands on lower lines, and nothing of its own line but itself
LAYERS = [
    {"errors", "__version__"},
    {"registry", "share", "files", "models"},
    {"kernels"},
    {"datasets", "tokenizers", "networks", "losses", "optimizers", "schedulers", "samplers"},
    {"chat"},
    {"batches", "engine", "formats", "checkpoint", "planner"},
    {"constraints"},
    {"generation", "rewards"},
    {"parity"},
    {"tasks"},
    {"training"},
    {"recipes"},
    {"inspection"},
    {"server"},
    {"ranking"},
    {"commands", "testing"},
    {"__main__"},
]
BESIDE = {
    ("checkpoint", "formats"),
    ("formats", "checkpoint"),
    ("commands", "testing"),
}  # formats.Pretrained is a model directory as a part
LIGHTNING = {"batches", "training", "recipes"}  # and the two files of the fit command
LIGHTNING_FILES = {PACKAGE / "commands" / "fit.py", PACKAGE / "commands" / "lightning_cli.py"}
LONGEST_FILE, LONGEST_FUNCTION = 400, 60


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "share" not in path.relative_to(PACKAGE).parts[:-1])


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(node: ast.AST) -> Iterator[str]:
    """The dotted names that a node imports, those inside functions too."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Import):
            yield from (alias.name for alias in inner.names)
        elif isinstance(inner, ast.ImportFrom):
            assert not inner.level, "imports are absolute"
            yield from (f"{inner.module}.{alias.name}" for alias in inner.names)


def layer(word: str) -> int:
    return next(number for number, words in enumerate(LAYERS) if word in words)


def test_every_part_of_the_package_has_a_layer() -> None:
    found = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in modules()} - {"__init__"}
    assert found == set().union(*LAYERS) - {"__version__"}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        assert not [name for name in imports(tree(path)) if name.partition(".")[0] not in sys.stdlib_module_names]
        return
    for name in imports(tree(path)):
        if not name.startswith("framework"):
            continue
        other = name.split(".")[1] if "." in name else "__version__"
        assert other == own or layer(other) < layer(own) or (own, other) in BESIDE, f"{path} imports {name}"


def test_no_import_cycles() -> None:
    """Of modules while they are imported; what a function imports comes later."""
    names = {name_of(path) for path in modules()}
    graph: dict[str, set[str]] = {}
    for path in modules():
        top = [node for node in tree(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
        targets = {name for node in top for name in imports(node)}
        graph[name_of(path)] = {found for name in targets for found in (name, name.rpartition(".")[0]) if found in names} - {name_of(path)}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"cycle: {' -> '.join((*trail, name))}"
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_lightning_is_kept_to_training(path: Path) -> None:
    allowed = path.relative_to(PACKAGE).parts[0] in LIGHTNING or path in LIGHTNING_FILES
    assert allowed or not [name for name in imports(tree(path)) if name.partition(".")[0] in ("lightning", "pytorch_lightning")]


def test_every_module_imports_alone(tmp_path: Path) -> None:
    """Whatever was imported before it: a child process forgets the package before each import (but not torch, which takes seconds)."""
    import lightning.pytorch.cli  # noqa: F401 - here, so that it is imported once for all tests

    if not (child := os.fork()):
        failed = {}
        for name in map(name_of, modules()):
            for known in [known for known in sys.modules if known.partition(".")[0] == "framework"]:
                del sys.modules[known]
            try:
                importlib.import_module(name)
            except BaseException:
                failed[name] = traceback.format_exc()
        (tmp_path / "failed.json").write_text(json.dumps(failed))
        os._exit(0)
    os.waitpid(child, 0)
    assert json.loads((tmp_path / "failed.json").read_text()) == {}


HEAVY = ("torch", "lightning", "transformers", "numpy", "jsonargparse")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["plugins"], ["plan", "recipes/pretrain.yaml"], ["nonsense"]])
def test_what_must_answer_at_once_imports_nothing_heavy(words: list[str]) -> None:
    code = f"import sys; from framework.__main__ import main; main({words!r}); sys.stdout = sys.stderr; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "framework.registry" in loaded
    heavy = HEAVY[:-1] if words[0] in ("plugins", "plan") else HEAVY  # their own arguments are parsed by jsonargparse
    assert not loaded & set(heavy)


def test_families_are_listed_without_torch() -> None:
    code = (
        "import sys, framework.networks, framework.recipes; print(dir(framework.networks), dir(framework.recipes), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Transformer" in done.stdout and "Pretrain" in done.stdout and done.stdout.split()[-1] == "False", done.stderr


def entry_points() -> list[tuple[str, str, str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    scripts = [("scripts", name, target) for name, target in project["scripts"].items()]
    return scripts + [(group, name, target) for group, entries in project["entry-points"].items() for name, target in entries.items()]


@pytest.mark.parametrize("entry", entry_points(), ids=lambda entry: f"{entry[0]}.{entry[1]}")
def test_every_entry_point_loads(entry: tuple[str, str, str]) -> None:
    group, name, target = entry
    module, _, attribute = target.partition(":")
    part = getattr(importlib.import_module(module), attribute)
    assert callable(part)
    if group in ("framework.commands", "framework.testing", "scripts"):
        return
    assert importlib.util.find_spec(group), f"{group} is no import path"
    assert name.isidentifier() and name[0].isupper()
    assert part.__doc__, f"{group}.{name} says nothing about itself"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[ast.get_docstring(node) is not None :] or node.body  # a signature and its description are data
            assert (node.end_lineno or 0) - first[0].lineno < LONGEST_FUNCTION, node.name
    assert ast.get_docstring(tree(path)), "a module says what it is, what flows in and out"
    if path.name != "__init__.py" and any(isinstance(node, ast.FunctionDef) for node in ast.walk(tree(path))):
        assert any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree(path).body)
    assert path.stem not in ("utils", "helpers", "common", "misc")


def texts() -> list[Path]:
    places = ["framework", "recipes", "configs", "plugins", "tests", "benchmarks", "docs", ".ci"]
    found = [file for place in places for file in (ROOT / place).rglob("*")] + [*ROOT.glob("*.*"), ROOT / "Makefile"]
    found = [file for file in found if file.is_file()]
    return sorted(
        file
        for file in found
        if file.suffix in (".py", ".md", ".yaml", ".toml", ".txt", ".json", ".cfg", "") and "egg-info" not in str(file)
    )


def test_no_text_names_a_place_on_somebody_s_machine() -> None:
    machine = re.compile(r"(?<![\w.*~])/(work|home|root|Users|mnt|media|scratch)/\w")
    for file in texts():
        if ".git" in file.parts or ".venv" in file.parts or file == Path(__file__):
            continue
        try:
            found = machine.search(file.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
        assert not found, f"{file}: {found.group()}"  # type: ignore[union-attr]
