"""Questions that reasoning-gym makes up, whose answers it can verify. Needs the package, asked for at use.

A task's name and a seed flow in, rows flow out. Must not know tokenizers or rewards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from framework.datasets.base import Row, Rows
from framework.errors import ConfigError


class ReasoningGym(Rows):
    """Rows of one task: `prompt` and `completion`, and what its verifier asks for: `question`, `answer` and `metadata`.

    A few tasks know no answer, only whether one is right: their rows have no completion, and serve as prompts.

    Args:
        task: its name, `chain_sum` say.
        size: number of rows.
        seed: decides which questions come in which order.
        start: questions passed over before the first row, to hold others out; a task with few different ones may repeat them all the same.
        config: the task's own settings, by name.
        chat: prompt and completion as turns of a chat; false: as texts, a line each.
    """

    def __init__(
        self, task: str, size: int = 1000, seed: int = 0, start: int = 0, config: dict[str, Any] | None = None, chat: bool = False
    ) -> None:
        if size < 1 or start < 0:
            raise ConfigError(f"ReasoningGym needs a size of at least 1 and a start of at least 0; got {size} and {start}.")
        self.task, self.size, self.seed, self.start, self.config, self.chat = task, size, seed, start, dict(config or {}), chat

    def rows(self) -> Iterator[Row]:
        """The questions from `start` on. Raises ConfigError: the package is missing, has no such task, or refuses its settings."""
        made = self._dataset()
        for number in range(self.start, self.start + self.size):
            entry = made[number]
            fields = {"prompt": entry["question"] if self.chat else f"{entry['question']}\n", **entry}
            if entry["answer"] is not None:  # some tasks are verified only
                fields["completion"] = str(entry["answer"])
            if self.chat:
                roles = {"prompt": "user", "completion": "assistant"}
                fields |= {name: [{"role": role, "content": fields[name]}] for name, role in roles.items() if name in fields}
            yield Row(fields, f"{self.task}:{number}")

    def fingerprint(self) -> str:
        """Of all settings and the package's version."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            release = version("reasoning-gym")
        except PackageNotFoundError:
            release = ""
        settings = (self.task, self.size, self.seed, self.start, json.dumps(self.config, sort_keys=True), self.chat, release)
        return hashlib.sha256(repr(("reasoning_gym", *settings)).encode()).hexdigest()

    def _dataset(self) -> Any:
        try:
            import reasoning_gym
        except ImportError as missing:
            raise ConfigError(f'the dataset ReasoningGym needs {missing.name}; install it: pip install "framework[reason]"') from None
        try:
            return reasoning_gym.create_dataset(self.task, size=self.start + self.size, seed=self.seed, **self.config)
        except (ValueError, TypeError, AssertionError) as refused:  # a task or a setting that it does not know or cannot use
            raise ConfigError(f"reasoning-gym makes no dataset {self.task} with {self.config or 'its own settings'}: {refused}") from None
