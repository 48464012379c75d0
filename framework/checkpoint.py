"""The model directory: a network and its tokenizer, ready for use, in Hugging Face's form.

    model.safetensors       weights; tied ones once, the vocabulary without padding rows
    config.json             the architecture as transformers, vLLM and llama.cpp read it; left out when no format expresses the network
    generation_config.json  where to stop, and defaults
    tokenizer*.json         written by the tokenizer
    framework.json          our class and arguments, lineage, versions, and a SHA-256 for every file and for itself

A network and a tokenizer flow in, a directory flows out, or the other way round. A directory is written beside its place and moved
there whole. Must not know trainers, recipes or training state.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import framework
from framework.errors import CheckpointError
from framework.files import sha256, sync
from framework.formats import own
from framework.formats.base import Format, Sizes
from framework.networks.base import Network
from framework.networks.transformer import Transformer
from framework.registry import CORE, PluginError, families, registry
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.pretrained import pretrained as pretrained_tokenizer

FORMAT_VERSION = 1
MANIFEST = "framework.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
FORMATS = "framework.formats"


def save(directory: Path, network: Network, tokenizer: Tokenizer, lineage: dict[str, Any], generation: dict[str, Any] | None = None) -> str:
    """Write a model directory; one that is there is replaced, and stays as it is when the new one cannot be written.

    Args:
        directory: its place; an existing directory must be empty or a model directory.
        network: its weights are written in the type they have.
        tokenizer: must fit the network's vocabulary.
        lineage: where the model comes from: hashes, parents, the resolved config; plain JSON values.
        generation: further fields of generation_config.json, e.g. `temperature`.

    Returns:
        One line that says what was written and who can open it.

    Raises:
        CheckpointError: the directory cannot be written, or holds something else.
    """
    if tokenizer.vocab_size > network.vocab_size:
        raise CheckpointError(f"the tokenizer has {tokenizer.vocab_size} ids and the network only {network.vocab_size}: not one model")
    directory = _settled(Path(directory))
    if directory.exists() and not (directory / MANIFEST).is_file() and (not directory.is_dir() or any(directory.iterdir())):
        raise CheckpointError(f"{directory} exists and is no model directory of ours; give a new or an empty one")
    partial = directory.with_name(f".{directory.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a save that was killed
        partial.mkdir(parents=True)
        summary = _write(partial, network, tokenizer, lineage, generation or {})
        _replace(directory, partial)
    except Exception as cause:
        _settled(directory)
        # the Rust libraries raise errors of their own, or bare Exceptions, for what the operating system refused
        if isinstance(cause, OSError | SafetensorError) or "os error" in str(cause):
            raise CheckpointError(f"{directory} could not be written and is as it was: {cause}") from cause
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return f"{directory}: {summary}"


def load(directory: Path) -> tuple[Network, Tokenizer]:
    """The network (in eval mode, as stored) and the tokenizer of a model directory. Raises CheckpointError, TokenizerError."""
    network, tokenizer = load_network(directory), pretrained_tokenizer(Path(directory))
    if tokenizer.vocab_size > network.vocab_size:
        raise CheckpointError(f"{directory}: its tokenizer has {tokenizer.vocab_size} ids and its network only {network.vocab_size}")
    return network, tokenizer


def load_network(directory: Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> Network:
    """The network of a model directory, ours or one that Hugging Face's libraries wrote, in eval mode.

    Args:
        directory: the model directory.
        dtype: type of the weights; None: as stored.
        device: where they go.

    Raises:
        CheckpointError: something is missing, damaged, or not supported; the message names it.
    """
    directory = _settled(Path(directory))
    if not directory.is_dir():
        raise CheckpointError(f"there is no model directory {directory}")
    try:
        network = _ours(directory, verify(directory)) if (directory / MANIFEST).is_file() else _foreign(directory)
    except CheckpointError as problem:
        raise problem if str(directory) in str(problem) else CheckpointError(f"{directory}: {problem}") from problem
    return network.to(device=device, dtype=dtype).eval()


def verify(directory: Path) -> dict[str, Any]:
    """The contents of framework.json, after comparing every file with its SHA-256. Raises CheckpointError naming the damaged file."""
    manifest = _read_json(Path(directory) / MANIFEST)
    if manifest.get("sha256") != _digest(manifest):
        raise CheckpointError(f"{Path(directory) / MANIFEST} is damaged: it does not match its own SHA-256")
    if manifest["format_version"] > FORMAT_VERSION:
        raise CheckpointError(f"{directory} was written by framework {manifest['framework_version']}, which is newer: upgrade")
    for name, expected in manifest["files"].items():
        file = Path(directory) / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing")
        if sha256(file) != expected:
            raise CheckpointError(f"{file} is damaged: it does not match its SHA-256 in {MANIFEST}")
    return manifest


# writing


def _write(directory: Path, network: Network, tokenizer: Tokenizer, lineage: dict[str, Any], generation: dict[str, Any]) -> str:
    name, objections = _expressing(network)
    tensors = own.to_tensors(network)
    summary = f"no Hugging Face architecture expresses it, only this framework opens it ({objections})"
    if name is not None:
        form, sizes = _format(name), _sizes(network)
        tensors = form.to_theirs(tensors, sizes)
        _write_json(directory / CONFIG, _common_config(form, tokenizer, tensors) | form.to_config(sizes))
        summary = f"{form.architecture}, {network.num_parameters():,} parameters"
    save_file({key: tensor.cpu().contiguous() for key, tensor in tensors.items()}, directory / WEIGHTS, metadata={"format": "pt"})
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    _write_json(directory / "generation_config.json", {key: value for key, value in ids.items() if value is not None} | generation)
    tokenizer.save(directory)
    manifest = {
        "format_version": FORMAT_VERSION,
        "framework_version": framework.__version__,
        "network": {"class_path": own.class_path(network), "init_args": network.init_args},
        "format": name,
        "lineage": lineage,
        "plugins": _plugins(),
        "files": {file.name: sha256(file) for file in sorted(directory.iterdir())},
    }
    _write_json(directory / MANIFEST, manifest | {"sha256": _digest(manifest)})
    return summary


def _common_config(form: Format, tokenizer: Tokenizer, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    return {
        "architectures": [form.architecture],
        "model_type": form.model_type,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
        "dtype": dtype,  # transformers 5
        "torch_dtype": dtype,  # transformers 4, vLLM
        "use_cache": True,
    }


def _replace(directory: Path, partial: Path) -> None:
    """Move a complete directory into place. What a crash in between leaves, `_settled` and the next save put right."""
    for path in (*partial.iterdir(), partial):
        sync(path)
    previous = _previous(directory)
    _clear(previous, directory)
    if directory.exists():
        directory.rename(previous)
    partial.rename(directory)
    sync(directory.parent)
    _clear(previous, directory)


def _clear(previous: Path, directory: Path) -> None:
    """Remove a directory that was replaced; files that someone else put beside ours move on to the new one."""
    if not previous.exists():
        return
    listed = _read_json(previous / MANIFEST)["files"] if (previous / MANIFEST).is_file() else {}
    for guest in previous.iterdir():
        if guest.name not in listed and not (directory / guest.name).exists():
            guest.rename(directory / guest.name)
    shutil.rmtree(previous)


def _previous(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.previous")


def _settled(directory: Path) -> Path:
    """The resolved path, after putting back a directory whose replacement was cut short."""
    directory = directory.resolve()
    if not directory.exists() and _previous(directory).is_dir():
        _previous(directory).rename(directory)
    return directory


# reading


def _ours(directory: Path, manifest: dict[str, Any]) -> Network:
    entry = manifest["network"]
    network = own.build(entry["class_path"], entry["init_args"])
    tensors = _read_tensors(directory)
    if manifest["format"] is not None:
        tensors = _format(manifest["format"]).to_ours(tensors, _sizes(network))
    own.fill(network, tensors)
    return network


def _foreign(directory: Path) -> Network:
    """A network from a directory without framework.json: config.json says what it is."""
    config = _read_json(directory / CONFIG)
    architectures = config.get("architectures") or ["(none)"]
    known = {form.architecture: form for form in _formats().values()}
    if architectures[0] not in known:
        raise CheckpointError(f"{directory / CONFIG} has the architecture {architectures[0]}; known: {', '.join(known)}")
    form = known[architectures[0]]
    try:
        sizes = form.from_config(config)
    except ValueError as problem:
        raise CheckpointError(f"{directory / CONFIG}: {problem}") from problem
    with torch.device("meta"):
        network = Transformer(*sizes)
    own.fill(network, form.to_ours(_read_tensors(directory), sizes))
    return network


def _read_tensors(directory: Path) -> dict[str, Tensor]:
    """Every tensor of model.safetensors, or of the files that its index names."""
    names = [WEIGHTS]
    if (directory / INDEX).is_file() and not (directory / WEIGHTS).is_file():
        names = sorted(set(_read_json(directory / INDEX)["weight_map"].values()))
    tensors: dict[str, Tensor] = {}
    for name in names:
        file = directory / Path(name).name  # an index cannot lead out of the directory
        if not file.is_file():
            pickled = " (pickled .bin weights are not read: save them as safetensors)" if any(directory.glob("*.bin")) else ""
            raise CheckpointError(f"{file} is missing{pickled}")
        try:
            tensors |= load_file(file)
        except (SafetensorError, OSError) as problem:
            raise CheckpointError(f"{file} is damaged: {problem}") from problem
    return tensors


# what both directions need


def _expressing(network: Network) -> tuple[str | None, str]:
    """The name of the first format that expresses a network, or None and what each of them objects to."""
    if not isinstance(network, Transformer):
        return None, f"formats express Transformer, this is a {type(network).__name__}"
    objections: list[str] = []
    for name, form in _formats().items():
        found = form.objections(network.shape)
        if not found:
            return name, ""
        objections.append(f"{name}: {', '.join(found)}")
    return None, "; ".join(objections)


def _formats() -> dict[str, Format]:
    """Every format that can be had: a broken plugin's harms nobody who does not name it."""
    forms: dict[str, Format] = {}
    for name in registry(FORMATS):
        try:
            forms[name] = _format(name)
        except PluginError:
            continue
    return forms


def _format(name: str) -> Format:
    form: Format = registry(FORMATS)[name]()
    return form


def _sizes(network: Network) -> Sizes:
    if not isinstance(network, Transformer):
        raise CheckpointError(f"{MANIFEST} names a format, and the network is no Transformer but a {type(network).__name__}")
    return Sizes(network.shape, network.vocab_size, network.context_length)


def _plugins() -> dict[str, str]:
    parts = [part for name in families() for part in registry(name).parts()]
    return {part.distribution: part.version for part in parts if part.distribution != CORE}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as missing:
        raise CheckpointError(f"{file} is missing") from missing
    except (OSError, ValueError) as problem:
        raise CheckpointError(f"{file} is damaged: {problem}") from problem
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is damaged: it holds no JSON object")
    return content


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's contents, its own digest left out."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
