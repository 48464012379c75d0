"""The answer in a reply: where it stands, and whether two answers are the same.

Text flows in; an answer, or whether two agree, flows out. Must not know rewards, tasks or models; every search takes linear time.
"""

from __future__ import annotations

import re
from collections import deque
from decimal import Decimal, InvalidOperation
from typing import Literal

How = Literal["whole", "first_line", "last_number", "gsm8k", "boxed"]

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+"
# a minus after a word, a number or a bracket takes away (5-3); anywhere else it is the number's sign
_NUMBER = re.compile(rf"(?:(?<![\w)\]}}])[-+\u2212])?[$€£]?(?:{_DIGITS})(?:[eE][-+]?[0-9]+)?", re.ASCII)
_GSM8K = re.compile(r"####\s*")
_BOX = r"\boxed{"


def extract(text: str, how: How) -> str | None:
    r"""The answer in a text, None where there is none.

    Args:
        text: a reply, or a worked solution.
        how: `whole`: all of it, without the white space around it. `first_line`: the first line that is not blank. `last_number`: the
            number that comes last. `gsm8k`: the number after the first `####`, as GSM8K's solutions end. `boxed`: what the last
            `\boxed{...}` holds, as MATH's solutions end. Numbers come without thousands commas, currency and plus sign.
    """
    if how == "whole":
        return text.strip() or None
    if how == "first_line":
        return next((line.strip() for line in text.splitlines() if line.strip()), None)
    if how == "last_number":
        last = deque(_NUMBER.finditer(text), maxlen=1)
        return _plain(last[0].group()) if last else None
    if how == "gsm8k":
        mark = _GSM8K.search(text)
        number = _NUMBER.match(text, mark.end()) if mark else None
        return _plain(number.group()) if number else None
    return _boxed(text)


def same(a: str, b: str) -> bool:
    """Whether two answers agree: as numbers where both are (`1,000.0` is `1000`), else as texts without the white space around them."""
    one, other = _number(a), _number(b)
    return one == other if one is not None and other is not None else a.strip() == b.strip()


def _plain(number: str) -> str:
    return number.replace("\u2212", "-").replace("+", "", number.startswith("+")).translate({ord(sign): None for sign in ",$€£"})


def _number(text: str) -> Decimal | None:
    """The text as a number, which a full stop may follow."""
    found = _NUMBER.fullmatch(text.strip().removesuffix("."))
    try:
        return Decimal(_plain(found.group())) if found else None
    except InvalidOperation:  # an exponent of twenty digits
        return None


def _boxed(text: str) -> str | None:
    start = text.rfind(_BOX)
    if start < 0:
        return None
    start += len(_BOX)
    depth, escaped = 1, False
    for end, character in enumerate(text[start:], start):
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True  # \{ is a brace to be seen, none that groups
        else:
            depth += (character == "{") - (character == "}")
            if not depth:
                return text[start:end].strip() or None
    return None
