"""`framework export`: a model for others, a Hugging Face directory or a GGUF file. The line about it goes to stdout, progress to stderr."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from framework.errors import ConfigError

if TYPE_CHECKING:
    from framework.parity.findings import Report


def export(
    directory: str,
    output: Path,
    *,
    to: Literal["hf", "gguf"] = "hf",
    type: Literal["F32", "F16", "BF16", "Q8_0", "Q4_0"] | None = None,
    adapter: Literal["merged", "only"] = "merged",
    check: bool = True,
) -> None:
    """Publish a model: for transformers and vLLM (hf), or for llama.cpp and Ollama (gguf).

    What was written is compared with the model (as `framework verify` does) before it appears; when anything differs, nothing does.

    Args:
        directory: a run, a model directory, a GGUF file or ORG/NAME.
        output: the new directory; with --to gguf a directory or NAME.gguf.
        to: hf: safetensors with tokenizer and model card; gguf: one file with tokenizer and chat template inside.
        type: of the weights, as stored unless given; Q8_0 and Q4_0 (gguf only) take a quarter and an eighth of F32.
        adapter: of a run that trained a LoRA: merged into the base's weights, or the adapter only, in peft's form.
        check: false: publish without comparing.
    """
    from framework.commands.progress import transfer
    from framework.commands.terminal import note
    from framework.parity import publishing

    if adapter == "only":
        from framework.generation.directory import adapter_directory

        if to == "gguf" or type is not None:
            raise ConfigError("an adapter alone is published in peft's form as it was trained: leave out --to gguf and --type")
        print(publishing.adapter_only(adapter_directory(Path(directory)), output))
        return
    with transfer("export") as progress:
        watch = publishing.Watch(progress, note, _tell)
        publish = publishing.to_gguf if to == "gguf" else publishing.to_hugging_face
        summary = publish(directory, output, type, check, watch)
    print(summary)


def _tell(report: Report) -> None:
    from framework.commands.terminal import note

    note(report.table())
