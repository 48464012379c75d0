"""How a model is loaded to write text: the options that every such command has. Options flow in, a Generator flows out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from framework.errors import ConfigError

if TYPE_CHECKING:
    from framework.generation import Generator


@dataclass(frozen=True)
class ModelOptions:
    """Where and how precisely a network computes.

    Args:
        quantize: weights in 8 or 4 bits: less memory, faster on a CPU, a little less precise.
        dtype: type of the weights and of what is computed; as stored unless given.
        device: cpu, cuda or cuda:1.
        compile: true: torch.compile for decoding; the first tokens take longer.
        lookup: guess what follows from what followed before; the text is the same, and comes sooner where it repeats its prompt.
        draft: a run, directory or GGUF file of a much smaller model with the same tokenizer, which guesses what follows; the text is the same.
        adapter: a LoRA adapter of the model, or the run that trained it; peft's are read too.
    """

    quantize: Literal["int8", "int4"] | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    device: str = "cpu"
    compile: bool = False
    lookup: bool = False
    draft: Path | None = None
    adapter: Path | None = None

    def load(self, directory: Path, **engine: Any) -> Generator:
        """The model of a run or model directory, with further options of the engine.

        Raises:
            ConfigError: a device that is not there.
            CheckpointError, TokenizerError, RequestError: what loading raises.
        """
        import torch

        from framework.generation import Generator

        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as cause:  # what torch says of a CUDA that it was built without is an assertion
            raise ConfigError(f"the device {self.device} cannot be used: {str(cause).partition(chr(10))[0]}") from None
        if self.compile:
            engine["compile"] = True
        return Generator.load(
            directory,
            quantize=self.quantize,
            dtype=self.dtype,
            device=self.device,
            lookup=self.lookup,
            draft=self.draft,
            adapter=self.adapter,
            **engine,
        )
