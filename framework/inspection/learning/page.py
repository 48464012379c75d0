"""A step of learning as a page of HTML that stands alone. Plain values flow in, the page flows out."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from framework.inspection.document import document, embedded, facts, table, token_box
from framework.inspection.learning import words
from framework.inspection.learning.batch import BatchTable
from framework.inspection.learning.graph import Call, Node
from framework.inspection.learning.replies import Pair, PolicyReply
from framework.inspection.learning.step import Learning
from framework.inspection.learning.tokens import FreeRun, Guess, TokenRow
from framework.inspection.learning.update import ParameterStep, WeightStep

STYLE = Path(__file__).with_name("page.css")
FIRST_TRAINED = """for (const box of document.querySelectorAll(".long")) {
  const first = box.querySelector(".trained");
  if (first) box.scrollTop = first.getBoundingClientRect().top - box.getBoundingClientRect().top - box.clientHeight / 2;
}"""  # of a long prompt with a short reply, the reply is what matters
OPEN_DEPTH = 2  # levels of the graph that are open at first: the loss and the network


def learning_page(learning: Learning) -> str:
    """The page; its numbers are in it a second time, as JSON."""
    sections = [
        ("batch", words.BATCH[learning.batch.kind], _batch(learning)),
        ("graph", words.GRAPH, _about(words.ABOUT_GRAPH) + f'<ul class="graph">{_call(learning.graph, "", 0)}</ul>'),
        ("weights", words.WEIGHTS, _about(words.ABOUT_WEIGHTS) + f'<div class="cards">{"".join(map(_weight, learning.weights))}</div>'),
        ("parameters", words.PARAMETERS, _about(words.ABOUT_PARAMETERS) + _parameters(learning.parameters)),
    ]
    links = "".join(f'<a href="#{anchor}">{html.escape(name.partition(":")[0])}</a>' for anchor, name, _ in sections)
    body = "".join(f'<section id="{anchor}"><h2>{html.escape(name)}</h2>{content}</section>' for anchor, name, content in sections)
    parts = [_losses(learning), facts(words.facts(learning.summary)), f"<nav>{links}</nav>", body, embedded("learning", learning.as_json())]
    return document(words.title(learning), "".join(parts), STYLE.read_text(encoding="utf-8"), FIRST_TRAINED)


def _about(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def _losses(learning: Learning) -> str:
    """The step at a glance."""
    summary = learning.summary
    down = summary.loss_after < summary.loss_again
    return (
        f'<p class="losses">loss <b>{words.number(summary.loss, 5)}</b> → '
        f'<b class="{"down" if down else "up"}">{words.number(summary.loss_after, 5)}</b> on the same batch</p>'
    )


# the batch


def _batch(learning: Learning) -> str:
    shown: BatchTable = learning.batch
    rows = [*map(_row, shown.rows), *(_pair(*numbered) for numbered in enumerate(shown.pairs))]
    rows += [_reply(*numbered) for numbered in enumerate(shown.replies)]
    free = _about(words.ABOUT_FREE) if any(row.free is not None for row in shown.rows) else ""
    return _about(words.about_batch(shown)) + free + f"<p>{html.escape(words.batch_note(learning))}</p>" + "".join(rows)


def _row(row: TokenRow) -> str:
    head = ("", "context", "next token", "its probability", "loss", "likeliest instead")
    guesses = table(head, map(_guess, row.guesses), numbers=(0, 1, 4))
    free = "" if row.free is None else _free(row.free)
    return f'<h3>{html.escape(words.row_title(row))}</h3><div class="beside"><div class="long">{guesses}</div>{free}</div>'


def _guess(guess: Guess) -> list[str]:
    context = html.escape(guess.context.replace("\n", "⏎"))
    loss = words.number(guess.loss)
    right = guess.likeliest == guess.target
    instead = "" if right else f"{token_box(guess.likeliest)} {words.percent(guess.likeliest_probability)}"
    return [
        f'<span class="faint">{guess.position}</span>',
        f'<span class="context">{context}</span>',
        token_box(guess.target, kinds=["trained"] if guess.trained else ["read"]),
        f'<span class="bar" style="--p:{100 * guess.probability:.1f}%"></span>{words.percent(guess.probability)}',
        loss if guess.trained else f'<span class="faint" title="read, not trained">({loss})</span>',
        '<span class="faint" title="the next token itself is the likeliest">✓</span>' if right else instead,
    ]


def _free(run: FreeRun) -> str:
    return (
        f'<div class="free"><dl><dt>given</dt><dd>{_tokens([run.prefix], None)}</dd>'
        f"<dt>data</dt><dd>{_tokens(run.data, run.parted_at, 'trained')}</dd>"
        f"<dt>itself</dt><dd>{_tokens(run.own, run.parted_at, 'wrong')}</dd></dl>"
        f"<p>{html.escape(words.free_note(run))}</p></div>"
    )


def _tokens(texts: Sequence[str], parted_at: int | None, kind: str = "") -> str:
    """Tokens in boxes; from where two texts part, each in its own colour."""
    boxes = [token_box(text, kinds=[kind] if parted_at is not None and place >= parted_at else []) for place, text in enumerate(texts)]
    return f'<span class="run">{"".join(boxes)}</span>'


def _figures(loss: float, figures: dict[str, float]) -> str:
    named = {"loss": loss, **figures}
    parts = [f"{html.escape(name.replace('_', ' '))} <b>{words.number(value)}</b>" for name, value in named.items()]
    return f"<p>{' · '.join(parts)}</p>"


def _pair(number: int, pair: Pair) -> str:
    sides = "".join(
        f'<div class="side {kind}"><h4>{kind}</h4><p class="text">{html.escape(text)}</p></div>'
        for kind, text in (("chosen", pair.chosen), ("rejected", pair.rejected))
    )
    prompt = f'<p class="text">{html.escape(pair.prompt)}</p>'
    return f'<h3>pair {number}</h3>{prompt}<div class="sides">{sides}</div>{_figures(pair.loss, pair.figures)}'


def _reply(number: int, reply: PolicyReply) -> str:
    prompt = f'<h3>reply {number}</h3><p class="text">{html.escape(reply.prompt)}</p>'
    if not reply.tokens:
        return f"{prompt}<p>It could not be judged, and is not trained on.</p>"
    further = [name.replace("_", " ") for name in reply.tokens[0].further]
    head = ("token", "log-prob", "when written", "ratio", "advantage", *further)
    rows = []
    for token in reply.tokens:
        values = [token.log_prob, token.old_log_prob, token.ratio, token.advantage, *token.further.values()]
        kind = "trained" if token.advantage > 0 else "wrong" if token.advantage < 0 else "read"
        rows.append([token_box(token.token, kinds=[kind]), *map(words.number, values)])
    return f"{prompt}{table(head, rows, numbers=range(1, len(head)))}{_figures(reply.loss, reply.figures)}"


# the graph


def _call(call: Call, above: str, depth: int) -> str:
    name = f"<b>{html.escape(words.call_name(call, above))}</b> <i>{html.escape(call.kind)}</i>"
    line = f'{name} <span class="about">{html.escape(words.call_about(call))}</span>'
    inner = "".join(_call(child, call.module, depth + 1) for child in call.calls)
    nodes = "".join(map(_node, call.nodes))
    own = f'<li class="nodes">{nodes}</li>' if nodes else ""
    if not (inner or own):
        return f"<li>{line}</li>"
    is_open = " open" if depth < OPEN_DEPTH else ""
    return f"<li><details{is_open}><summary>{line}</summary><ul>{inner}{own}</ul></details></li>"


def _node(node: Node) -> str:
    sizes = ", ".join(map(words.shape, node.shapes))
    kind = "node" if node.parameter is None else "node leaf"
    about = node.name if node.parameter is None else f"{node.name}: {node.parameter}"
    name = html.escape(words.node_name(node).strip("[]"))
    return f'<span class="{kind}" title="{html.escape(about)}">{name} <span class="about">{sizes}</span></span>'


# weights and parameters


def _weight(weight: WeightStep) -> str:
    lines = [
        (html.escape(line.what), line.value, f'<span class="how">{html.escape(line.how)}</span>') for line in words.weight_lines(weight)
    ]
    return (
        f'<article><h3><code>{html.escape(words.weight_name(weight))}</code> <span class="about">{html.escape(weight.role)}</span></h3>'
        f"<p>{html.escape(words.weight_sentence(weight))}</p>{table(('', '', ''), lines, numbers=(1,))}</article>"
    )


def _parameters(parameters: Sequence[ParameterStep]) -> str:
    rows = []
    for one in parameters:
        name, *cells, remarks = map(html.escape, words.parameter_cells(one))
        rows.append([f"<code>{name}</code>" + (f'<div class="remark">{remarks}</div>' if remarks else ""), *cells])
    return table(words.PARAMETER_HEAD[:-1], rows, numbers=(3, 4, 5, 6, 7))
