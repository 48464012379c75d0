"""The model directory: a network and its tokenizer, ready for use, in Hugging Face's form.

    model.safetensors       weights; tied ones once, the vocabulary without padding rows; shards with an index where they are huge
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

from framework.chat import ChatTemplate
from framework.errors import CheckpointError
from framework.formats import convert, known, own, sealed, tensor_files
from framework.formats.base import Format
from framework.formats.sealed import MANIFEST, verify
from framework.formats.weights import InMemory, Progress, Weights, quiet
from framework.networks.base import Network
from framework.networks.lora import LoRA, without_adapters
from framework.networks.parts import as_part
from framework.networks.transformer import Transformer
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.pretrained import pretrained as pretrained_tokenizer

__all__ = ["load", "load_network", "published", "save", "verify", "write"]

CONFIG, GENERATION = "config.json", "generation_config.json"


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
    if adapted := next((module for module in network.modules() if isinstance(module, LoRA)), None):
        lineage = {**lineage, "base_sha256": adapted.base_digest}
    network = without_adapters(network)
    name, objections = known.expressing(network)
    tensors = own.to_tensors(network)
    weights: Weights = InMemory(tensors)
    if name is not None:
        weights = convert.Theirs(known.named(name), tensors, known.sizes(network))

    def fill(partial: Path) -> str:
        summary = write(partial, network, name, weights, tokenizer, lineage, generation, template)
        return f"no Hugging Face architecture expresses it, only this framework opens it ({objections})" if name is None else summary

    return sealed.write_whole(directory, fill)


def write(
    directory: Path,
    network: Network,
    format_name: str | None,
    weights: Weights,
    tokenizer: Tokenizer,
    lineage: Mapping[str, Any],
    generation: Mapping[str, Any] | None = None,
    template: ChatTemplate | None = None,
    progress: Progress = quiet,
) -> str:
    """Fill an empty directory with a model, whose weights are read one at a time; `save` and `sealed.write_whole` move it into place.

    Args:
        directory: the empty one.
        network: says what it is; its values are not looked at and may be missing.
        format_name: the format whose names the weights have; None: our own.
        weights: what is written, as it is.
        tokenizer, lineage, generation, template: as `save` takes them.
        progress: told of the bytes written.

    Returns:
        What was written.
    """
    if tokenizer.vocab_size > network.vocab_size:
        raise CheckpointError(f"the tokenizer has {tokenizer.vocab_size} ids and the network only {network.vocab_size}: not one model")
    summary = f"{type(network).__name__}, {network.num_parameters():,} parameters"
    if format_name is not None:
        form, sizes = known.named(format_name), known.sizes(network)
        dtype = weights.dtype(weights.names[0])
        sealed.write_json(directory / CONFIG, _common_config(form, tokenizer, dtype) | form.to_config(sizes))
        summary = f"{form.architecture}, {network.num_parameters():,} parameters"
    tensor_files.write(directory, weights, progress)
    ends = {tokenizer.eos_id} | (frozenset() if template is None else template.end_ids(tokenizer))
    end = tokenizer.eos_id if len(ends) == 1 else sorted(ends)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": end, "pad_token_id": tokenizer.pad_id}
    stated = {key: value for key, value in ids.items() if value is not None} | dict(generation or {})
    sealed.write_json(directory / GENERATION, stated)
    tokenizer.save(directory)
    if template is not None:
        template.save(directory)
    sealed.seal(directory, {"network": as_part(network), "format": format_name, "lineage": dict(lineage)})
    return summary


def load(directory: Path) -> tuple[Network, Tokenizer]:
    """The network (in eval mode, as stored) and the tokenizer of a model directory. Raises CheckpointError, TokenizerError."""
    network, tokenizer = load_network(directory), pretrained_tokenizer(Path(directory))
    if tokenizer.vocab_size > network.vocab_size:
        raise CheckpointError(f"{directory}: its tokenizer has {tokenizer.vocab_size} ids and its network only {network.vocab_size}")
    return network, tokenizer


def load_network(directory: Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> Network:
    """The network of a model directory, ours or one that Hugging Face's libraries wrote, in eval mode.

    Its parameters are the files' own pages where type and layout are the same: they take memory once, when they are looked at.

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
        if not (directory / MANIFEST).is_file():
            return published(sealed.read_json(directory / CONFIG), tensor_files.TensorFiles(directory), dtype, device)
        with sealed.verified(directory) as manifest:
            return _ours(directory, manifest, dtype, device)
    except CheckpointError as problem:
        raise problem if str(directory) in str(problem) else CheckpointError(f"{directory}: {problem}") from problem


def published(
    config: Mapping[str, Any], weights: Weights, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> Transformer:
    """The network of a published architecture, in eval mode, from what its config.json says and its weights. Raises CheckpointError."""
    name, form, sizes = known.described(config)
    with own.without_values():
        network = Transformer(*sizes, published_as=name)
    own.fill(network, convert.to_ours(form, weights, sizes), dtype, device)
    return network.to(device=device, dtype=dtype).eval()


def _ours(directory: Path, manifest: dict[str, Any], dtype: torch.dtype | None, device: str | torch.device) -> Network:
    if "network" not in manifest:
        raise CheckpointError(f"{directory} is an adapter and no model: give its base, and this as its adapter")
    entry = manifest["network"]
    network = own.build(entry["class_path"], entry["init_args"])
    weights = tensor_files.TensorFiles(directory)
    if manifest["format"] is None:
        own.fill(network, ((name, weights.tensor(name)) for name in weights.names), dtype, device)
    else:
        own.fill(network, convert.to_ours(known.named(manifest["format"]), weights, known.sizes(network)), dtype, device)
    return network.to(device=device, dtype=dtype).eval()


def _common_config(form: Format, tokenizer: Tokenizer, dtype: torch.dtype) -> dict[str, Any]:
    kind = str(dtype).removeprefix("torch.")
    return {
        "architectures": [form.architecture],
        "model_type": form.model_type,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
        "dtype": kind,  # transformers 5
        "torch_dtype": kind,  # transformers 4, vLLM
        "use_cache": True,
    }
