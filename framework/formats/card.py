"""The model card: README.md beside a published model, with where it comes from, what it was measured at and how to use it.

A lineage and a config.json flow in, Markdown flows out. No path of this machine gets into it. Must not know networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import yaml

FILE = "README.md"
SIZES = {
    "context": ("max_position_embeddings", "n_positions"),
    "vocabulary": ("vocab_size",),
    "layers": ("num_hidden_layers", "n_layer"),
    "width": ("hidden_size", "n_embd"),
}


def card(name: str, config: Mapping[str, Any], lineage: Mapping[str, Any], num_parameters: int, files: str) -> str:
    """A model card.

    Args:
        name: of the model.
        config: of config.json.
        lineage: of framework.json; what is not in it is left out of the card.
        num_parameters: of the network.
        files: `safetensors`, `adapter`, or the name of a GGUF file: how it is used depends on it.
    """
    source, base = origin(lineage), base_name(lineage)
    head: dict[str, Any] = {"library_name": "peft" if files == "adapter" else "transformers", "pipeline_tag": "text-generation"}
    head |= {"license": source.get("license")} if source.get("license") else {}
    head |= {"base_model": base} if base and "/" in base else {}
    lines = ["---", yaml.safe_dump(head, sort_keys=False).rstrip(), "---", "", f"# {name}", ""]
    sizes = {label: next((config[key] for key in keys if config.get(key) is not None), None) for label, keys in SIZES.items()}
    lines += [f"{config['architectures'][0]}, {num_parameters:,} parameters.", ""]
    lines += _table({label: f"{value:,}" for label, value in sizes.items() if value is not None} | {"type": str(config.get("dtype"))})
    for title, rows in (("Where it comes from", _origins(lineage)), ("Data", _data(lineage)), ("Metrics", _metrics(lineage))):
        lines += [f"## {title}", "", *_table(rows)] if rows else []
    lines += ["## Use", "", *_use(name, files), "## Licence", ""]
    lines += [source.get("license") or "Not stated where this model comes from: find out before you pass it on.", ""]
    return "\n".join(lines)


def origin(lineage: Mapping[str, Any]) -> dict[str, Any]:
    """What the first model of a lineage was imported from; empty for one that was trained from nothing."""
    while "parent" in lineage and "source" not in lineage:
        lineage = lineage["parent"]
    return dict(lineage.get("source") or {})


def base_name(lineage: Mapping[str, Any]) -> str | None:
    """What the model was made from, by name: its source, or the last words of the path that its run began from."""
    name, path = origin(lineage).get("name"), base_path(lineage)
    return str(name) if name else _last(path) if path else None


def base_path(lineage: Mapping[str, Any]) -> str | None:
    """The model directory that a run began from; None for one that began from nothing."""
    part = _arguments(lineage, "model").get("network")
    while isinstance(part, Mapping) and "base" in part.get("init_args", {}):
        part = part["init_args"]["base"]
    return part.get("init_args", {}).get("path") if isinstance(part, Mapping) else None


def _origins(lineage: Mapping[str, Any]) -> dict[str, str]:
    source, progress = origin(lineage), lineage.get("progress") or {}
    rows = {
        "made from": base_name(lineage),
        "revision": source.get("revision"),
        "recipe": lineage.get("recipe"),
        **{f"training {key}": f"{value:,}" for key, value in progress.items() if isinstance(value, int) and value},
        "tokenizer (SHA-256)": lineage.get("tokenizer"),
        "plugins": ", ".join(f"{plugin} {version}" for plugin, version in (lineage.get("plugins") or {}).items()),
    }
    rows |= {f"{file} (SHA-256)": digest for file, digest in (source.get("files") or {}).items()}
    return {key: str(value) for key, value in rows.items() if value}


def _data(lineage: Mapping[str, Any]) -> dict[str, str]:
    arguments = _arguments(lineage, "data")
    rows: dict[str, str] = {}
    for key, value in arguments.items():
        if isinstance(value, Mapping) and "class_path" in value:
            said = {name: _plain(given) for name, given in (value.get("init_args") or {}).items() if given is not None}
            rows[key] = f"{value['class_path'].rpartition('.')[2]} {', '.join(f'{name} {given}' for name, given in said.items())}".rstrip()
        elif isinstance(value, int | float) and not isinstance(value, bool):
            rows[key] = str(value)
    fingerprint = lineage.get("data")
    return rows | ({"fingerprint": str(fingerprint)} if isinstance(fingerprint, str) else {})


def _metrics(lineage: Mapping[str, Any]) -> dict[str, str]:
    return {name: f"{value:.4g}" for name, value in (lineage.get("metrics") or {}).items()}


def _use(name: str, files: str) -> Iterator[str]:
    def block(language: str, *lines: str) -> Iterator[str]:
        yield from (f"```{language}", *lines, "```", "")

    if files == "safetensors":
        yield from block(
            "python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
            f'model = AutoModelForCausalLM.from_pretrained("{name}", dtype="auto")',
            'ids = tokenizer("Once upon a time", return_tensors="pt")',
            "print(tokenizer.decode(model.generate(**ids, max_new_tokens=50)[0]))",
        )
        yield from block("sh", f"vllm serve {name}", f"framework serve {name}")
    elif files == "adapter":
        yield from block(
            "python",
            "from peft import AutoPeftModelForCausalLM",
            f'model = AutoPeftModelForCausalLM.from_pretrained("{name}")',
        )
        yield from block("sh", f"framework generate BASE --adapter {name}")
    else:
        yield from block("sh", f"llama-cli -m {files}", f"framework chat {files}")


def _arguments(lineage: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    """The arguments of a run's recipe (`model`) or data."""
    part = (lineage.get("config") or {}).get(section) or {}
    return part.get("init_args") or {}


def _table(rows: Mapping[str, str]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items()), ""]


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return _last(value) if isinstance(value, str) and "/" in value else str(value)


def _last(path: str) -> str:
    """A path's last word; a run's for its `model`."""
    parts = [part for part in PurePath(path).parts if part != "model"]
    return parts[-1] if parts else path
