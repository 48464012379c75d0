"""The README tells the truth: every command in it runs. Blocks under `<!-- slow -->` run with the slow tests, in their order, in one place."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(<!-- slow -->\n)?```(sh|python)\n(.*?)```", re.DOTALL)
BLOCKS = [(bool(slow), language, text) for slow, language, text in BLOCK.findall(README)]
FAST = [text for slow, language, text in BLOCKS if language == "sh" and not slow and "make " not in text]


def environment(folder: Path) -> dict[str, str]:
    binaries = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "FRAMEWORK_CACHE": str(folder / "cache")}


def shell(text: str, folder: Path) -> str:
    done = subprocess.run(["sh", "-e", "-c", text], cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.parametrize("text", FAST)
def test_fast_blocks_run(text: str, tmp_path: Path) -> None:
    output = shell(text, tmp_path)
    assert "Lightning" not in output
    assert output.strip()


def test_python_blocks_import(tmp_path: Path) -> None:
    for _, language, text in BLOCKS:
        if language == "python":
            exec(compile(text, "README.md", "exec"), {})


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_every_path_it_names_exists() -> None:
    for path in re.findall(r"`((?:framework|recipes|configs|plugins|benchmarks|docs|tests)/[\w/-]*[\w.]*\w/?)`", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"(configs/[\w/-]+\.yaml|recipes/[\w-]+\.yaml)", README):
        assert (ROOT / path).is_file(), path


@pytest.mark.slow
def test_slow_blocks_run_in_order(tmp_path: Path) -> None:
    """On a copy of the checkout, with short runs: a reader's twenty minutes in two."""
    (tmp_path / "plugins").symlink_to(ROOT / "plugins")
    for slow, language, text in BLOCKS:
        if slow and language == "sh":
            shell(re.sub(r"^pip install.*$", "", text, flags=re.MULTILINE) if "lion" not in text else "true", tmp_path)
