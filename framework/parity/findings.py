"""What the parity gate found: a line for each check, as a table or as JSON. Must not know models."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

WIDTH = 110  # of a line of an explanation

Outcome = Literal["passed", "FAILED", "skipped"]


@dataclass(frozen=True)
class Finding:
    """The outcome of a check.

    Args:
        check: what was compared.
        outcome: passed, FAILED, or skipped.
        detail: figures, or what is wrong and where, or why it was skipped.
        figures: what was measured, by name.
    """

    check: str
    outcome: Outcome
    detail: str
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All findings about a model.

    Args:
        subject: the model.
        findings: in the order they were made.
    """

    subject: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(finding.outcome != "FAILED" for finding in self.findings)

    @property
    def failures(self) -> list[str]:
        """What failed, a line each."""
        return [f"{finding.check}: {finding.detail}" for finding in self.findings if finding.outcome == "FAILED"]

    def table(self) -> str:
        """A line for each check, the explanation of a failure on lines of its own."""
        width = max(len(finding.check) for finding in self.findings)
        lines = []
        for finding in self.findings:
            first, *rest = textwrap.wrap(finding.detail, WIDTH) or [""]
            lines += [f"{finding.outcome:7}  {finding.check:{width}}  {first}".rstrip()]
            lines += [f"{'':7}  {'':{width}}  {line}" for line in rest]
        return "\n".join(lines) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        findings = [asdict(finding) for finding in self.findings]
        for finding in findings:
            finding["figures"] = {name: value if math.isfinite(value) else str(value) for name, value in finding["figures"].items()}
        return {"subject": self.subject, "passed": self.passed, "findings": findings}


def passed(check: str, detail: str, **figures: float) -> Finding:
    """A check that is met."""
    return Finding(check, "passed", detail, figures)


def failed(check: str, problems: Sequence[str], **figures: float) -> Finding:
    """A check that is not; the first few problems are told."""
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return Finding(check, "FAILED", "; ".join(problems[:3]) + more, figures)


def skipped(check: str, why: str) -> Finding:
    """A check that could not be made."""
    return Finding(check, "skipped", why)
