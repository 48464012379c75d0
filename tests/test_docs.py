"""The site builds without a warning, and the guide tells the truth: its commands run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "guide").glob("*.md"))
BLOCK = re.compile(r"(<!-- slow -->\n)?```sh\n(.*?)```", re.DOTALL)
BLOCKS = {(page.stem, bool(slow)): page for page in PAGES for slow, _ in BLOCK.findall(page.read_text(encoding="utf-8"))}


def run(page: Path, slow: bool, folder: Path) -> None:
    """A page's commands, in order, in one place."""
    binaries = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    for is_slow, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if bool(is_slow) == slow:
            done = subprocess.run(["sh", "-e", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{text}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("name", [name for name, slow in BLOCKS if not slow])
def test_a_page_of_the_guide_runs(name: str, tmp_path: Path) -> None:
    run(BLOCKS[name, False], False, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, slow in BLOCKS if slow])
def test_a_page_s_slow_commands_run(name: str, tmp_path: Path) -> None:
    run(BLOCKS[name, True], True, tmp_path)


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(tmp_path / "doctrees"), "docs", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    outside = re.compile(r'<(?:script|img|iframe|source)[^>]*src="(?:https?:)?//|<link[^>]*href="(?:https?:)?//')
    assert not [page for page in pages if outside.search(page.read_text(encoding="utf-8"))], "a page asks another host"


@pytest.mark.parametrize("name", ["AdamW", "GRPO", "TopP", "framework generate"])
def test_the_reference_has_every_part(name: str, tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import reference
    finally:
        sys.path.remove(str(ROOT / "docs"))
    reference.write(tmp_path)
    text = "\n".join(file.read_text(encoding="utf-8") for file in tmp_path.glob("*.md"))
    assert f"## {name}\n" in text


def test_the_figures_of_the_forward_pass_are_those_of_the_model(tmp_path: Path) -> None:
    """What the guide prints of `tiny`, printed again; another machine's last digits may differ."""
    page = (ROOT / "docs" / "guide" / "forward.md").read_text(encoding="utf-8")
    commands = [line for line in page.splitlines() if line.startswith("framework inspect tiny") and "--html" not in line]
    command = " && ".join(commands).replace("framework", f"{sys.executable} -m framework")
    shown = subprocess.run(["sh", "-e", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    lines = [line for text in re.findall(r"```text\n(.*?)```", page, re.DOTALL) for line in text.splitlines()]
    number = re.compile(r"-?\d+\.\d+")
    known = {number.sub("#", line): [float(found) for found in number.findall(line)] for line in shown.splitlines()}
    figures = [line for line in lines if number.search(line)]
    assert len(figures) > 8
    for line in figures:
        matching = [values for text, values in known.items() if text.split() == number.sub("#", line).split()]
        assert any(values == pytest.approx([float(found) for found in number.findall(line)], abs=0.11) for values in matching), line
