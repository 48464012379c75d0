"""A small corpus of real text, the tokenizers trained on it, and a guard for what needs downloaded vocabularies."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framework.tokenizers.bpe import BPE
from framework.tokenizers.tiktoken import Tiktoken, downloaded


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Ten modules of the standard library: some 400 kB."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:10]
    return [file.read_text(encoding="utf-8") for file in files]


@pytest.fixture(scope="session")
def bpe(texts: list[str]) -> BPE:
    return BPE.train(texts, vocab_size=800)


@pytest.fixture(scope="session")
def published() -> Callable[[Any], Tiktoken]:
    """Opens one of tiktoken's encodings, or skips: no test waits for a network."""
    opened: dict[str, Tiktoken] = {}

    def open_or_skip(name: Any) -> Tiktoken:
        if not downloaded(name):
            pytest.skip(f"tiktoken's {name} is not on this machine (TIKTOKEN_CACHE_DIR)")
        return opened.setdefault(name, Tiktoken(name))

    return open_or_skip


@pytest.fixture
def edited(tmp_path: Path, bpe: BPE) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """Saves a BPE, lets a function change its tokenizer.json, and gives the directory."""

    def edit(change: Callable[[dict[str, Any]], None]) -> Path:
        bpe.save(tmp_path)
        content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
        change(content)
        (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        return tmp_path

    return edit
