"""Rows of tokens for a terminal: in colour, or with brackets around what is trained where there is no colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from framework.inspection.tokens import ShownRow, Token

RESET, DIM, TRAINED, TRAINED_TOO, SPECIAL, PADDING = "\033[0m", "\033[2m", "\033[30;42m", "\033[30;46m", "\033[35m", "\033[90m"
LEGEND = ("prompt", DIM), ("trained", TRAINED), ("trained", TRAINED_TOO), ("<|special|>", SPECIAL), ("padding", PADDING)


def legend(colour: bool) -> str:
    """What the colours, or the brackets, mean."""
    if colour:
        return " ".join(f"{style}{word}{RESET}" for word, style in LEGEND)
    return "[[trained]] <pad x n>"


def lines(row: ShownRow, colour: bool) -> Iterator[str]:
    """A row's summary and its text."""
    yield row.summary
    yield _coloured(row.tokens) if colour else _bracketed(row.tokens)


def table(row: ShownRow) -> Iterator[str]:
    """A row's summary, and its tokens one to a line: position, document, id, whether trained, text."""
    yield row.summary
    yield f"{'position':>8} {'document':>8} {'id':>8} {'trained':>7}  token"
    for token in row.tokens:
        if not token.padding:
            yield f"{token.position:>8} {token.document:>8} {token.token_id:>8} {'yes' if token.trained else '':>7}  {token.text!r}"


def _coloured(tokens: Sequence[Token]) -> str:
    pieces: list[str] = []
    for place, token in enumerate(tokens):
        style = (TRAINED if place % 2 else TRAINED_TOO) if token.trained else PADDING if token.padding else DIM
        mark = SPECIAL if token.special and not token.padding and not token.trained else ""
        text = "·" if token.padding else token.text.replace("\n", "\\n\n")
        pieces.append(f"{_border(tokens, place)}{style}{mark}{text}{RESET}")
    return "".join(pieces)


def _bracketed(tokens: Sequence[Token]) -> str:
    pieces: list[str] = []
    for place, token in enumerate(tokens):
        trained_before = place > 0 and tokens[place - 1].trained
        if trained_before and not token.trained:
            pieces.append("]]")
        pieces.append(_border(tokens, place))
        if token.padding:
            continue
        pieces.append(("[[" if token.trained and not trained_before else "") + token.text)
    if tokens and tokens[-1].trained:
        pieces.append("]]")
    padding = sum(token.padding for token in tokens)
    return "".join(pieces) + (f"<pad x {padding}>" if padding else "")


def _border(tokens: Sequence[Token], place: int) -> str:
    """A line between two documents that share a row."""
    return f"\n--- document {tokens[place].document}\n" if place and tokens[place].document > tokens[place - 1].document else ""
