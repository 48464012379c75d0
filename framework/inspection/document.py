"""The shell of every page: one HTML file that asks nothing of the network, light and dark, and the few parts that pages share.

Parts of HTML flow in, a page flows out. Text that comes from data is escaped by the function that takes it as `str` and says so.
Must not know what a page is about.
"""

from __future__ import annotations

import html
import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

STYLE = Path(__file__).with_name("document.css")


def document(title: str, body: str, extra_css: str = "", script: str = "") -> str:
    """A whole page with its heading.

    Args:
        title: its heading; escaped.
        body: HTML.
        extra_css: after the shared style, whose colours are the variables of document.css (--ink, --paper, --box, --line, --faint, ...).
        script: JavaScript, run when the body is there.
    """
    style = STYLE.read_text(encoding="utf-8") + extra_css
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style}</style>"
        f"<h1>{html.escape(title)}</h1>{body}{f'<script>{script}</script>' if script else ''}</html>\n"
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values, one pair a line; escaped."""
    return f"<dl>{''.join(f'<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>' for name, value in pairs)}</dl>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[int] = ()) -> str:
    """A table that scrolls sideways where it is wider than the screen.

    Args:
        head: names of the columns; escaped.
        rows: cells, as HTML.
        numbers: the columns that are set flush right.
    """
    classes = [' class="number"' if column in numbers else "" for column in range(len(head))]
    top = "".join(f"<th{kind}>{html.escape(name)}</th>" for kind, name in zip(classes, head))
    body = "".join(f"<tr>{''.join(f'<td{kind}>{cell}</td>' for kind, cell in zip(classes, row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def token_box(text: str, about: str = "", kinds: Sequence[str] = ()) -> str:
    """A token's text in a box, what is known of it in the tooltip; both escaped.

    Args:
        text: what it stands for; line breaks and lone spaces are made visible.
        about: the tooltip.
        kinds: further classes of the box.
    """
    shown = html.escape(text).replace("\n", "⏎\n").replace(" ", "\u00a0" if text.strip() == "" else " ")
    return f'<span class="{" ".join(["token", *kinds])}" title="{html.escape(about)}">{shown or "∅"}</span>'


def embedded(name: str, value: Any) -> str:
    """A value as JSON inside the page, for its script: `JSON.parse(document.getElementById(name).textContent)`."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{html.escape(name)}">{text}</script>'
