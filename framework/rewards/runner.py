"""Rewards run where they can do no harm: each in a process of its own, with a limit of time for every sample.

Samples flow in; for each, a score or the reason why it has none flows out. Must not know recipes, or what a score is for.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Sequence
from itertools import count
from types import TracebackType
from typing import Any, NamedTuple, Self

from framework.errors import ConfigError, UserError
from framework.rewards.base import Reward, Sample
from framework.rewards.process import Hung, Lost, WorkerProcess


class RewardError(UserError):
    """A reward that cannot be run, or that fails for too many samples."""


class Failure(NamedTuple):
    """A sample that has no score; `reason` says why, in one line."""

    reason: str


class RewardRunner:
    """One reward in a process of its own, which starts at the first samples.

    A sample that hangs costs its time limit and a new process; one that raises, gives no finite number or ends the process is a
    `Failure`; no other sample notices. What the process is blamed for is the sample's own doing: one that ended a process which had
    judged others before is judged again by a fresh one. For one thread at a time.

    Args:
        reward: of a class that another process can import.
        timeout_seconds: of one sample; one that takes longer is a Failure.
        start_seconds: of the process and its imports.
        max_failures: share of the samples of one call; over it `score` raises as soon as it is known. 1: never.
        memory_bytes: what the process may take; a reward that wants more gets a MemoryError. None: no limit.

    Raises:
        ConfigError: a reward that another process cannot import, or a number outside its range.
    """

    def __init__(
        self,
        reward: Reward,
        timeout_seconds: float = 10.0,
        start_seconds: float = 120.0,
        max_failures: float = 1.0,
        memory_bytes: int | None = 8 * 2**30,
    ) -> None:
        for name, value in {"timeout_seconds": timeout_seconds, "start_seconds": start_seconds}.items():
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} of rewards is {value} and must be a number over 0")
        if not 0 <= max_failures <= 1:
            raise ConfigError(f"max_failures of rewards is {max_failures} and must be a share from 0 to 1")
        self.name = type(reward).__name__
        self._pickled = _pickled(reward)
        self._timeout_seconds, self._start_seconds, self._max_failures = timeout_seconds, start_seconds, max_failures
        self._memory_bytes = memory_bytes or 0
        self._worker: WorkerProcess | None = None
        self._judged = 0  # by this process: answers, and before them 1 for "ready"

    def score(self, samples: Sequence[Sample]) -> list[float | Failure]:
        """A score or a Failure for each sample, in their order.

        Raises:
            RewardError: the reward cannot be loaded, or fails for more than `max_failures` of the samples.
        """
        return self.begin(samples)()

    def begin(self, samples: Sequence[Sample]) -> Callable[[], list[float | Failure]]:
        """Have samples judged, and go on; what is returned waits for the scores, and must be called before the next samples begin."""
        waiting = [pickle.dumps(sample) for sample in samples]
        try:
            self._ask(waiting)
        except BaseException:
            self.close()
            raise
        return lambda: self._collect(waiting)

    def close(self) -> None:
        """End the process; the next samples would start a new one. May be called again."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, waiting: list[bytes]) -> None:
        """Give the process what waits; a new one if there is none."""
        if not waiting:
            return
        if self._worker is not None and not self._worker.alive:
            self.close()
        try:
            if self._worker is None:
                self._judged = 0
                self._worker = WorkerProcess(self._pickled, self._memory_bytes, self._start_seconds)
            self._worker.ask(waiting)
        except (Hung, Lost):
            if self._judged:  # it ended since it judged last
                self.close()
                self._ask(waiting)
            # a new one has said why, which `_start` reads

    def _collect(self, waiting: list[bytes]) -> list[float | Failure]:
        results: list[float | Failure] = []
        failures: list[Failure] = []
        try:
            while len(results) < len(waiting):
                result = self._next(waiting[len(results) :])
                if result is None:
                    continue
                results.append(result)
                if isinstance(result, Failure):
                    failures.append(result)
                    if len(failures) > self._max_failures * len(waiting):
                        raise RewardError(self._too_many(failures, len(waiting)))
        except BaseException:  # also Ctrl-C: the answers under way must not be taken for the next samples'
            self.close()
            raise
        return results

    def _next(self, waiting: list[bytes]) -> float | Failure | None:
        """The first sample's result; None if it is to be judged again by the new process."""
        assert self._worker is not None
        try:
            if not self._judged:
                self._start()
            answer = self._worker.answer(self._timeout_seconds)
            if "lost" in answer:
                raise Lost(answer["lost"])
        except Hung:
            return self._renew(waiting[1:], Failure(f"it took longer than {self._timeout_seconds:g} s"))
        except Lost as problem:
            fresh = self._judged == 1
            return self._renew(waiting[1:], Failure(str(problem))) if fresh else self._renew(waiting, None)
        self._judged += 1
        return answer["score"] if "score" in answer else Failure(answer["failure"])

    def _start(self) -> None:
        assert self._worker is not None
        try:
            told = self._worker.answer(self._start_seconds)
        except Hung:
            told = {"broken": f"it was not ready after {self._start_seconds:g} s"}
        except Lost as problem:
            told = {"broken": str(problem)}
        if "broken" in told:
            raise RewardError(f"the reward {self.name} cannot be loaded in a process of its own: {told['broken']}")
        self._judged = 1

    def _renew(self, waiting: list[bytes], result: Failure | None) -> Failure | None:
        self.close()
        self._ask(waiting)
        return result

    def _too_many(self, failures: list[Failure], of: int) -> str:
        bound = f"more than max_failures {self._max_failures:g} allows"
        return f"the reward {self.name} failed for {len(failures)} of {of} samples, {bound}; the last time: {failures[-1].reason}"


