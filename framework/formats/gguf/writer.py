"""A model as a GGUF file that llama.cpp loads: metadata, tokenizer, and tensors converted one at a time.

config.json, tensors by Hugging Face's names and a tokenizer flow in, a file flows out, whole or not at all. Matrices get the type that
is asked for and all else is F32, as llama.cpp's converter has it; where that quantises to four bits, the output matrix gets eight, and
a matrix whose rows are no multiple of a block stays F16. Must not know our networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framework.chat import ChatTemplate
from framework.errors import CheckpointError, StorageError
from framework.files import commit
from framework.formats.gguf.architectures import Architecture
from framework.formats.gguf.config import architecture_of, write_config
from framework.formats.gguf.package import gguf
from framework.formats.gguf.pairs import paired
from framework.formats.gguf.rope import rope_tensors
from framework.formats.gguf.spelled import write_tokenizer
from framework.tokenizers.base import Tokenizer

Kind = Literal["F32", "F16", "BF16", "Q8_0", "Q4_0"]
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}  # general.file_type
BLOCK = 32  # numbers that Q8_0 and Q4_0 quantise together
OUTPUT = ("output.weight", "token_embd.weight")


def write_gguf(
    file: Path,
    config: Mapping[str, Any],
    tensors: Iterable[tuple[str, Tensor]],
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    kind: Kind,
    progress: Callable[[str], object] = lambda name: None,
) -> None:
    """Write a model as a GGUF file; what is at its place stays as it is when that fails.

    Args:
        file: its place.
        config: config.json's content.
        tensors: (Hugging Face's name, tensor); gone through twice, for the shapes and for the values, one tensor at a time.
        tokenizer: its ids are the rows of the embedding.
        template: turns chats into prompts.
        kind: type of the matrices.
        progress: called with each tensor's name when it is written.

    Raises:
        CheckpointError: GGUF has no place for the architecture, a field or a tensor, or a value does not fit the type.
        TokenizerError: GGUF cannot express the tokenizer.
        StorageError: the file cannot be written.
    """
    file = Path(file)
    if kind not in FILE_TYPES:
        raise CheckpointError(f"GGUF files are written in {', '.join(FILE_TYPES)}, not in {kind}")
    temporary = file.with_name(f".{file.name}.partial")
    writer = _writer(temporary, config, tokenizer, template, kind)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _write_tensors(writer, _Converter(config, kind), tensors, progress)
        with temporary.open("rb+") as written:
            commit(written, temporary, file)
    except OSError as problem:
        raise StorageError(f"{file} could not be written ({problem.strerror or problem}).") from problem
    finally:
        temporary.unlink(missing_ok=True)


def _writer(path: Path, config: Mapping[str, Any], tokenizer: Tokenizer, template: ChatTemplate | None, kind: Kind) -> Any:
    """The package's writer with all metadata."""
    architecture = architecture_of(config)
    writer = gguf().GGUFWriter(path, architecture.name)
    types = gguf().GGUFValueType
    writer.add_type("model")
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(2)
    simple = {bool: types.BOOL, int: types.UINT32, float: types.FLOAT32, str: types.STRING}
    metadata: dict[str, Any] = {**write_config(config, architecture), **write_tokenizer(tokenizer, int(config["vocab_size"]), template)}
    if template is not None:
        metadata["tokenizer.chat_template"] = template.source
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, simple[type(value)])
    return writer


