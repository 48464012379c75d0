"""What every task is: a judge of a model. A generator (network, tokenizer, engine) flows in, figures with intervals flow out.

Must not know training, or where the figures are shown.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from framework.errors import ConfigError
from framework.tasks.estimates import Estimate

if TYPE_CHECKING:
    from framework.generation import Generator

Progress = Callable[[int, int | None], None]  # (documents or rows that are done, how many there are where that is known)
NAME = re.compile(r"[\w.:-]+")


def silent(done: int, total: int | None) -> None:
    """The progress that nobody looks at."""


@dataclass(frozen=True)
class Options:
    """How much of each task is done, and how: what does not belong to the task itself.

    Args:
        limit: only the first so many documents or rows of each task; all unless given.
        samples: examples of each task to look at, its first ones.
        seed: of replies that are drawn; 0 unless given.
        batch_tokens: tokens that the network reads together when it scores texts; less takes less memory.
    """

    limit: int | None = None
    samples: int = 0
    seed: int = 0
    batch_tokens: int = 8192

    def __post_init__(self) -> None:
        for name, least in {"limit": 1, "samples": 0, "seed": 0, "batch_tokens": 1}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value} and must be at least {least}")


@dataclass(frozen=True)
class Result:
    """What a task found.

    Attributes:
        task: its name.
        n: documents or rows that were judged.
        metrics: the figures by name.
        settings: what they depend on beside the model, as plain JSON values.
        counts: further numbers: tokens, bytes; what was cut off, refused or could not be judged.
        problems: the reasons of those, the first few, a line each.
        samples: examples, in the order of the dataset.
        seconds: how long it took.
    """

    task: str
    n: int
    metrics: Mapping[str, Estimate]
    settings: Mapping[str, Any]
    counts: Mapping[str, int] = field(default_factory=dict)
    problems: Sequence[str] = ()
    samples: Sequence[Mapping[str, Any]] = ()
    seconds: float = 0.0


class Task(ABC):
    """Judges a model.

    Args:
        name: what the results are called; None: the class's name in kebab-case.

    Attributes:
        name: the same.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(self).__name__).lower() if name is None else name
        if not NAME.fullmatch(self.name):
            raise ValueError(f"the name {self.name!r} of a task has other characters than letters, digits and . : _ -")

    def evaluate(self, generator: Generator, options: Options = Options(), progress: Progress = silent) -> Result:
        """Judge a model; it is left as it was.

        Args:
            generator: the model; its engine serves nobody else meanwhile.
            options: how much is done.
            progress: told as documents or rows are done.

        Raises:
            DataError: the task's data cannot be used.
            RequestError, CheckpointError: the model cannot do what the task asks.
        """
        begun = time.monotonic()
        result = self.measure(generator, options, progress)
        return replace(result, seconds=time.monotonic() - begun)

    @abstractmethod
    def measure(self, generator: Generator, options: Options, progress: Progress) -> Result:
        """What `evaluate` gives, but for the time it took."""
