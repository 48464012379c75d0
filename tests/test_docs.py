"""The site builds without a warning, and the guide tells the truth: its commands run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


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
