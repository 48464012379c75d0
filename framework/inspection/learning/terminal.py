"""A step of learning for a terminal: all that the page has. Plain values flow in, lines flow out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

from framework.inspection.learning import words
from framework.inspection.learning.batch import BatchTable
from framework.inspection.learning.graph import Call
from framework.inspection.learning.replies import Pair, PolicyReply
from framework.inspection.learning.step import Learning
from framework.inspection.learning.tokens import TokenRow
from framework.inspection.learning.update import WeightStep

BOLD, RESET = "\033[1m", "\033[0m"
WIDTH = 120  # of running text
CONTEXT_WIDTH = 24


def learning_lines(learning: Learning, colour: bool) -> Iterator[str]:
    """All of it."""

    def heading(text: str) -> str:
        return f"\n{BOLD}{text}{RESET}" if colour else f"\n{text}\n{'-' * len(text)}"

    yield heading(words.title(learning)).lstrip("\n")
    facts = words.facts(learning.summary)
    width = max(len(name) for name, _ in facts)
    yield from (f"  {name:{width}}  {value}" for name, value in facts)
    yield heading(words.BATCH[learning.batch.kind])
    yield from _wrapped(words.about_batch(learning.batch), words.batch_note(learning))
    yield from _batch(learning.batch)
    yield heading(words.GRAPH)
    yield from _wrapped(words.ABOUT_GRAPH)
    yield from _graph(learning.graph, "", 0)
    yield heading(words.WEIGHTS)
    yield from _wrapped(words.ABOUT_WEIGHTS)
    for weight in learning.weights:
        yield from _weight(weight)
    yield heading(words.PARAMETERS)
    yield from _wrapped(words.ABOUT_PARAMETERS)
    yield from _columns([words.PARAMETER_HEAD, *map(words.parameter_cells, learning.parameters)])


def _wrapped(*texts: str, indent: str = "") -> Iterator[str]:
    for text in texts:
        yield from textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)


def _batch(table: BatchTable) -> Iterator[str]:
    for row in table.rows:
        yield from _row(row)
    for number, pair in enumerate(table.pairs):
        yield from _pair(number, pair)
    for number, reply in enumerate(table.replies):
        yield from _reply(number, reply)


def _row(row: TokenRow) -> Iterator[str]:
    yield f"\n{words.row_title(row)}"
    yield f"{'':>4} {'context':>{CONTEXT_WIDTH}}    {'target':12} {'probability':>11} {'loss':>8}   likeliest"
    for guess in row.guesses:
        context, target = repr(guess.context)[1:-1][-CONTEXT_WIDTH:], repr(guess.target)
        loss = words.number(guess.loss) if guess.trained else f"({words.number(guess.loss)})"
        likeliest = "✓" if guess.likeliest == guess.target else f"{guess.likeliest!r} {words.percent(guess.likeliest_probability)}"
        yield f"{guess.position:>4} {context:>{CONTEXT_WIDTH}} -> {target:12} {words.percent(guess.probability):>11} {loss:>8}   {likeliest}"
    if row.free is not None:
        yield f"  given   {row.free.prefix!r}"
        yield f"  data    {''.join(row.free.data)!r}"
        yield f"  itself  {''.join(row.free.own)!r}: {words.free_note(row.free)}"


def _pair(number: int, pair: Pair) -> Iterator[str]:
    yield f"\npair {number}: {pair.prompt!r}"
    yield f"  chosen    {pair.chosen!r}"
    yield f"  rejected  {pair.rejected!r}"
    yield f"  loss {words.number(pair.loss)}; {_figures(pair.figures)}"


def _reply(number: int, reply: PolicyReply) -> Iterator[str]:
    yield f"\nreply {number} to {reply.prompt!r}: loss {words.number(reply.loss)}; {_figures(reply.figures)}"
    further = list(reply.tokens[0].further) if reply.tokens else []
    heads = ["log-prob", "when written", "ratio", "advantage", *(name.replace("_", " ") for name in further)]
    yield f"  {'token':12} " + " ".join(f"{head:>12}" for head in heads)
    for token in reply.tokens:
        values = [token.log_prob, token.old_log_prob, token.ratio, token.advantage, *token.further.values()]
        yield f"  {token.token!r:12} " + " ".join(f"{words.number(value):>12}" for value in values)


def _figures(figures: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {words.number(value)}" for name, value in figures.items())


def _graph(call: Call, above: str, depth: int) -> Iterator[str]:
    """A line a module; neighbours that are alike share theirs."""
    yield f"{'  ' * depth}{words.call_name(call, above)} ({call.kind})  {words.call_about(call)}"
    if call.nodes:
        yield from _wrapped(f"backward: {' '.join(map(words.node_name, call.nodes))}", indent="  " * (depth + 2))
    for _, group in groupby(call.calls, key=_likeness):
        alike = list(group)
        yield from _graph(alike[0], call.module, depth + 1)
        if len(alike) > 1:
            yield f"{'  ' * (depth + 1)}… and {len(alike) - 1} more like it, up to {words.call_name(alike[-1], call.module)}"


def _likeness(call: Call) -> tuple[object, ...]:
    return (
        call.kind,
        repr((call.inputs, call.outputs, call.parameters)),
        call.flops,
        len(call.nodes),
        tuple(_likeness(inner) for inner in call.calls),
    )


def _weight(weight: WeightStep) -> Iterator[str]:
    yield f"\n{words.weight_name(weight)} ({weight.role})"
    yield f"  {words.weight_sentence(weight)}"
    lines = words.weight_lines(weight)
    width = max(len(line.what) for line in lines)
    yield from (f"  {line.what:{width}} {line.value:>11}   {line.how}" for line in lines)


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [f"{cell:{width}}" if column < 3 else f"{cell:>{width}}" for column, (cell, width) in enumerate(zip(row[:-1], widths))]
        yield "  ".join([*cells, row[-1]]).rstrip()
