"""The wheel works where there is no checkout: its recipes and configs are inside, plugins' wheels are found, and what they make names them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
SOURCES = ("framework", "recipes", "configs", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
PLUGINS = ("framework-lion", "framework-top-n-sigma")
LEFTOVERS = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist", "tests")

pytestmark = pytest.mark.slow


def run(*words: object, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"FRAMEWORK_CACHE": str(folder / "cache"), "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run([str(word) for word in words], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def build(kind: str, source: Path, into: Path) -> None:
    run(sys.executable, "-m", "build", "--no-isolation", kind, "--outdir", into, source, folder=into)


def contents(wheel: Path) -> list[str]:
    return sorted(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone holds, to build in."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=LEFTOVERS)
        else:
            shutil.copy(ROOT / name, folder / name)
    for plugin in PLUGINS:
        shutil.copytree(ROOT / "plugins" / plugin, folder / "plugins" / plugin, ignore=LEFTOVERS)
    return folder


@pytest.fixture(scope="module")
def wheels(source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The core's wheel and both plugins'. A file that an earlier build left behind is not in it."""
    stale = source / "build" / "lib" / "framework" / "share" / "recipes" / "removed.yaml"
    stale.parent.mkdir(parents=True)
    stale.write_text("a: 1\n")
    folder = tmp_path_factory.mktemp("wheels")
    for place in (source, *(source / "plugins" / plugin for plugin in PLUGINS)):
        build("--wheel", place, folder)
    return sorted(folder.glob("*.whl"))  # the core's is the first: framework-0.1.0... is before framework_lion-...


@pytest.fixture(scope="module")
def environment(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory outside the checkout with a virtual environment: the wheels, on top of this environment's packages but not its .pth files."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "venv", with_pip=False)
    site_packages = next((folder / "venv").glob("lib/python*/site-packages"))
    (site_packages / "below.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed", *wheels, folder=folder)
    return folder


def test_it_carries_recipes_and_configs_and_leaves_no_copies(wheels: list[Path], source: Path) -> None:
    names = contents(wheels[0])
    shared = {name.removeprefix("framework/share/") for name in names if name.startswith("framework/share/")}
    assert shared == {
        str(file.relative_to(ROOT)) for folder in ("recipes", "configs") for file in (ROOT / folder).rglob("*") if file.is_file()
    }
    assert "framework/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "plugins/", "recipes/", "configs/", "benchmarks/", "setup"))]
    assert not (source / "framework" / "share").exists()


def test_a_source_archive_builds_the_same(source: Path, wheels: list[Path], tmp_path: Path) -> None:
    build("--sdist", source, tmp_path)
    shutil.unpack_archive(next(tmp_path.glob("*.tar.gz")), tmp_path / "unpacked", filter="data")
    build("--wheel", next((tmp_path / "unpacked").iterdir()), tmp_path)
    assert contents(next(tmp_path.glob("*.whl"))) == contents(wheels[0])


def test_an_editable_installation_uses_the_checkout() -> None:
    from framework import share

    assert share.roots()[0] == ROOT and not (ROOT / "framework" / "share").exists()


def test_it_trains_with_a_plugin_outside_the_checkout(environment: Path) -> None:
    python, framework = (environment / "venv" / "bin" / name for name in ("python", "framework"))
    where = run(python, "-c", "import framework, framework.share as s; print(framework.__file__, *s.roots())", folder=environment)
    assert all(Path(path).is_relative_to(environment) for path in where.split()), where
    listed = [line.split() for line in run(framework, "plugins", folder=environment).splitlines()]
    assert ["optimizers", "Lion", "framework-lion", "0.1.0"] in listed and ["optimizers", "Muon", "framework", "0.1.0"] in listed

    smoke = ["--trainer", "configs/trainer/smoke.yaml", "--trainer.accelerator", "cpu"]
    run(framework, "fit", "--config", "recipes/pretrain.yaml", *smoke, "--model.optimizer", "Lion", folder=environment)
    folder = environment / "runs" / "pretrain"
    state = torch.load(folder / "checkpoints" / "step-00000002.ckpt", weights_only=True)
    assert state["framework"]["plugins"] == {"framework-lion": "0.1.0"}
    assert state["framework"]["config"]["model"]["init_args"]["optimizer"]["class_path"] == "framework_lion.Lion"
    manifest = json.loads((folder / "model" / "framework.json").read_text())
    assert manifest["lineage"]["plugins"] == {"framework-lion": "0.1.0"}
    sampler = ["--samplers+=TopNSigma", "--samplers.n", 1]
    told = run(framework, "generate", "runs/pretrain", "def ", "--max_new_tokens", 3, *sampler, folder=environment)
    assert told.startswith("def ")
