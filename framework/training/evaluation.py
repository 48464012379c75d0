"""What the network can do while it learns: tasks after validations, their figures in the run's logs.

The network as it is flows into the tasks, figures flow out. Training is not touched: no weight, no mode, no random number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from framework.engine.engine import Engine
from framework.errors import ConfigError
from framework.generation import Generator
from framework.tasks.base import Options, Task


class Evaluation(Callback):
    """Logs each figure as `eval/TASK/METRIC`; after every validation, checkpoints and early stopping may watch it.

    Rank 0 does the tasks while the others wait.

    Args:
        tasks: what the network is judged by.
        every_n_validations: after the last of so many validations.
        limit: only the first so many documents or rows of each task; null: all.
        seed: of replies that are drawn, the same at each validation.
        max_running: most replies that are worked on together.
        batch_tokens: tokens that the network reads together when it scores texts; less takes less memory.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        every_n_validations: int = 1,
        limit: int | None = None,
        seed: int = 0,
        max_running: int = 32,
        batch_tokens: int = 8192,
    ) -> None:
        if every_n_validations < 1 or max_running < 1:
            raise ValueError(f"every_n_validations ({every_n_validations}) and max_running ({max_running}) must be at least 1")
        if not tasks or len({task.name for task in tasks}) < len(tasks):
            raise ConfigError("Evaluation needs tasks, each with a name of its own: set their `name`")
        self.tasks, self.every_n_validations, self.max_running = list(tasks), every_n_validations, max_running
        self.options = Options(limit=limit, seed=seed, batch_tokens=batch_tokens)
        self._validations = 0

    def state_dict(self) -> dict[str, Any]:
        """How many validations there were: a resumed run evaluates when the uninterrupted one would have."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See state_dict."""
        self._validations = state_dict["validations"]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate when it is time."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._validations += 1
        if self._validations % self.every_n_validations:
            return
        figures: dict[str, float] = trainer.strategy.broadcast(self.figures(pl_module) if trainer.is_global_zero else {})
        pl_module.log_dict(figures, logger=False)
        step = int(pl_module.progress.step)  # type: ignore[union-attr, arg-type]
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=step)

    def figures(self, recipe: Any) -> dict[str, float]:
        """What the tasks find about a recipe's network: `eval/TASK/METRIC` -> value."""
        template = recipe.data.chat_template
        generator = Generator(Engine(recipe.network, max_running=self.max_running), recipe.data.tokenizer, template=template)
        results = [task.evaluate(generator, self.options) for task in self.tasks]
        return {f"eval/{result.task}/{name}": estimate.value for result in results for name, estimate in result.metrics.items()}
