"""`framework report`: a page, a table and JSON of a real run, without torch."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from framework.commands.arguments import run
from framework.commands.report import report
from framework.errors import ConfigError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "run" / "logs").mkdir(parents=True)
    lines = [{"step": step, "train/loss": 1 / step} for step in (1, 2, 4)]
    (tmp_path / "run" / "logs" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "run"


def call(*words: object) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert run("report", report, [str(word) for word in words]) == 0
    return out.getvalue(), err.getvalue()


def test_table_page_and_json(directory: Path, tmp_path: Path) -> None:
    out, err = call(directory)
    assert "train loss:  0.25" in out and "█" in out and "warning: there is no" in err and "warning" not in out
    out, err = call(directory, "--output", tmp_path / "page.html")
    assert out == "" and (tmp_path / "page.html").read_text().startswith("<!doctype html>") and "wrote" in err
    out, _ = call(directory, "--json", "true", "--output", tmp_path / "all.json")
    assert json.loads(out) == json.loads((tmp_path / "all.json").read_text())
    assert json.loads(out)["runs"][0]["series"] == {"train/loss": {"steps": [1, 2, 4], "values": [1.0, 0.5, 0.25]}}


def test_mistakes(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one run"):
        call()
    with pytest.raises(ConfigError, match=r"ends in \.html"):
        call(directory, "--output", tmp_path / "page.pdf")
    with pytest.raises(ConfigError, match="is no directory"):
        call(directory, tmp_path / "other")


def test_it_imports_no_torch(directory: Path) -> None:
    code = f"import sys; from framework.commands.arguments import run; from framework.commands.report import report; run('report', report, [{str(directory)!r}]); print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"
