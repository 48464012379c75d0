"""The chat page: one file, sent with a policy that lets it run its own script, talk to this server, and nothing else."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from framework.server.policy import page_policy


@cache
def page() -> str:
    """The HTML."""
    return (files("framework.server") / "page.html").read_text(encoding="utf-8")


@cache
def page_headers() -> dict[str, str]:
    """Its headers."""
    return page_policy(page())
