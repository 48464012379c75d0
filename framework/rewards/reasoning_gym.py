"""A reward from reasoning-gym: the verifier that belongs to a task judges the answer. Needs the package, asked for at use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from framework.errors import ConfigError
from framework.rewards.answers import How
from framework.rewards.answers import extract as extract_answer
from framework.rewards.base import Reward, Sample


class ReasoningGym(Reward):
    """Pays what a reasoning-gym task's own verifier gives for the answer.

    The row must have reasoning-gym's `answer` and `metadata`, as the dataset of the same name gives them.

    Args:
        task: its name, `chain_sum` say; null: each row's own, from its metadata.
        extract: where a reply's answer stands, as ExactMatch takes it. Many verifiers pay a part for an answer that merely holds the
            right one, the less the longer it is.
        partial: pay parts; false: what is not wholly right gets 0.

    Raises:
        ConfigError: the package is missing, or has no such task.
    """

    def __init__(self, task: str | None = None, extract: How = "whole", partial: bool = False) -> None:
        self.task, self.extract, self.partial = task, extract, partial
        self._load()

    def score(self, sample: Sample) -> float:
        """From 0 to 1. Raises ValueError for a row without `answer` or `metadata`."""
        if missing := {"answer", "metadata"} - set(sample.fields):
            raise ValueError(f"the row has no field {', '.join(sorted(missing))}; it has {', '.join(sample.fields) or 'none'}")
        task = self.task or sample.fields["metadata"].get("source_dataset")
        if task is None:
            raise ValueError("the row's metadata has no source_dataset: give the reward its task")
        answer = extract_answer(sample.reply, self.extract)
        score = float(self._verifier(task)(answer, {"question": sample.prompt, **sample.fields}))
        return score if self.partial or score >= 1 else 0.0

    def _load(self) -> None:
        self._verifiers: dict[str, Callable[[str | None, dict[str, Any]], float]] = {}
        try:
            import reasoning_gym  # noqa: F401 - takes a second, which no sample's limit of time should pay
        except ImportError as missing:
            raise ConfigError(f'the reward ReasoningGym needs {missing.name}; install it: pip install "framework[reason]"') from None
        if self.task is not None:
            self._verifier(self.task)

    def _verifier(self, task: str) -> Callable[[str | None, dict[str, Any]], float]:
        if task not in self._verifiers:
            from reasoning_gym import get_score_answer_fn

            try:
                self._verifiers[task] = get_score_answer_fn(task)
            except ValueError:
                raise ConfigError(f"reasoning-gym has no task {task}") from None
        return self._verifiers[task]

    def __getstate__(self) -> dict[str, Any]:
        return {"task": self.task, "extract": self.extract, "partial": self.partial}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._load()
