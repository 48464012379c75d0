"""A GGUF file as a model in Hugging Face's terms: config.json, tensors by their names there, tokenizer, chat template.

A path flows in; what `open_gguf` gives reads each tensor from the mapped file when it is asked for and keeps none. Must not know our
networks (formats do) or directories.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framework.chat import ChatTemplate
from framework.formats.gguf.architectures import Architecture
from framework.formats.gguf.config import architecture_in, read_config
from framework.formats.gguf.layout import Layout, TensorInfo, read_layout
from framework.formats.gguf.package import gguf
from framework.formats.gguf.pairs import halved
from framework.formats.gguf.rope import EXTRA
from framework.formats.gguf.vocabulary import read_ids, read_template, read_tokenizer
from framework.tokenizers.base import Tokenizer

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # stored as they are; others are quantised


class Contents:
    """What a GGUF file holds.

    Attributes:
        config: all of config.json.
        generation: of generation_config.json: the ids that begin, end and fill.
        names: Hugging Face's names of the tensors, in the file's order.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._architecture = architecture_in(layout)
        self.config = read_config(layout, self._architecture)
        self.generation: dict[str, Any] = read_ids(layout)
        self.config |= self.generation
        self._infos = _by_their_names(layout, self._architecture)
        self.names = list(self._infos)
        stored = {info.kind for info in self._infos.values() if len(info.shape) > 1}
        self.config["dtype"] = str(PLAIN[stored.pop()] if len(stored) == 1 and stored <= PLAIN.keys() else torch.float32)[6:]

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, as Hugging Face has it."""
        shape = self._infos[name].shape
        return shape[::-1] if self._is_transposed(name) else shape

    def dtype(self, name: str) -> torch.dtype:
        """The type that `tensor` gives: the stored one, float32 for quantised ones."""
        return PLAIN.get(self._infos[name].kind, torch.float32)

    def tensor(self, name: str) -> Tensor:
        """A tensor, dequantised, its values as Hugging Face has them; a copy of its own."""
        architecture = self._architecture
        tensor = _read(self._layout, self._infos[name])
        if architecture.paired and ".self_attn." in name:
            heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
            if heads and len(tensor) != self.config[heads] * self.config["head_dim"]:
                self._layout.refuse(f"{name} has {len(tensor)} rows, not {heads} {self.config[heads]} of {self.config['head_dim']}")
            tensor = halved(tensor, self.config[heads]) if heads else tensor
        if architecture.norm_plus_one and name.endswith("norm.weight"):
            tensor -= 1
        return tensor.T.contiguous() if self._is_transposed(name) else tensor

    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises TokenizerError for one that is damaged or cannot be had here."""
        return read_tokenizer(self._layout)

    def template(self) -> ChatTemplate | None:
        """The chat template; None if the file has none."""
        return read_template(self._layout)

    def _is_transposed(self, name: str) -> bool:
        return name.endswith(tuple(f".{stem}.weight" for stem in self._architecture.transposed))


def open_gguf(path: Path) -> Contents:
    """What a GGUF file holds.

    Raises:
        CheckpointError: the file cannot be read, is damaged, or is of an architecture or a type that is not known here.
    """
    return Contents(read_layout(Path(path)))


def _by_their_names(layout: Layout, architecture: Architecture) -> dict[str, TensorInfo]:
    """Every tensor under Hugging Face's name. Raises CheckpointError for one that the architecture does not have."""
    found: dict[str, TensorInfo] = {}
    for name, info in layout.tensors.items():
        if name in EXTRA:
            continue
        theirs = architecture.theirs_of(name)
        if theirs is None:
            layout.refuse(f"it has the tensor {name}, which {architecture.name} does not have here")
        if info.kind not in PLAIN and info.kind not in _quantised():
            layout.refuse(f"the tensor {name} has the type {info.kind}, which the package gguf cannot turn into numbers")
        found[theirs] = info
    return found


def _quantised() -> set[str]:
    """The types that the package dequantises."""
    return {kind.name for kind in gguf().quants._type_traits}


def _read(layout: Layout, info: TensorInfo) -> Tensor:
    if info.kind in PLAIN:
        stored = np.frombuffer(layout.data, np.uint8, info.size, info.start)
        return torch.from_numpy(stored.copy()).view(PLAIN[info.kind]).view(info.shape)
    rows = np.frombuffer(layout.data, np.uint8, info.size, info.start).reshape(*info.shape[:-1], -1)
    return torch.from_numpy(gguf().dequantize(rows, gguf().GGMLQuantizationType(info.number)))
