"""The model directory: a network and its tokenizer, ready for use, in Hugging Face's form.

    model.safetensors       weights; tied ones once, the vocabulary without padding rows
    config.json             the architecture as transformers, vLLM and llama.cpp read it; left out when no format expresses the network
    generation_config.json  where to stop, and defaults
    tokenizer*.json         written by the tokenizer; chat_template.jinja beside them where the network learnt one
    framework.json          our class and arguments, lineage, versions, and a SHA-256 for every file and for itself

A network and a tokenizer flow in, a directory flows out, or the other way round. A directory is written beside its place and moved
there whole. Must not know trainers, recipes or training state.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from framework.chat import ChatTemplate
from framework.errors import CheckpointError
from framework.formats import known, own, sealed
from framework.formats.base import Format
from framework.formats.sealed import MANIFEST, verify
from framework.networks.base import Network
from framework.networks.lora import LoRA, without_adapters
from framework.networks.parts import as_part
from framework.networks.transformer import Transformer
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.pretrained import pretrained as pretrained_tokenizer

__all__ = ["load", "load_network", "save", "verify"]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"


def save(
    directory: Path,
    network: Network,
    tokenizer: Tokenizer,
    lineage: dict[str, Any],
    generation: dict[str, Any] | None = None,
    template: ChatTemplate | None = None,
) -> str:
    """Write a model directory; one that is there is replaced, and stays as it is when the new one cannot be written.

    Args:
        directory: its place; an existing directory must be empty or a model directory.
        network: its weights are written in the type they have; those of a LoRA merged.
        tokenizer: must fit the network's vocabulary.
        lineage: where the model comes from: hashes, parents, the resolved config; plain JSON values.
        generation: further fields of generation_config.json, e.g. `temperature`.
        template: turns chats into prompts; None: the tokenizer's own files say, or there are no chats.

    Returns:
        One line that says what was written and who can open it.

    Raises:
        CheckpointError: the directory cannot be written, or holds something else.
    """
    if tokenizer.vocab_size > network.vocab_size:
        raise CheckpointError(f"the tokenizer has {tokenizer.vocab_size} ids and the network only {network.vocab_size}: not one model")
    if adapted := next((module for module in network.modules() if isinstance(module, LoRA)), None):
        lineage = {**lineage, "base_sha256": adapted.base_digest}
    network = without_adapters(network)
    return sealed.write_whole(directory, lambda partial: _write(partial, network, tokenizer, lineage, generation or {}, template))


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
    directory = sealed.settled(Path(directory))
    if not directory.is_dir():
        raise CheckpointError(f"there is no model directory {directory}")
    try:
        network = _ours(directory, verify(directory)) if (directory / MANIFEST).is_file() else _foreign(directory)
    except CheckpointError as problem:
        raise problem if str(directory) in str(problem) else CheckpointError(f"{directory}: {problem}") from problem
    return network.to(device=device, dtype=dtype).eval()


# writing


def _write(
    directory: Path,
    network: Network,
    tokenizer: Tokenizer,
    lineage: dict[str, Any],
    generation: dict[str, Any],
    template: ChatTemplate | None,
) -> str:
    name, objections = known.expressing(network)
    tensors = own.to_tensors(network)
    summary = f"no Hugging Face architecture expresses it, only this framework opens it ({objections})"
    if name is not None:
        form, sizes = known.named(name), known.sizes(network)
        tensors = form.to_theirs(tensors, sizes)
        sealed.write_json(directory / CONFIG, _common_config(form, tokenizer, tensors) | form.to_config(sizes))
        summary = f"{form.architecture}, {network.num_parameters():,} parameters"
    save_file({key: tensor.cpu().contiguous() for key, tensor in tensors.items()}, directory / WEIGHTS, metadata={"format": "pt"})
    ends = {tokenizer.eos_id} | (frozenset() if template is None else template.end_ids(tokenizer))
    end = tokenizer.eos_id if len(ends) == 1 else sorted(ends)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": end, "pad_token_id": tokenizer.pad_id}
    sealed.write_json(directory / "generation_config.json", {key: value for key, value in ids.items() if value is not None} | generation)
    tokenizer.save(directory)
    if template is not None:
        template.save(directory)
    sealed.seal(directory, {"network": as_part(network), "format": name, "lineage": lineage})
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


# reading


def _ours(directory: Path, manifest: dict[str, Any]) -> Network:
    if "network" not in manifest:
        raise CheckpointError(f"{directory} is an adapter and no model: give its base, and this as its adapter")
    entry = manifest["network"]
    network = own.build(entry["class_path"], entry["init_args"])
    tensors = _read_tensors(directory)
    if manifest["format"] is not None:
        tensors = known.named(manifest["format"]).to_ours(tensors, known.sizes(network))
    own.fill(network, tensors)
    return network


def _foreign(directory: Path) -> Network:
    """A network from a directory without framework.json: config.json says what it is."""
    config = sealed.read_json(directory / CONFIG)
    architectures = config.get("architectures") or ["(none)"]
    forms = {form.architecture: form for form in known.formats().values()}
    if architectures[0] not in forms:
        raise CheckpointError(f"{directory / CONFIG} has the architecture {architectures[0]}; known: {', '.join(forms)}")
    form = forms[architectures[0]]
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
        names = sorted(set(sealed.read_json(directory / INDEX)["weight_map"].values()))
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
