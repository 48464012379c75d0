"""A model for others: a Hugging Face directory or a GGUF file with a model card, which appears only once the parity gate has passed.

A source flows in, a directory or a file flows out. Nothing stays at its place when anything differs.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from framework import checkpoint
from framework.errors import CheckpointError
from framework.files import sync
from framework.formats import card, convert, known, own, sealed, sources
from framework.formats.importing import opened
from framework.formats.weights import Progress, Weights, quiet, widest
from framework.networks.transformer import Transformer
from framework.parity.findings import Report
from framework.parity.gate import verify

Kind = Literal["F32", "F16", "BF16", "Q8_0", "Q4_0"]
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
KINDS: dict[torch.dtype, Kind] = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class Watch:
    """Who is told of an export.

    Args:
        progress: bytes written, and in all.
        told: a word about each step of the gate.
        reported: what the gate found.
    """

    progress: Progress = quiet
    told: Callable[[str], object] = lambda line: None
    reported: Callable[[Report], object] = lambda report: None


def to_hugging_face(source: str | Path, output: Path, kind: Kind | None = None, check: bool = True, watch: Watch | None = None) -> str:
    """Publish a Hugging Face directory.

    Args:
        source: as `sources.directory` takes it.
        output: the new directory; an existing one must be empty or one of ours.
        kind: type of the weights, F32, F16 or BF16; None: as stored.
        check: whether the gate must pass.
        watch: who is told.

    Returns:
        One line that says what was written.

    Raises:
        CheckpointError: the model cannot be expressed or written, or the gate did not pass.
    """
    watch = watch or Watch()
    model, lineage = opened(source), _lineage(source)
    name, form, sizes = known.described(model.config)
    if kind is not None and kind not in DTYPES:
        raise CheckpointError(f"a Hugging Face directory is written in {', '.join(DTYPES)}; {kind} is a type of GGUF files: --to gguf")
    checked = convert.Checked(form, model.weights, sizes)
    weights = convert.Cast(checked, DTYPES[kind] if kind else widest(checked, checked.names))
    with own.without_values():
        network = Transformer(*sizes)

    def fill(partial: Path) -> str:
        config = {**model.config, "architectures": [form.architecture], "dtype": str(weights.dtype(weights.names[0]))[6:]}
        text = card.card(Path(output).name, config, lineage, network.num_parameters(), "safetensors")
        (partial / card.FILE).write_text(text, encoding="utf-8")
        made = checkpoint.write(partial, network, name, weights, model.tokenizer, lineage, model.generation, model.template, watch.progress)
        _pass(partial, source, check, watch)
        return made

    return sealed.write_whole(output, fill)


def to_gguf(source: str | Path, output: Path, kind: Kind | None = None, check: bool = True, watch: Watch | None = None) -> str:
    """Publish a GGUF file with tokenizer and chat template inside; into a directory together with a model card.

    Args:
        source: as `sources.directory` takes it.
        output: NAME.gguf, or a directory.
        kind: type of the matrices; None: as stored.
        check, watch: as `to_hugging_face` takes them.

    Returns:
        One line that says what was written.

    Raises:
        CheckpointError, TokenizerError: GGUF cannot express the model or its tokenizer, or the gate did not pass.
    """
    from framework.formats.gguf import write_gguf

    watch, output = watch or Watch(), Path(output)
    model, lineage = opened(source), _lineage(source)
    _, form, sizes = known.described(model.config)
    weights = convert.Checked(form, model.weights, sizes)
    kind = kind or KINDS.get(widest(weights, weights.names), "F32")
    place = output if output.suffix == ".gguf" else output / f"{_name(source)}-{kind}.gguf"
    place.parent.mkdir(parents=True, exist_ok=True)
    tensors = _Tensors(weights, watch.progress)
    with tempfile.TemporaryDirectory(prefix=f".{place.stem}.", dir=place.parent) as partial:
        file = Path(partial) / place.name
        config = {**model.config, "architectures": [form.architecture]}
        write_gguf(file, config, tensors, model.tokenizer, model.template, kind)
        _pass(file, source, check, watch)
        file.replace(place)
        sync(place.parent)
    if place != output:
        with own.without_values():
            num_parameters = Transformer(*sizes).num_parameters()
        text = card.card(place.stem, config | {"dtype": kind}, lineage, num_parameters, place.name)
        (output / card.FILE).write_text(text, encoding="utf-8")
    return f"{place}: {form.architecture}, {kind}, {place.stat().st_size / 1e6:,.1f} MB"


def adapter_only(adapter: Path, output: Path) -> str:
    """Publish a LoRA adapter without its base, in peft's form.

    Args:
        adapter: its directory.
        output: the new directory; an existing one must be empty or one of ours.

    Returns:
        One line that says what was written.
    """
    manifest = sealed.verify(adapter)
    lineage = manifest["lineage"]

    def fill(partial: Path) -> str:
        for file in adapter.iterdir():
            if file.name in manifest["files"]:
                shutil.copyfile(file, partial / file.name)
        config = sealed.read_json(adapter / "adapter_config.json")
        base = config.get("base_model_name_or_path")
        config["base_model_name_or_path"] = card.base_name(lineage) or base
        sealed.write_json(partial / "adapter_config.json", config)
        about = {"architectures": [f"LoRA of rank {config['r']}"]}
        (partial / card.FILE).write_text(card.card(Path(output).name, about, lineage, _size(adapter), "adapter"), encoding="utf-8")
        sealed.seal(partial, {"adapter": manifest["adapter"], "lineage": lineage})
        return f"LoRA adapter of {config['base_model_name_or_path']}"

    return sealed.write_whole(output, fill)


class _Tensors:
    """Names and tensors, one after the other, as often as they are asked for."""

    def __init__(self, weights: Weights, progress: Progress) -> None:
        self._weights, self._progress = weights, progress

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        names = self._weights.names
        for number, name in enumerate(names):
            yield name, self._weights.tensor(name)
            self._progress(number + 1, len(names))


def _pass(made: Path, source: str | Path, check: bool, watch: Watch) -> None:
    """Raise CheckpointError unless what was made gives the answers of what it was made from."""
    if not check:
        return
    report = verify(made, source, told=watch.told)
    watch.reported(report)
    if not report.passed:
        raise CheckpointError(f"nothing was published, because the parity gate found: {'; '.join(report.failures)}")


def _lineage(source: str | Path) -> dict[str, object]:
    """Of the model that is published: its own, with that of what it was made from where that is still there; or where it was found."""
    manifest = None if sources.gguf_file(source) is not None else sources.directory(source) / sealed.MANIFEST
    if manifest is None or not manifest.is_file():
        return {"source": opened(source).origin}
    lineage: dict[str, object] = dict(sealed.read_json(manifest)["lineage"])
    base = card.base_path(lineage)
    return {**lineage, "parent": _lineage(base)} if base and (Path(base) / checkpoint.CONFIG).is_file() else lineage


def _name(source: str | Path) -> str:
    path = Path(source)
    directory = path.resolve() if path.exists() else path
    return directory.stem if directory.suffix == ".gguf" else directory.parent.name if directory.name == "model" else directory.name


def _size(adapter: Path) -> int:
    from safetensors.torch import load_file

    return sum(tensor.numel() for tensor in load_file(adapter / "adapter_model.safetensors").values())
