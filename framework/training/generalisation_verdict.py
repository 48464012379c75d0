"""What a run's evaluations say together: still learning, converged or overfitting, with the reason. Pure functions, plain Python.

A history of evaluations flows in, a verdict flows out. Must not know networks, trainers or how a loss was measured.

Every evaluation reads the same held-out tokens, so two of them are compared group by group of these: what makes some texts harder than
others cancels in the difference, and what is left of the scatter is its error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from framework.tasks.estimates import Estimate, ratio

Kind = Literal["too early", "still learning", "converged", "overfitting", "diverging"]
FEWEST_GROUPS = 5  # under so many the scatter of differences says nothing of their error


@dataclass(frozen=True)
class Evaluated:
    """A validation, and the training before it.

    Attributes:
        step: optimizer steps done.
        train_loss: nats a trained token, over the steps since the validation before.
        nats: summed -log p of each group of held-out tokens.
        tokens: how many there are in each group.
    """

    step: int
    train_loss: float
    nats: tuple[float, ...]
    tokens: tuple[float, ...]

    @property
    def loss(self) -> float:
        """Of validation, nats a token."""
        return math.fsum(self.nats) / math.fsum(self.tokens)

    @property
    def gap(self) -> float:
        """By how much the validation loss is over the training loss."""
        return self.loss - self.train_loss

    def rise_from(self, before: Evaluated) -> Estimate:
        """By how much the validation loss has risen since another evaluation, with its 95% interval.

        Paired over groups where both read the same ones; bounds are None where there are too few groups to tell.
        """
        if len(self.tokens) < FEWEST_GROUPS or len(before.tokens) < FEWEST_GROUPS:
            return Estimate(self.loss - before.loss, None, None, len(self.tokens), "none")
        if self.tokens == before.tokens:
            return ratio([now - then for now, then in zip(self.nats, before.nats)], self.tokens, "groups")
        reach = math.hypot(
            *((each.high or each.value) - each.value for each in (ratio(self.nats, self.tokens), ratio(before.nats, before.tokens)))
        )
        rise = self.loss - before.loss
        return Estimate(rise, rise - reach, rise + reach, len(self.tokens), "unpaired")


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a run, and why."""

    kind: Kind
    reason: str


def judge(history: Sequence[Evaluated], min_improvement: float, patience: int) -> Verdict:
    """The verdict after the last evaluation of a history.

    Overfitting: each of the last `patience` evaluations is above the best one, by more than `min_improvement` and more than the error
    explains, and the training loss is lower than it was then. Where that is not lower either, the run diverges. Converged: no
    evaluation among the last `patience` is better than the best before them by more than both.

    Args:
        history: evaluations in their order, at least one.
        min_improvement: nats a token that count as a change.
        patience: evaluations over which a change must show.
    """
    now = history[-1]
    if not math.isfinite(now.loss):
        return Verdict("diverging", f"the validation loss is {now.loss}")
    if len(history) <= patience:
        return Verdict("too early", f"{len(history)} of the {patience + 1} evaluations that a verdict takes")
    finite = [each for each in history if math.isfinite(each.loss)]
    best = min(finite, key=lambda each: each.loss)
    since = history[history.index(best) + 1 :]
    if len(since) >= patience and all(_is_sure(each.rise_from(best), min_improvement) for each in since[-patience:]):
        return _worse(best, now, len(since))
    before = [each for each in history[:-patience] if math.isfinite(each.loss)]
    reference = min(before, key=lambda each: each.loss) if before else history[0]
    newest = min((each for each in history[-patience:] if math.isfinite(each.loss)), key=lambda each: each.loss)
    improvement = reference.rise_from(newest)
    rise = newest.rise_from(reference)
    told = f"over the last {patience} evaluations the validation loss went from {reference.loss:.4f} to {newest.loss:.4f} at best"
    if _is_sure(improvement, min_improvement):
        return Verdict("still learning", f"{told}, an improvement of {_with_bounds(improvement)}; {_gap(now)}")
    why = f"no improvement of over {min_improvement:g}" if improvement.value <= min_improvement else "an improvement that chance explains"
    return Verdict("converged", f"{told}, {why}: a change of {_with_bounds(rise)}; {_gap(now)}")


def _worse(best: Evaluated, now: Evaluated, evaluations: int) -> Verdict:
    risen = (
        f"the validation loss was lowest at step {best.step} ({best.loss:.4f}) and is {_with_bounds(now.rise_from(best))} higher, "
        f"{evaluations} evaluations later"
    )
    if now.train_loss < best.train_loss:
        return Verdict(
            "overfitting", f"{risen}, while the training loss fell from {best.train_loss:.4f} to {now.train_loss:.4f}; {_gap(now)}"
        )
    return Verdict("diverging", f"{risen}, and the training loss rose from {best.train_loss:.4f} to {now.train_loss:.4f} too")


def _is_sure(change: Estimate, least: float) -> bool:
    """Whether a change is over `least` and its interval over zero."""
    return change.value > least and (change.low is None or change.low > 0)


def _with_bounds(change: Estimate) -> str:
    return f"{change.value:.4f}" + ("" if change.low is None else f" (95%: {change.low:.4f} to {change.high:.4f})")


def _gap(now: Evaluated) -> str:
    return f"gap to the training loss {now.gap:.4f}"