class _Converter:
    """Hugging Face's tensors as GGUF's arrays."""

    def __init__(self, config: Mapping[str, Any], kind: Kind) -> None:
        self._config, self._kind = config, kind
        self._architecture: Architecture = architecture_of(config)
        self._is_tied = bool(config.get("tie_word_embeddings", self._architecture.tied))

    def name(self, theirs: str) -> str | None:
        """GGUF's name; None for a tied table's second copy. Raises CheckpointError for a tensor without a place."""
        found = self._architecture.ours_of(theirs)
        if found is None:
            raise CheckpointError(f"GGUF's architecture {self._architecture.name} has no place for the tensor {theirs}")
        return None if found == "output.weight" and self._is_tied else found

    def settings(self) -> dict[str, NDArray[np.float32]]:
        """Tensors that config.json has as fields."""
        if not self._architecture.rotary:
            return {}
        head_dim = self._config.get("head_dim") or self._config["hidden_size"] // self._config["num_attention_heads"]
        return rope_tensors(self._config, head_dim)

    def kind(self, name: str, shape: tuple[int, ...]) -> str:
        """The type that a tensor of GGUF's is written in."""
        if len(shape) == 1 or name == "position_embd.weight":
            return "F32"
        kind: str = self._kind
        if kind == "Q4_0" and name == OUTPUT[self._is_tied]:
            kind = "Q8_0"
        return "F16" if kind in ("Q8_0", "Q4_0") and shape[-1] % BLOCK else kind

    def array(self, theirs: str, tensor: Tensor) -> Tensor:
        """The tensor with GGUF's order and values."""
        architecture = self._architecture
        if theirs.endswith(tuple(f".{stem}.weight" for stem in architecture.transposed)):
            tensor = tensor.T
        if architecture.paired and ".self_attn." in theirs:
            field = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(theirs.split(".")[-2])
            if field:
                tensor = paired(tensor, self._config.get(field) or self._config["num_attention_heads"])
        return tensor.float() + 1 if architecture.norm_plus_one and theirs.endswith("norm.weight") else tensor

    def check(self, names: set[str]) -> None:
        """Raise CheckpointError for a model that llama.cpp would take for another."""
        if not self._is_tied and "output.weight" not in names:
            raise CheckpointError("config.json has tie_word_embeddings false, and the tensor lm_head.weight is missing")
        if self._architecture.tied and not self._is_tied:
            raise CheckpointError(
                f"GGUF's architecture {self._architecture.name} has no output matrix of its own; tie_word_embeddings is false"
            )


def _write_tensors(writer: Any, converter: _Converter, tensors: Iterable[tuple[str, Tensor]], progress: Callable[[str], object]) -> None:
    """Names, shapes and types in a first pass, values in a second."""
    settings = converter.settings()
    promised: dict[str, tuple[str, tuple[int, ...], str]] = {}
    for theirs, tensor in tensors:
        name = converter.name(theirs)
        if name is not None:
            shape = tuple(converter.array(theirs, tensor.to("meta")).shape)
            promised[theirs] = (name, shape, converter.kind(name, shape))
    converter.check({name for name, _, _ in promised.values()})
    infos = chain(promised.values(), ((name, array.shape, "F32") for name, array in settings.items()))
    for name, shape, kind in infos:
        number = gguf().GGMLQuantizationType[kind]
        per_block, block_bytes = gguf().GGML_QUANT_SIZES[number]
        stored = (*shape[:-1], shape[-1] // per_block * block_bytes)
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), int(np.prod(stored)), number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    try:
        for theirs, encoded in _values(converter, tensors, promised):
            writer.write_tensor_data(encoded)
            progress(theirs)
        for array in settings.values():
            writer.write_tensor_data(array)
    finally:
        writer.close()


def _values(
    converter: _Converter, tensors: Iterable[tuple[str, Tensor]], promised: dict[str, tuple[str, tuple[int, ...], str]]
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Each tensor's bytes, in the order that was promised."""
    expected = iter(promised.items())
    for theirs, tensor in tensors:
        if theirs in promised:
            first, (_, shape, kind) = next(expected)
            converted = converter.array(theirs, tensor.detach().cpu())
            assert first == theirs and tuple(converted.shape) == shape, "the second pass gives what the first gave"
            yield theirs, encode(theirs, converted, kind)
    assert next(expected, None) is None, "tensors must be something that can be gone through twice"


def encode(name: str, tensor: Tensor, kind: str) -> NDArray[Any]:
    """A tensor's numbers in a type of GGUF's. Raises CheckpointError for values that it cannot hold."""
    if not tensor.isfinite().all():
        raise CheckpointError(f"the tensor {name} holds NaN or infinite values")
    if kind == "BF16":
        return tensor.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
    if kind == "F16":
        half = tensor.to(torch.float16)
        if not half.isfinite().all():
            raise CheckpointError(f"the tensor {name} holds {tensor.abs().max().item():g}, more than F16 can; write BF16 or F32")
        return half.contiguous().numpy()
    numbers = tensor.float().contiguous().numpy()
    return numbers if kind == "F32" else gguf().quantize(numbers, gguf().GGMLQuantizationType[kind])
