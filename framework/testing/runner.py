"""Runs the conformance suite over installed parts.

Entries of the registry flow in, an outcome for each check flows out. Must not know any part or any single check.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from framework.registry import Part, registry

SUITES = (
    "framework.datasets",
    "framework.networks",
    "framework.optimizers",
    "framework.rewards",
    "framework.samplers",
    "framework.schedulers",
    "framework.tokenizers",
)
# families whose checks make the instances themselves, and the arguments they give
GIVEN = {"framework.networks": {"vocab_size", "context_length"}, "framework.optimizers": {"params"}}

Check = Callable[[Any], None]


class Outcome(NamedTuple):
    """What a check of a part came to; `detail` says why it failed or was skipped."""

    part: Part
    check: str
    verdict: Literal["pass", "fail", "skip"]
    detail: str = ""


def run(part: Part) -> Iterator[Outcome]:
    """Every check of a part's family, one of SUITES, on this part; one skip if there is nothing to check."""
    try:
        make = _maker(part)
        subject = make if make is None or part.family in GIVEN else make()
    except Exception as problem:  # a part may fail in any way: that is the outcome
        yield Outcome(part, "loads", "fail", _one_line(problem))
        return
    if make is None:
        entry = f'"{_short(part)}" in [project.entry-points."framework.testing"]'
        yield Outcome(part, "", "skip", f"it needs arguments, and {part.distribution} names no example ({entry})")
        return
    if subject is None:
        yield Outcome(part, "", "skip", "its example cannot be made on this machine")
        return
    for check in checks(part.family):
        name = check.__name__.removeprefix("check_").replace("_", " ")
        try:
            check(subject)
        except Exception as problem:
            yield Outcome(part, name, "fail", _one_line(problem))
        else:
            yield Outcome(part, name, "pass")


def checks(family: str) -> tuple[Check, ...]:
    """The checks of a family such as `framework.samplers`."""
    found: tuple[Check, ...] = importlib.import_module(family.replace("framework.", "framework.testing.")).CHECKS
    return found


def _maker(part: Part) -> Callable[..., Any] | None:
    """What makes the thing to check: the part's example, else the part itself; None for one that needs arguments and has no example."""
    examples = registry("framework.testing")
    if _short(part) in examples:
        made: Callable[..., Any] = examples[_short(part)]
        return made
    loaded: Callable[..., Any] = part.load()
    parameters = inspect.signature(loaded).parameters.values()
    required = {p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return loaded if required <= GIVEN.get(part.family, set()) else None


def _short(part: Part) -> str:
    return f"{part.family.removeprefix('framework.')}.{part.name}"


def _one_line(problem: Exception) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())}".removeprefix("AssertionError: ")
