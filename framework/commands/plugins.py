"""`framework plugins`: every part of every family and where it comes from; `framework plugins test PACKAGE` runs the conformance suite."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from framework.errors import ConfigError
from framework.registry import BrokenPlugin, Part, families, registry

NO_FAMILIES = ("framework.share", "framework.testing")  # groups that hold no parts: shipped YAML files, and examples for the suite


def plugins(*words: str, check: bool = False) -> int:
    """List every installed part, or test a package's parts.

    Args:
        words: nothing to list all parts; `test PACKAGE` to run the conformance suite over those of a package (`framework`: the built-ins).
        check: import every part and mark the broken ones.
    """
    match words:
        case ():
            return _list(check)
        case ("test", package):
            return _test(package)
    raise ConfigError(f"framework plugins takes nothing or `test PACKAGE`, not {' '.join(words)!r}")


def _parts() -> list[Part]:
    return [part for family in families() if family not in NO_FAMILIES for part in registry(family).parts()]


def _list(check: bool) -> int:
    parts = _parts()
    problems = {part: _problem(part) for part in parts} if check else {}
    header = ("family", "name", "from", "version")
    rows = [(part.family.removeprefix("framework."), part.name, part.distribution, part.version) for part in parts]
    marks = ["", *(f"BROKEN {problem}" if (problem := problems.get(part)) else "" for part in parts)]
    for line, mark in zip(_aligned([header, *rows]), marks, strict=True):
        print(f"{line}  {mark}".rstrip())
    return 1 if any(problems.values()) else 0


def _problem(part: Part) -> str:
    try:
        part.load()
    except BrokenPlugin as broken:
        return str(broken)
    return ""


def _test(package: str) -> int:
    parts = _parts()
    offered = {part.distribution for part in parts}
    name = package.lower().replace("_", "-").replace(".", "-")
    if name not in offered:
        near = difflib.get_close_matches(name, offered, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{package} offers no parts.{hint} Packages that do: {', '.join(sorted(offered))}.")
    from framework.testing.runner import SUITES, run

    mine = [part for part in parts if part.distribution == name]
    failed = passed = 0
    for part in (part for part in mine if part.family in SUITES):
        for outcome in run(part):
            detail = f": {outcome.detail}" if outcome.detail else ""
            print(f"{outcome.verdict}  {part.family.removeprefix('framework.')}.{part.name}  {outcome.check}".rstrip() + detail, flush=True)
            failed += outcome.verdict == "fail"
            passed += outcome.verdict == "pass"
    if without := sorted({part.family.removeprefix("framework.") for part in mine if part.family not in SUITES}):
        print(f"no checks exist for {', '.join(without)}")
    print(f"{name}: {passed} passed, {failed} failed")
    return 1 if failed else 0


def _aligned(rows: list[tuple[str, ...]]) -> Iterable[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
