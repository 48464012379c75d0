"""Rows of tokens as a page of HTML that stands alone: each token a box, what it is in its tooltip."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from framework.inspection.document import document, token_box
from framework.inspection.document import facts as listed
from framework.inspection.tokens import ShownRow, Token

STYLE = Path(__file__).with_name("page.css")


def page(title: str, facts: Sequence[tuple[str, str]], batches: Sequence[Sequence[ShownRow]]) -> str:
    """The page.

    Args:
        title: its heading.
        facts: what to know of the data, by name.
        batches: rows of each.
    """
    body = "".join(f"<h2>batch {number}</h2>" + "".join(_row(row) for row in rows) for number, rows in enumerate(batches))
    legend = (
        '<p class="legend"><span class="token">prompt</span><span class="token trained">trained</span>'
        '<span class="token special">special</span><span class="token padding">padding</span> rest the pointer on a token for its id, '
        "position and document; each document begins with a bar, on a line of its own</p>"
    )
    return document(title, listed(facts) + legend + body, STYLE.read_text(encoding="utf-8"))


def _row(row: ShownRow) -> str:
    boxes = [
        _box(token, begins=before is None or before.document != token.document) for before, token in zip([None, *row.tokens], row.tokens)
    ]
    return f'<h3>{html.escape(row.summary)}</h3><p class="row">{"".join(boxes)}</p>'


def _box(token: Token, begins: bool) -> str:
    kinds = [name for name, holds in (("trained", token.trained), ("special", token.special), ("padding", token.padding)) if holds]
    begins = begins and not token.padding
    if begins:
        kinds.append("begins")
    about = f"id {token.token_id}, position {token.position}, document {token.document}{', trained' if token.trained else ''}"
    new_line = "\n" if begins and token.document > 0 else ""
    return new_line + token_box(token.text, about, kinds)
