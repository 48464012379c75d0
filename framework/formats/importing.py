"""A published model made into a model directory of ours, a tensor at a time: what comes in, checked, and where it came from.

A source (a Hugging Face directory, a GGUF file) flows in, a native model directory with its lineage flows out. Must not know how the
directory is used.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from framework import checkpoint
from framework.chat import ChatTemplate
from framework.errors import CheckpointError
from framework.files import sha256
from framework.formats import convert, known, own, sealed, sources
from framework.formats.tensor_files import TensorFiles
from framework.formats.weights import Progress, Weights, quiet, widest
from framework.networks.transformer import Transformer
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.pretrained import pretrained

NOT_DEFAULTS = ("_from_model_config", "transformers_version")  # in a generation_config.json


@dataclass(frozen=True)
class Model:
    """A model as it is stored, in Hugging Face's terms.

    Args:
        config: of config.json.
        weights: by the architecture's names, read one at a time.
        tokenizer: its own.
        template: turns chats into prompts; None: it has none.
        generation: of generation_config.json.
        origin: what it was made from: name, revision, licence, a SHA-256 for every file of weights; plain JSON values.
    """

    config: dict[str, Any]
    weights: Weights
    tokenizer: Tokenizer
    template: ChatTemplate | None
    generation: dict[str, Any]
    origin: dict[str, Any]


def import_model(source: str | Path, directory: Path, dtype: torch.dtype | None = None, progress: Progress = quiet) -> str:
    """Write a model directory from a source.

    Args:
        source: as `sources.directory` takes it.
        directory: the new one; an existing directory must be empty or a model directory.
        dtype: type of the weights; None: as stored, the widest where there are several.
        progress: told of the bytes written.

    Returns:
        One line that says what was written.

    Raises:
        CheckpointError, TokenizerError: what is missing, damaged or not supported.
    """
    model = opened(source)
    name, form, sizes = known.described(model.config)
    with own.without_values():
        network = Transformer(*sizes, published_as=name)
    checked = convert.Checked(form, model.weights, sizes)
    weights = convert.Cast(checked, dtype or widest(checked, checked.names))
    lineage = {"source": model.origin, "tokenizer": model.tokenizer.fingerprint}

    def fill(partial: Path) -> str:
        return checkpoint.write(partial, network, name, weights, model.tokenizer, lineage, model.generation, model.template, progress)

    return sealed.write_whole(directory, fill)


def opened(source: str | Path) -> Model:
    """A source's model, its weights not yet read. Raises CheckpointError, TokenizerError."""
    if (file := sources.gguf_file(source)) is not None:
        return _gguf(file)
    return _directory(sources.directory(source), str(source))


def _gguf(file: Path) -> Model:
    from framework.formats.gguf import open_gguf
    from framework.formats.gguf.layout import read_layout

    contents, layout = open_gguf(file), read_layout(file)
    origin = {"name": layout.text("general.name", file.stem), "kind": "gguf", "license": layout.text("general.license", "") or None}
    files = {file.name: sha256(file)}
    return Model(contents.config, contents, contents.tokenizer(), contents.template(), contents.generation, {**origin, "files": files})


def _directory(directory: Path, source: str) -> Model:
    """A model directory, Hugging Face's or ours."""
    if not (directory / checkpoint.CONFIG).is_file():
        raise CheckpointError(f"{directory} is a model of this framework's own kind, which no published architecture expresses")
    manifest = sealed.verify(directory) if (directory / sealed.MANIFEST).is_file() else None
    defaults = directory / checkpoint.GENERATION
    generation = sealed.read_json(defaults) if defaults.is_file() else {}
    return Model(
        sealed.read_json(directory / checkpoint.CONFIG),
        TensorFiles(directory),
        pretrained(directory),
        ChatTemplate.load(directory),
        {key: value for key, value in generation.items() if key not in NOT_DEFAULTS},
        _origin(directory, source) if manifest is None else {"name": directory.name, "kind": "framework", "sha256": manifest["sha256"]},
    )


def _origin(directory: Path, source: str) -> dict[str, Any]:
    from_hub = sources.is_hub_name(source)
    name, _, _ = source.partition("@")
    return {
        "name": name if from_hub else directory.resolve().name,
        "kind": "hub" if from_hub else "huggingface",
        "revision": directory.name if from_hub else None,  # a snapshot is called by its commit
        "license": _license(directory / "README.md"),
        "files": {file.name: sha256(file) for file in sorted(directory.glob("*.safetensors"))},
    }


def _license(card: Path) -> str | None:
    """What the head of a model card says."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    try:
        head = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else None
    except (yaml.YAMLError, IndexError):
        return None
    stated = head.get("license") if isinstance(head, dict) else None
    return json.dumps(stated) if isinstance(stated, list) else stated if stated is None else str(stated)
