"""A word becomes a model directory: paths, GGUF files, the hub; what runs code never comes along."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from framework import checkpoint
from framework.errors import CheckpointError
from framework.formats import sources
from framework.formats.importing import import_model, opened
from framework.generation import Generator
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.tokenizers.byte import Byte

SHAPE = NetworkShape(2, 32, 4, 2, feedforward="swiglu", norm="rms", positions="rotary")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("runs") / "tiny" / "model"
    checkpoint.save(directory, Transformer(SHAPE, Byte().vocab_size, 64), Byte(), {})
    return directory


def test_runs_and_model_directories(model: Path) -> None:
    assert sources.directory(model) == sources.directory(model.parent) == sources.directory(str(model)) == model
    with pytest.raises(CheckpointError, match=r"there is no directory .*tinny; did you mean .*tiny\?"):
        sources.directory(model.parent.parent / "tinny")
    with pytest.raises(CheckpointError, match=r"nowhere/at/all: give a finished run .* or ORG/NAME"):
        sources.directory(model / "nowhere" / "at" / "all")
    with pytest.raises(CheckpointError, match=r"is no model directory \(it has no config\.json\)"):
        sources.directory(model.parent.parent)


def test_a_gguf_file_is_imported_once(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gguf")
    from framework.parity.publishing import to_gguf

    to_gguf(model, tmp_path / "a.gguf", "F32", check=False)
    place = sources.directory(tmp_path / "a.gguf")
    assert "importing it once" in capsys.readouterr().err
    assert sources.directory(tmp_path) == sources.directory(tmp_path / "a.gguf") == place
    assert capsys.readouterr().err == ""
    texts = [Generator.load(where).generate("abc", temperature=0, max_new_tokens=8) for where in (model, tmp_path / "a.gguf")]
    assert texts[0] == texts[1]
    source = json.loads((place / "framework.json").read_text())["lineage"]["source"]
    assert source["kind"] == "gguf" and source["files"] == {"a.gguf": hashlib.sha256((tmp_path / "a.gguf").read_bytes()).hexdigest()}
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"several GGUF files; name one of them: a\.gguf, b\.gguf"):
        sources.directory(tmp_path)
    with pytest.raises(CheckpointError, match=r"b\.gguf"):
        sources.directory(tmp_path / "b.gguf")


def test_what_is_a_name_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert sources.is_hub_name("org/name") and sources.is_hub_name("org/name-1.5_b@v1.0/x") and sources.is_hub_name("nowhere/model")
    for path in ("name", "./org/name", "../org/name", "/org/name", "org/name/more", "here/model", "runs/pretrain", "org/../name", "org/"):
        assert not sources.is_hub_name(path), path


class Hub(SimpleHTTPRequestHandler):
    """A hub with one model, as far as snapshot_download asks."""

    files: dict[str, bytes]
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, body: bool) -> None:
        self.asked.append(self.path)
        path = self.path.partition("?")[0]
        about = {"id": "org/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]}
        if path.startswith("/api/models/org/tiny/revision/"):
            return self._send(json.dumps(about).encode(), body)
        if path.startswith("/api/models/org/tiny/tree/"):
            tree = [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in self.files.items()]
            return self._send(json.dumps(tree).encode(), body)
        name = path.partition(f"/org/tiny/resolve/{COMMIT}/")[2]
        if name in self.files:
            return self._send(self.files[name], body, ETag=f'"{hashlib.sha1(self.files[name]).hexdigest()}"')
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    def _send(self, data: bytes, body: bool, **headers: str) -> None:
        self.send_response(200)
        for key, value in {
            "Content-Length": str(len(data)),
            "X-Repo-Commit": COMMIT,
            "Content-Type": "application/json",
            **headers,
        }.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def hub(model: Path, tmp_path: Path) -> Iterator[tuple[str, type[Hub]]]:
    """A hub on this machine; the model there brings a payload in every form in which one could be run."""
    files = {file.name: file.read_bytes() for file in model.iterdir() if file.name != "framework.json"}
    config = json.loads(files["config.json"]) | {"auto_map": {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Evil"}}
    payload = f"open({str(tmp_path / 'ran')!r}, 'w').write('ran')".encode()
    files |= {"config.json": json.dumps(config).encode(), "README.md": b"---\nlicense: apache-2.0\n---\n# tiny"}
    files |= {"evil.py": payload, "pytorch_model.bin": b"pickle", "onnx/model.safetensors": b"other", "setup.cfg": b""}
    handler = type("Handler", (Hub,), {"files": files, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    server.server_close()


IMPORT = """
import sys
from framework.errors import UserError
try:
    if sys.argv[2:]:
        from framework.formats.importing import import_model
        import_model(*sys.argv[1:])
    else:
        from framework.formats.sources import directory  # no torch: quick
        directory(sys.argv[1])
