"""Adapters as peft keeps them, so that `peft`, vLLM and others load ours and we load theirs.

    adapter_model.safetensors  A and B of every layer, by the names the published architecture has for it
    adapter_config.json        rank, alpha, dropout, which layers
    framework.json             the base's SHA-256 and what it was made into, lineage, a SHA-256 for every file (peft's own have none)

A LoRA network flows in, a directory flows out, or the other way round. Where several of their layers are one of ours (query, key and
value), ours has one A for all of them: they get copies of it, and what they bring with an A each becomes one A of all their rows and a B
of blocks. Where several of ours are one of theirs (Phi-3's gate and up), the same goes the other way. Must not know trainers or merged
models.

Shape legend: I inputs, O outputs, R rank.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from framework.chat import ChatTemplate
from framework.errors import CheckpointError
from framework.formats import known, peft_rows, sealed, trained_on
from framework.networks.base import Network
from framework.networks.lora import LoRA
from framework.networks.low_rank import Adapter, divisor
from framework.tokenizers.base import Tokenizer

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."  # what peft puts around the names of the network inside
Ours = tuple[str, ...]  # our layers, of which the published architecture makes one or several of its own
COMPUTED: dict[str, Sequence[Any]] = {  # fields that change the function, and the values we compute
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "use_qalora": (False, None),
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None, []),
}


class Place(NamedTuple):
    """Where the published architecture keeps one of our linear layers, or several in one.

    Attributes:
        theirs: their layers, which share our rows out between them in this order.
        rows: how many of our rows each of them has.
        num_inputs: columns of ours.
        transposed: they keep [in, out] (GPT-2's Conv1D).
    """

    theirs: tuple[str, ...]
    rows: tuple[int, ...]
    num_inputs: int
    transposed: bool


def save_adapter(
    directory: Path,
    network: LoRA,
    lineage: Mapping[str, Any] | None = None,
    tokenizer: Tokenizer | None = None,
    template: ChatTemplate | None = None,
    name: str | None = None,
) -> str:
    """Write one adapter, without its base, whole or not at all.

    Args:
        directory: its place; an existing directory must be empty or one of ours.
        network: has the adapter.
        lineage: where the adapter comes from, plain JSON values; peft is told of the base that `config` in it names.
        tokenizer: written beside it, as peft's users do.
        template: the chat template it was trained with, used instead of the base's when the two are loaded together.
        name: which adapter; None: the one in use.

    Returns:
        One line that says what was written.

    Raises:
        CheckpointError: the directory cannot be written, or holds something else; no adapter is in use.
    """
    name = name or network.in_use
    if name is None:
        raise CheckpointError("no adapter is in use: name the one to save")
    places, lineage = _places(network), dict(lineage or {})
    adapters, rows = _together(places, network.adapters(name)), network.rows.get(name)

    def write(partial: Path) -> str:
        tensors = {key: tensor for at, adapter in adapters.items() for key, tensor in _to_theirs(places[at], adapter)}
        tensors |= {f"{PREFIX}{key}": tensor for key, tensor in peft_rows.tensors(network.base, rows).items()}
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, partial / WEIGHTS, {"format": "pt"})
        base = _base_path(lineage.get("config"))
        stated = _config(places, adapters) | peft_rows.config(network.base, rows)
        sealed.write_json(partial / CONFIG, stated | {"base_model_name_or_path": base})
        if tokenizer is not None:
            tokenizer.save(partial)
        if template is not None:
            template.save(partial)
        about = {"base_sha256": network.base_digest, "base": trained_on.described(network.base)}
        sealed.seal(partial, {"adapter": about, "lineage": lineage})
        return f"LoRA adapter, {sum(tensor.numel() for tensor in tensors.values()):,} parameters"

    return sealed.write_whole(directory, write)


def save_beside(
    model: Path, network: Network, lineage: Mapping[str, Any], tokenizer: Tokenizer, template: ChatTemplate | None = None
) -> str | None:
    """Write a LoRA network's adapter in use as `adapter/` beside its merged model's directory (`NAME-adapter` beside one called NAME).

    Returns:
        The line of `save_adapter`; None, and nothing is written, for another kind of network.
    """
    if not isinstance(network, LoRA) or network.in_use is None:
        return None
    place = Path(model).resolve()
    return save_adapter(
        place.with_name("adapter" if place.name == "model" else f"{place.name}-adapter"), network, lineage, tokenizer, template
    )


def load_adapter(network: Network, directory: Path, name: str = "default") -> LoRA:
    """The network with an adapter of a directory, ours or peft's, in use.

    Args:
        network: a LoRA, which gets one more adapter, or the base itself, which becomes the LoRA's own and is frozen.
        directory: has adapter_config.json and adapter_model.safetensors.
        name: what the adapter is called from now on.

    Raises:
        CheckpointError: the directory is missing or damaged, the adapter was trained on another base, is of a kind that is not
            computed here, or has a tensor that is missing, unexpected or misshapen.
    """
    directory = sealed.settled(Path(directory))
    if not (directory / CONFIG).is_file():
        raise CheckpointError(f"there is no adapter in {directory} (no {CONFIG})")
    try:
        manifest = sealed.verify(directory) if (directory / sealed.MANIFEST).is_file() else None
        config = sealed.read_json(directory / CONFIG)
        if manifest is not None and not isinstance(network, LoRA):
            trained_on.restore(network, manifest.get("adapter", {}).get("base", {}))
        lora = network if isinstance(network, LoRA) else LoRA.around(network, peft_rows.ids(config))
        if manifest is not None:
            _check_base(lora, manifest)
        tensors = _tensors(directory / WEIGHTS)
        rows = peft_rows.taken(tensors, PREFIX, lora)
        lora.put(name, _to_ours(tensors, config, lora), rows)
        lora.use(name)
    except ValueError as problem:
        raise CheckpointError(f"{directory}: {problem}") from problem
    except CheckpointError as problem:
        raise problem if str(directory) in str(problem) else CheckpointError(f"{directory}: {problem}") from problem
    return lora


# writing


def _to_theirs(place: Place, adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
    for their, B_OR in zip(place.theirs, torch.split(adapter.B_OR, list(place.rows)), strict=True):
        yield f"{PREFIX}{their}.lora_A.weight", adapter.A_RI.clone()
        yield f"{PREFIX}{their}.lora_B.weight", B_OR


def _together(places: Mapping[Ours, Place], adapters: Mapping[str, Adapter]) -> dict[Ours, Adapter]:
    """The adapters, by the layers that they have together in the published architecture; there several of ours become one."""
    found: dict[Ours, Adapter] = {}
    for ours, place in places.items():
        own = [adapters.get(at) for at in ours]
        given = next((adapter for adapter in own if adapter is not None), None)
        if given is not None and len(ours) > 1:
            parts = [None if adapter is None else _Part(adapter.A_RI, adapter.B_OR, adapter.scaling) for adapter in own]
            joined = _joined(parts, [sum(place.rows) // len(ours)] * len(ours))
            found[ours] = _adapter(joined, given.dropout, given.rank_stabilised)
        elif given is not None:
            found[ours] = given
    return found


def _config(places: Mapping[Ours, Place], adapters: Mapping[Ours, Adapter]) -> dict[str, Any]:
    """peft's LoraConfig: what most layers have, and the layers that have another rank or alpha."""
    settings = {their: (adapter.rank, adapter.alpha) for at, adapter in adapters.items() for their in places[at].theirs}
    rank, alpha = Counter(settings.values()).most_common(1)[0][0]
    one = next(iter(adapters.values()))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {re.escape(their): r for their, (r, _) in settings.items() if r != rank},
        "alpha_pattern": {re.escape(their): a for their, (_, a) in settings.items() if a != alpha},
        "lora_dropout": one.dropout,
        "use_rslora": one.rank_stabilised,
        "target_modules": _shortest(list(settings), [their for place in places.values() for their in place.theirs]),
        "fan_in_fan_out": any(places[at].transposed for at in adapters),
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _shortest(chosen: Sequence[str], every: Sequence[str]) -> list[str]:
    """The chosen layers by the shortest ends of their names that no other layer has: c_attn, mlp.c_proj."""
    ends: dict[str, None] = {}
    for name in chosen:
        words = name.split(".")
        candidates = (".".join(words[-count:]) for count in range(1, len(words) + 1))
        ends[next(end for end in candidates if all(other in chosen for other in every if f".{other}".endswith(f".{end}")))] = None
    return list(ends)


def _base_path(config: Any) -> str | None:
    """The directory that a run's configuration has for the innermost base of its network; None where it has none."""
    part = config.get("model", {}).get("init_args", {}).get("network") if isinstance(config, dict) else None
    while isinstance(part, dict) and "base" in part.get("init_args", {}):
        part = part["init_args"]["base"]
    return part.get("init_args", {}).get("path") if isinstance(part, dict) else None


# reading


def _to_ours(tensors: dict[str, Tensor], config: Mapping[str, Any], network: LoRA) -> dict[str, Adapter]:
    """Adapters by our layers; every tensor must find its place."""
    for field, values in COMPUTED.items():
        if field in config and config[field] not in values:
            raise CheckpointError(f"{CONFIG} has {field}: {config[field]!r}; supported: {', '.join(map(repr, values))}")
    if not isinstance(config.get("init_lora_weights", True), bool) and config["init_lora_weights"] != "gaussian":
        raise CheckpointError(f"{CONFIG} has init_lora_weights: {config['init_lora_weights']!r}, which may have changed the base")
    stabilised, dropout = bool(config.get("use_rslora")), float(config.get("lora_dropout") or 0.0)
    weight_VD = network.head_weight_VD
    dtype, device = torch.promote_types(weight_VD.dtype, torch.float32), weight_VD.device
    adapters: dict[str, Adapter] = {}
    for ours, place in _places(network).items():
        shapes = [(rows, place.num_inputs) for rows in place.rows]
        parts = [_part(tensors, their, shape, config, stabilised) for their, shape in zip(place.theirs, shapes, strict=True)]
        if any(part is not None for part in parts):
            A_RI, B_OR, scaling = _joined(parts, place.rows)
            for at, B_part_OR in zip(ours, B_OR.chunk(len(ours)), strict=True):
                own_A_RI, own_B_OR = (matrix.to(device, dtype, copy=len(ours) > 1) for matrix in (A_RI, B_part_OR))
                adapters[at] = _adapter(_Part(own_A_RI, own_B_OR, scaling), dropout, stabilised)
    if tensors:
        raise CheckpointError(f"unexpected tensors for a {type(network.base).__name__}: {', '.join(sorted(tensors)[:3])}")
    if not adapters:
        raise CheckpointError(f"{WEIGHTS} holds no tensors")
    return adapters


class _Part(NamedTuple):
    """What one of their layers has."""

    A_RI: Tensor
    B_OR: Tensor
    scaling: float


def _adapter(part: _Part, dropout: float, stabilised: bool) -> Adapter:
    return Adapter(part.A_RI, part.B_OR, part.scaling * divisor(len(part.A_RI), stabilised), dropout, stabilised)


def _part(tensors: dict[str, Tensor], their: str, shape: tuple[int, int], config: Mapping[str, Any], stabilised: bool) -> _Part | None:
    """Taken out of the tensors; None if they have none of this layer."""
    names = [f"{PREFIX}{their}.lora_{matrix}.weight" for matrix in "AB"]
    if not any(name in tensors for name in names):
        return None
    if missing := [name for name in names if name not in tensors]:
        raise CheckpointError(f"the tensor {missing[0]} is missing")
    rank, alpha = (_pattern(config, pattern, their, field) for pattern, field in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")))
    A_RI, B_OR = (tensors.pop(name) for name in names)
    for name, tensor, expected in zip(names, (A_RI, B_OR), ((rank, shape[1]), (shape[0], rank)), strict=True):
        if tuple(tensor.shape) != expected:
            raise CheckpointError(f"the tensor {name} has shape {list(tensor.shape)}; base and {CONFIG} say {list(expected)}")
        if not tensor.isfinite().all():
            raise CheckpointError(f"the tensor {name} holds NaN or infinite values")
    return _Part(A_RI, B_OR, alpha / divisor(rank, stabilised))


def _pattern(config: Mapping[str, Any], pattern: str, their: str, field: str) -> Any:
    """A layer's rank or alpha: of the first regular expression that its name ends with, else what most layers have."""
    for expression, value in (config.get(pattern) or {}).items():
        if re.match(rf"(.*\.)?({expression})$", their):
            return value
    if config.get(field) is None:
        raise CheckpointError(f"{CONFIG} has no {field}")
    return config[field]


def _joined(parts: Sequence[_Part | None], rows: Sequence[int]) -> _Part:
    """That of one layer from those of the layers that it holds; what has no adapter gets rows of zeros."""
    found = [part for part in parts if part is not None]
    first = found[0]
    if len(found) == len(parts) and all(torch.equal(part.A_RI, first.A_RI) and part.scaling == first.scaling for part in found):
        return _Part(first.A_RI, torch.cat([part.B_OR for part in found]), first.scaling)
    blocks = [
        first.B_OR.new_zeros(num_rows, 0) if part is None else part.B_OR * (part.scaling / first.scaling)
        for part, num_rows in zip(parts, rows, strict=True)
    ]
    B_OR: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return _Part(torch.cat([part.A_RI for part in found]), B_OR, first.scaling)


def _tensors(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise CheckpointError(f"{file} is missing (pickled adapters are not read: save them as safetensors)")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as problem:
        raise CheckpointError(f"{file} is damaged: {problem}") from problem


def _check_base(network: LoRA, manifest: Mapping[str, Any]) -> None:
    if "adapter" not in manifest:
        raise CheckpointError(f"{sealed.MANIFEST} is not that of an adapter")
    trained_on, given = manifest["adapter"]["base_sha256"], network.base_digest
    if trained_on != given:
        raise CheckpointError(
            f"the adapter was trained on another base (its SHA-256 begins {trained_on[:12]}, that of this one {given[:12]}): "
            "give the base that it was trained on"
        )


# what both directions need


def _places(network: LoRA) -> dict[Ours, Place]:
    """Our linear layers -> theirs; by our own names where no published architecture expresses the base."""
    name, _ = known.expressing(network.base)
    if name is None:
        return {(at,): Place((at,), (layer.out_features,), layer.in_features, False) for at, layer in network.linears().items()}
    return {
        tuple(at.removesuffix(".weight") for at in (entry.ours, *entry.further)): Place(
            tuple(their.removesuffix(".weight") for their in entry.theirs), entry.rows, entry.shape[1], entry.transposed
        )
        for entry in known.named(name).table(known.sizes(network.base))
        if entry.ours.endswith(".weight") and len(entry.shape) == 2
    }
