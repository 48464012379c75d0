"""What the network writes while it learns: replies to a few prompts after validations, in the run's logs.

The network as it is flows into the generation engine, text flows out. Training is not touched: no weight, no mode, no random number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from framework.engine.engine import Engine
from framework.generation import Generator, Settings
from framework.training.run_log import RunLog


class Samples(Callback):
    """Writes to `logs/samples.jsonl` (one object a sample: step, prompt, text), and to TensorBoard or wandb where they are on.

    Args:
        prompts: texts to go on from; an empty one begins a new document.
        every_n_validations: after the last of so many validations.
        max_new_tokens: of each sample.
        temperature: 0 takes the best token each time, 1 is the network's own distribution.
        top_k: only the k best tokens; 0: all.
        top_p: only the fewest best tokens with this probability together; 1: all.
        seed: the same at each validation, so that samples differ by what was learnt in between.
    """

    def __init__(
        self,
        prompts: Sequence[str] = ("",),
        every_n_validations: int = 1,
        max_new_tokens: int = 64,
        temperature: float = 0.8,
        top_k: int = 50,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> None:
        if every_n_validations < 1 or max_new_tokens < 1:
            raise ValueError(f"every_n_validations ({every_n_validations}) and max_new_tokens ({max_new_tokens}) must be at least 1")
        self.prompts, self.every_n_validations = list(prompts), every_n_validations
        self.settings = Settings(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, max_new_tokens=max_new_tokens)
        self._validations = 0

    def state_dict(self) -> dict[str, Any]:
        """How many validations there were: a resumed run samples when the uninterrupted one would have."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See state_dict."""
        self._validations = state_dict["validations"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sample when it is time."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._validations += 1
        if self._validations % self.every_n_validations or not trainer.is_global_zero:
            return
        texts = self.write(pl_module)
        step = int(pl_module.progress.step)  # type: ignore[union-attr, arg-type]
        for logger in trainer.loggers:
            _log(logger, step, self.prompts, texts)

    def write(self, recipe: Any) -> list[str]:
        """The replies of a recipe's network to the prompts."""
        engine = Engine(recipe.network, max_running=len(self.prompts), prefix_cache=False)
        generator = Generator(engine, recipe.data.tokenizer)
        texts = [""] * len(self.prompts)
        for number, replies in generator.batch(self.prompts, self.settings):
            texts[number] = f"({replies})" if isinstance(replies, Exception) else replies[0]
        return texts


def _log(logger: Any, step: int, prompts: Sequence[str], texts: Sequence[str]) -> None:
    if isinstance(logger, RunLog):
        lines = [json.dumps({"step": step, "prompt": prompt, "text": text}, ensure_ascii=False) for prompt, text in zip(prompts, texts)]
        append(logger.directory / "samples.jsonl", step, lines)
    elif isinstance(logger, TensorBoardLogger):
        for number, (prompt, text) in enumerate(zip(prompts, texts)):
            logger.experiment.add_text(f"samples/{number}", f"    {prompt}{text}".replace("\n", "\n    "), step)
    elif isinstance(logger, WandbLogger):
        logger.log_text("samples", columns=["prompt", "text"], data=[list(row) for row in zip(prompts, texts)], step=step)


def append(path: Path, step: int, lines: Sequence[str]) -> None:
    """Add lines to a file of JSON objects with steps, in place of what an earlier process wrote from this step on."""
    before = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in before if line.endswith("}") and json.loads(line)["step"] < step]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(f"{line}\n" for line in [*kept, *lines]), encoding="utf-8")
    temporary.replace(path)