except UserError as error:
    sys.exit(f"error: {error}")
"""


@pytest.fixture
def importing(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Finds a source, or imports it, in a process of its own: the hub's library reads its address when it is imported."""

    def run(name: str, endpoint: str, *output: Path, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
        environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", **more}
        command = [sys.executable, "-c", IMPORT, name, *map(str, output)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120, check=False)

    return run


def test_a_model_of_the_hub(model: Path, hub: Any, importing: Any, tmp_path: Path) -> None:
    """TRAP-144: its code and its pickles are not even asked for; the commit is in the lineage."""
    pytest.importorskip("huggingface_hub")
    endpoint, handler = hub
    made = importing("org/tiny", endpoint, tmp_path / "model")
    assert made.returncode == 0, made.stderr
    asked = {path.partition("?")[0].rpartition("/")[2] for path in handler.asked if "/resolve/" in path}
    assert asked >= {"config.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert not asked & {"evil.py", "pytorch_model.bin", "setup.cfg"} and not any("onnx" in path for path in handler.asked)
    assert not (tmp_path / "ran").exists() and not list(tmp_path.rglob("evil.py"))
    source = json.loads((tmp_path / "model" / "framework.json").read_text())["lineage"]["source"]
    assert (source["name"], source["kind"], source["revision"], source["license"]) == ("org/tiny", "hub", COMMIT, "apache-2.0")
    one, other = checkpoint.load_network(model), checkpoint.load_network(tmp_path / "model")
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    assert "auto_map" not in (tmp_path / "model" / "config.json").read_text()
    handler.asked.clear()
    assert importing("org/tiny", endpoint, HF_HUB_OFFLINE="1").returncode == 0 and not handler.asked  # it is here now


def test_a_hub_without_it_and_no_hub_at_all(hub: Any, importing: Any) -> None:
    pytest.importorskip("huggingface_hub")
    made = importing("org/other", hub[0])
    assert made.returncode and "the Hugging Face hub has no such model for you" in made.stderr.splitlines()[-1], made.stderr
    for endpoint, more in (("http://127.0.0.1:9", {}), (hub[0], {"HF_HUB_OFFLINE": "1"})):
        made = importing("org/other", endpoint, **more)
        assert "there is no directory org/other, the Hugging Face hub cannot be reached" in made.stderr.splitlines()[-1], made.stderr
        assert made.stderr.splitlines()[-1].startswith("error: ")


def test_a_payload_in_a_directory_is_not_run(model: Path, tmp_path: Path) -> None:
    """TRAP-144, for a directory that came some other way."""
    place = tmp_path / "evil"
    place.mkdir()
    for file in model.iterdir():
        if file.name != "framework.json":
            (place / file.name).write_bytes(file.read_bytes())
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((place / name).read_text()) | {"auto_map": {"AutoModelForCausalLM": "evil.Evil", "AutoTokenizer": "evil.Evil"}}
        (place / name).write_text(json.dumps(content))
    (place / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write('ran')")
    assert Generator.load(place).generate("a", max_new_tokens=2)
    import_model(place, tmp_path / "model")
    assert opened(place).origin["files"].keys() == {"model.safetensors"}
    assert not (tmp_path / "ran").exists() and not (tmp_path / "model" / "evil.py").exists()
