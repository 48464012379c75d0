"""`framework serve`: names, refusals in one line, and a server from its first line to its end by a signal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import torch

from framework.commands.arguments import run
from framework.commands.serve import named, serve
from framework.errors import CheckpointError, ConfigError

pytest.importorskip("uvicorn")

PROGRAM = "import sys; from framework.commands.arguments import run; from framework.commands.serve import serve; sys.exit(run('serve', serve, sys.argv[1:]))"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from framework.checkpoint import save
    from framework.networks.shape import NetworkShape
    from framework.networks.transformer import Transformer
    from framework.tokenizers.byte import Byte

    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("runs") / "tiny" / "model"
    directory.parent.mkdir()
    save(directory, Transformer(NetworkShape(num_layers=1, width=16, num_heads=2), Byte().vocab_size, 64), Byte(), {})
    return directory


def test_names(tmp_path: Path) -> None:
    assert list(named(("runs/sft", "runs/base/model", "x=runs/sft", "./a/"))) == ["sft", "base", "x", "a"]
    assert named(("x=runs/sft",)) == {"x": Path("runs/sft")}
    assert named(("/tmp/a=b",)) == {"a=b": Path("/tmp/a=b")}, "a path that holds an equals sign"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "framework serve DIR"),
        (["runs/a", "other/a"], "NAME=DIR"),
        (["MODEL", "--host", "0.0.0.0"], "--api_key"),
        (["MODEL", "--host", "::"], "--api_key"),
        (["MODEL", "--api_key", ""], "empty"),
        (["MODEL", "--port", "99999"], "65535"),
        (["MODEL", "--max_queue", "0"], "max_queue is 0"),
        (["MODEL", "--reply_seconds", "inf"], "reply_seconds"),
        (["MODEL", "--hots", "x"], "did you mean --host?"),
    ],
)
def test_refusals(model: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as refused:
        run("serve", serve, [str(model) if word == "MODEL" else word for word in words])
    assert "\n" not in str(refused.value)


def test_a_missing_model_is_said_and_leaves_no_server(model: Path) -> None:
    with pytest.raises(CheckpointError, match="no directory"):
        run("serve", serve, [str(model.parent.parent / "nothing"), "--port", "0"])


def test_help_names_every_limit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("serve", serve, ["--help"])
    told = capsys.readouterr().out
    assert all(option in told for option in ("--max_queue", "--shutdown_seconds", "--quantize", "--api_key", "--max_running"))


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_server_from_its_first_line_to_its_end(model: Path, number: signal.Signals) -> None:
    """The key comes from the environment; the log holds neither it nor a prompt; a signal ends the server with exit code 0."""
    environment = {**os.environ, "FRAMEWORK_API_KEY": "a-secret-key"}
    words = [sys.executable, "-c", PROGRAM, str(model), f"again={model}", "--port", "0", "--host", "0.0.0.0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stderr is not None and server.stdout is not None
            found = None
            while not found:
                line = server.stderr.readline()
                assert line, "the server ended"
                found = re.search(r"serving tiny, again on (http://\S+)", line)
            url = found[1].replace("0.0.0.0", "127.0.0.1")
            with httpx.Client(base_url=url, headers={"Authorization": "Bearer a-secret-key"}, timeout=30) as client:
                body = {"prompt": "my-private-words", "max_tokens": 4}
                while True:
                    try:
                        assert client.post("/v1/completions", json=body).status_code == 200
                        break
                    except httpx.ConnectError:  # it is bound, and listens in a moment
                        continue
                assert client.get("/v1/models").json()["data"][1]["id"] == "again"
            assert httpx.get(f"{url}/v1/models").status_code == 401
            server.send_signal(number)
            assert server.wait(20) == 0
            out, log = server.stdout.read(), server.stderr.read()
        finally:
            server.kill()
    assert out == "" and "POST /v1/completions 200" in log and "GET /v1/models 401" in log
    assert "private" not in log and "secret" not in log and "Traceback" not in log