class Scores(NamedTuple):
    """What several rewards say of the same samples.

    Attributes:
        totals: weighted sum of each sample's scores; a Failure where a reward failed.
        columns: reward's name -> its score, or Failure, of each sample.
    """

    totals: list[float | Failure]
    columns: dict[str, list[float | Failure]]


class Rewards:
    """Several rewards with weights, judging side by side.

    Args:
        rewards: at least one.
        weights: of each; None: 1.
        timeout_seconds, max_failures: as `RewardRunner` takes them.

    Attributes:
        names: of the rewards, their classes' names; of two of one class the second is `Name_2`.

    Raises:
        ConfigError: as RewardRunner, no reward, or weights that are not one finite number for each.
    """

    def __init__(
        self, rewards: list[Reward], weights: list[float] | None = None, timeout_seconds: float = 10.0, max_failures: float = 0.5
    ) -> None:
        if not rewards:
            raise ConfigError("no reward is given: give at least one")
        self.weights = [1.0] * len(rewards) if weights is None else list(weights)
        if len(self.weights) != len(rewards) or not all(map(math.isfinite, self.weights)):
            raise ConfigError(f"the weights {self.weights} must be {len(rewards)} finite numbers, one for each reward")
        self._runners = [RewardRunner(reward, timeout_seconds=timeout_seconds, max_failures=max_failures) for reward in rewards]
        self.names: list[str] = []
        for runner in self._runners:
            names = (runner.name if number == 1 else f"{runner.name}_{number}" for number in count(1))
            self.names.append(next(name for name in names if name not in self.names))

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Every reward's scores, and their weighted sums. Raises RewardError as `RewardRunner.score`."""
        try:
            begun = [runner.begin(samples) for runner in self._runners]
            columns = dict(zip(self.names, [collect() for collect in begun], strict=True))
        except BaseException:
            self.close()
            raise
        return Scores([self._total(row) for row in zip(*columns.values(), strict=True)], columns)

    def close(self) -> None:
        """End the processes; may be called again."""
        for runner in self._runners:
            runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _total(self, row: tuple[float | Failure, ...]) -> float | Failure:
        total = 0.0
        for name, weight, score in zip(self.names, self.weights, row, strict=True):
            if isinstance(score, Failure):
                return Failure(f"{name}: {score.reason}")
            total += weight * score
        return total if math.isfinite(total) else Failure(f"the weighted sum is {total}")


def _pickled(reward: Any) -> bytes:
    """The reward as another process can have it."""
    kind = type(reward)
    if not isinstance(reward, Reward):
        name = getattr(reward, "__qualname__", kind.__qualname__)
        raise ConfigError(f"{name} is no reward: make it a class that derives from framework.rewards.base.Reward, in a module")
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        where = "in the script that runs" if kind.__module__ == "__main__" else "inside a function"
        raise ConfigError(f"the reward {kind.__name__} is defined {where}, where its own process cannot find it: move it to a module")
    try:
        return pickle.dumps(reward)
    except Exception as problem:
        raise ConfigError(f"the reward {kind.__name__} cannot be sent to its own process: {problem}") from None
