"""`framework rank`: refusals in one line, a whole session over its socket, and one that is killed in the middle."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from framework.commands.arguments import run
from framework.commands.rank import fingerprint, rank, read_turns
from framework.datasets import records
from framework.datasets.base import Message
from framework.datasets.json_lines import JsonLines
from framework.errors import CheckpointError, ConfigError, DataError, RequestError, UserError
from framework.ranking.ledger import Ledger, rankings_path
from framework.ranking.rankings import Ranking, Reply

pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

PROGRAM = "import sys; from framework.__main__ import main; sys.exit(main(['rank', *sys.argv[1:]]))"


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


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"prompt {number}"}) + "\n" for number in range(6)))
    return path


def test_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.jsonl"
    rows = [
        {"prompt": "a"},
        {"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "x"}]},
        {"prompt": "a", "answer": 1},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_turns(path) == ["a", (Message("user", "b"),)]
    assert "1 of 3 prompts" in capsys.readouterr().err
    (tmp_path / "p.txt").write_text("one\n\ntwo\r\n")
    assert read_turns(tmp_path / "p.txt") == ["one", "two"]
    path.write_text('{"other": 1}\n')
    with pytest.raises(DataError, match=r"p\.jsonl:1"):
        read_turns(path)


def test_fingerprint(model: Path, tmp_path: Path) -> None:
    assert fingerprint(model) == fingerprint(model.parent) and re.fullmatch("[0-9a-f]{64}", fingerprint(model))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"other")
    (tmp_path / "adapter_config.json").write_text("{}")
    assert len({fingerprint(model), fingerprint(tmp_path), fingerprint(model, tmp_path)}) == 3


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        ([], ConfigError, "framework rank DIR --prompts FILE --output NAME.jsonl"),
        (["MODEL", "--output", "o.jsonl"], ConfigError, "--prompts FILE"),
        (["MODEL", "MODEL", "--prompts", "PROMPTS", "--output", "o.jsonl"], ConfigError, "needs a model"),
        (["MODEL", "--prompts", "PROMPTS", "--output", "PROMPTS"], ConfigError, "mixed with the prompts"),
        (["MODEL", "--prompts", "PROMPTS", "--output", "o.txt"], ConfigError, "NAME.jsonl"),
        (["MODEL", "--prompts", "PROMPTS", "--output", "o.jsonl", "--samples", "1"], RequestError, "samples is 1"),
        (["MODEL", "--prompts", "PROMPTS", "--output", "o.jsonl", "--lookahead", "-1"], RequestError, "lookahead"),
        (["MODEL", "--prompts", "PROMPTS", "--output", "o.jsonl", "--temperature", "-1"], RequestError, "temperature"),
        (["MODEL", "--prompts", "missing.jsonl", "--output", "o.jsonl"], DataError, "missing.jsonl"),
        (["MODEL", "--prompts", "CHATS", "--output", "o.jsonl"], CheckpointError, "no chat template"),
        (["missing", "--prompts", "PROMPTS", "--output", "o.jsonl"], CheckpointError, "no directory missing"),
        (["MODEL", "--prompts", "PROMPTS", "--output", "o.jsonl", "--port", "99999"], ConfigError, "65535"),
        (["MODEL", "--prompts", "PROMPTS", "--output", "o.jsonl", "--num_beams", "2"], ConfigError, "no option --num_beams"),
        (["--agreement", "o.jsonl"], DataError, "o.rankings.jsonl"),
        (["MODEL", "--agreement", "o.jsonl"], ConfigError, "stands alone"),
    ],
)
def test_refusals(
    model: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], kind: type[UserError], message: str
) -> None:
    monkeypatch.chdir(prompts.parent)
    Path("chats.jsonl").write_text('{"question": "?", "answer": "!"}\n')
    places = {"MODEL": str(model), "PROMPTS": str(prompts), "CHATS": "chats.jsonl"}
    with pytest.raises(kind, match=re.escape(message)) as refused:
        run("rank", rank, [places.get(word, word) for word in words])
    assert "\n" not in str(refused.value)
    assert not Path("o.jsonl").exists() or not Path("o.jsonl").read_bytes()


def test_a_foreign_output_is_left_alone(model: Path, prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.jsonl"
    output.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    with pytest.raises(DataError, match="name another output"):
        run("rank", rank, [str(model), "--prompts", str(prompts), "--output", str(output)])
    assert output.read_text() == '{"prompt": "p", "chosen": "a", "rejected": "b"}\n'


def test_agreement_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "o.jsonl"
    ledger = Ledger(output)
    for rater, ranks in {"ann": (1, 2, 3), "bob": (1, 3, 2)}.items():
        replies = tuple(Reply(text, seed, True) for seed, text in enumerate("abc"))
        ledger.add(Ranking(rater, "p", replies, ranks, (0, 1, 2), rater, "m", ""))
    assert run("rank", rank, ["--agreement", str(output)]) == 0
    told = capsys.readouterr()
    assert told.out.startswith(
        "agreement: 3 pairs judged by at least 2 of 2 raters; pairwise 66.7%; Krippendorff's alpha (nominal) 0.389\n"
    )


class Started(NamedTuple):
    process: Any
    client: Any
    token: str

    def next(self, rater: str = "ann") -> dict[str, Any]:
        while (view := self.client.get("/next", params={"rater": rater}).json())["state"] == "writing":
            time.sleep(0.01)
        return dict(view)

    def rank(self, rater: str = "ann") -> dict[str, Any]:
        view = self.next(rater)
        ranks = list(range(1, 1 + len(view["replies"])))
        return dict(self.client.post("/rank", json={"rater": rater, "key": view["key"], "ranks": ranks}).raise_for_status().json())


@pytest.fixture
def start(model: Path, prompts: Path) -> Callable[..., Any]:
    """`with start("--rater", "ann") as started`: the command in a process of its own."""

    @contextmanager
    def begin(*words: str) -> Iterator[Started]:
        output = prompts.with_name("out.jsonl")
        command = [sys.executable, "-c", PROGRAM, str(model), "--prompts", str(prompts), "--output", str(output), "--max_new_tokens", "5"]
        with subprocess.Popen([*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
            try:
                assert process.stderr is not None
                line = process.stderr.readline()
                found = re.search(r"ranking on (http://\S+?)/(?:#(\S+))? ", line)
                assert found, line + process.stderr.read()
                url, token = found[1].replace("0.0.0.0", "127.0.0.1"), found[2] or ""
                headers = {"authorization": f"Bearer {token}"} if token else {}
                with httpx.Client(base_url=url, headers=headers, timeout=60, transport=httpx.HTTPTransport(retries=20)) as client:
                    yield Started(process, client, token)
            finally:
                process.kill()

    return begin


def test_a_session_that_is_killed_loses_nothing(start: Callable[..., Any], prompts: Path) -> None:
    """Two rankings, SIGKILL, a torn line; then the rest, by two raters, and Ctrl-C."""
    output = prompts.with_name("out.jsonl")
    with start("--rater", "ann") as started:
        started.rank()
        assert started.rank()["num_done"] == 2
        shown = started.next()
        started.process.send_signal(signal.SIGKILL)
        started.process.wait(10)
    before = output.read_bytes()
    assert before.count(b"\n") == 2 * 6
    with rankings_path(output).open("ab") as file:
        file.write(b'{"id": "half a li')
    with start("--rater", "ann") as started:
        view = started.next()
        assert view["num_done"] == 2 and view["prompt"] == "prompt 2"
        assert view == shown | {"can_undo": False}, "the same replies in the same order"
        while started.next()["state"] != "done":
            started.rank()
        for _ in range(2):
            started.rank("bob")
        started.process.send_signal(signal.SIGINT)
        assert started.process.wait(20) == 0
        told, out = started.process.stderr.read(), started.process.stdout.read()
    assert out == "" and "Traceback" not in told
    assert f"6 rankings made now; {output} holds 48 pairs from 8 rankings, 0 of them skipped" in told
    assert "12 pairs judged by at least 2 of 2 raters" in told and "Krippendorff" in told
    assert output.read_bytes().startswith(before)
    assert len(records.read(JsonLines(str(output)), records.preference)) == 48


@pytest.mark.slow
def test_a_place_that_others_can_reach_takes_a_token(start: Callable[..., Any]) -> None:
    with start("--host", "0.0.0.0", "--samples", "2") as started:
        assert len(started.token) > 20
        assert started.rank()["num_done"] == 1
        assert httpx.get(started.client.base_url.join("/agreement")).status_code == 401
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(20) == 0
