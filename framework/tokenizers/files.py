"""The two files of a saved tokenizer, `tokenizer.json` and `tokenizer_config.json`: read with clear errors, written atomically.

Paths and JSON values flow in and out. Must not know what the values mean.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from framework.errors import TokenizerError
from framework.files import write_durably

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"


def tokenizer_file(path: Path) -> Path:
    """The `tokenizer.json` that `path` means: itself, or the one in that directory. Raises TokenizerError where there is none."""
    file = path / TOKENIZER if path.is_dir() else path
    if not file.is_file():
        raise TokenizerError(f"there is no tokenizer at {path}: it takes a directory with a {TOKENIZER}, or that file itself.")
    return file


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`. Raises TokenizerError naming the file and what is wrong with it."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise TokenizerError(f"{file} cannot be read as JSON ({problem}); it is damaged or no tokenizer file.") from problem
    if not isinstance(content, dict):
        raise TokenizerError(f"{file} holds no JSON object; it is no tokenizer file.")
    return content


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a JSON file so that readers see the old one or the whole new one, never a part. Raises StorageError."""
    text = json.dumps(content, ensure_ascii=False, indent=1).encode()
    write_durably(file, lambda writer: writer.write(text))


def write_tokenizer(directory: Path, tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    """Write both files of a tokenizer into `directory`."""
    write_json(directory / TOKENIZER, tokenizer)
    write_json(directory / CONFIG, config)


def cache_file(cache: Path, kind: str, key: object) -> Path:
    """Where a tokenizer learned under `key` (anything JSON holds) is kept: one name per key, so that a finished file is never stale."""
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    return cache / f"{kind}-{digest[:32]}.json"
