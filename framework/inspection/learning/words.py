"""A step of learning in words: the sentences, names and numbers that text and page share.

Plain values flow in, text flows out. Must not know terminals or HTML.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from framework.inspection.learning.batch import BatchTable
from framework.inspection.learning.graph import Call, Node
from framework.inspection.learning.step import Learning, Summary
from framework.inspection.learning.tokens import FreeRun, TokenRow
from framework.inspection.learning.update import AdamWParts, ParameterStep, WeightStep

LITTLE = 0.001  # by how much a sentence imagines a weight to be larger

BATCH = {
    "tokens": "The batch: every position asked at once",
    "pairs": "The batch: which of two replies is better",
    "replies": "The batch: what the policy wrote",
}
GRAPH = "The computation graph of the loss"
WEIGHTS = "Weights: gradient, check, update"
PARAMETERS = "Every parameter: how far it moved"

ABOUT_TOKENS = (
    "Teacher forcing: at every position the network sees the data up to there and says how probable each next token is. All positions are "
    "computed in one forward pass; the loss of each is -log of the probability it gave to the token that really comes next."
)
ABOUT_FREE = "Free running: the same beginning, but now the network reads its own tokens, always the likeliest. Where it parts from the data, it goes on from its own error."
ABOUT_PAIRS = (
    "Two replies to each prompt; the loss is small where the better one is clearly ahead. The figures are the recipe's own, pair by pair."
)
ABOUT_REPLIES = (
    "The policy wrote these replies itself. Tokens with a positive advantage are made likelier, the others less likely; the ratio says how "
    "far the policy has moved since it wrote them, and the loss clips it."
)
ABOUT_GRAPH = (
    "Modules in the order they ran, with the shapes that went in and came out. Inside each are the nodes that the backward pass visits from "
    "the last to the first; AccumulateGrad is where a weight's gradient gathers."
)
ABOUT_WEIGHTS = (
    "The gradient comes from the backward pass. The slope beside it was found without one: the weight was made a little larger and a little "
    "smaller in float64, and the loss computed again. In float32 the two agree to about a millionth, in bfloat16 to about a hundredth."
)
ABOUT_PARAMETERS = "Norms over all weights of a parameter. An update near a thousandth of its weights is usual; much more is restless, nothing at all is asleep."


class Line(NamedTuple):
    """A number of an update: what it is, how it comes about, its value."""

    what: str
    how: str
    value: str


def number(value: float | None, digits: int = 4) -> str:
    """A number in so many digits; a dash for none."""
    return "–" if value is None else f"{value:.{digits}g}".replace("-", "−") if value else "0"


def percent(value: float) -> str:
    """A probability or share; a very small one as it is."""
    return f"{100 * value:.3g}%" if value >= 1e-5 or not value else number(value, 3)


def count(value: float) -> str:
    """How many."""
    return f"{value:,.0f}"


def flops(value: int) -> str:
    """Floating-point operations in a fitting unit."""
    for unit, size in (("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6), ("kFLOP", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value} FLOP"


def shape(sizes: Sequence[int]) -> str:
    """`4×16×32`; of a scalar `scalar`."""
    return "×".join(map(str, sizes)) or "scalar"


def title(learning: Learning) -> str:
    """The heading."""
    return f"{learning.summary.recipe}, step {learning.summary.step}: one step of learning"


def facts(summary: Summary) -> list[tuple[str, str]]:
    """The step in figures, by name."""
    batches = f" in {summary.micro_batches} micro-batches" if summary.micro_batches > 1 else ""
    found = [
        ("network", f"{summary.network}, {count(summary.parameters)} parameters"),
        ("trained on", f"{count(summary.num_items)} {summary.item}{batches}"),
        ("loss before", f"{number(summary.loss, 6)}, mean over {summary.item}"),
        ("loss after", f"{number(summary.loss_after, 6)} on the same batch ({_signed(summary.loss_after - summary.loss_again)})"),
        ("expected", f"{_signed(summary.expected_change)} from gradient times change; the rest is the loss's curvature"),
    ]
    for name, before in summary.validation_before.items():
        found.append((name.replace("_", " "), f"{number(before, 6)} → {number(summary.validation_after[name], 6)} on one validation batch"))
    found += [
        ("gradient norm", f"{number(summary.gradient_norm)}{_clipped(summary)}"),
        ("learning rate", number(summary.learning_rate)),
        ("optimizer", summary.optimizer),
    ]
    if summary.refused:
        found.append(("refused", "loss or gradient was not finite: the step left weights and optimizer as they were"))
    return found


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value)}"


def _clipped(summary: Summary) -> str:
    if summary.clip_factor is None or summary.clip_algorithm is None:
        return ", not clipped"
    if summary.clip_factor > 0.999999:
        return ", under the limit: not clipped"
    return f", clipped by {summary.clip_algorithm} to {number(summary.clip_factor)} of it"


def batch_note(learning: Learning) -> str:
    """How the table belongs to the step's loss."""
    table, summary = learning.batch, learning.summary
    which = "The batch" if summary.micro_batches == 1 else f"The first of {summary.micro_batches} micro-batches"
    part = "" if table.shown == table.of else f" (the first {table.shown} are shown)"
    total = sum(table.row_losses)
    names = {"tokens": "rows", "pairs": "pairs", "replies": "replies"}
    mean = f" The recipe's own loss of it is {number(table.total, 6)} over {count(table.num_items)} {summary.item}."
    return f"{which} has {table.of} {names[table.kind]}{part}; their losses add up to {number(total, 6)}.{mean}"


def about_batch(table: BatchTable) -> str:
    """What the table shows."""
    return {"tokens": ABOUT_TOKENS, "pairs": ABOUT_PAIRS, "replies": ABOUT_REPLIES}[table.kind]


def row_title(row: TokenRow) -> str:
    """A row in figures."""
    trained = [guess for guess in row.guesses if guess.trained]
    right = sum(guess.likeliest == guess.target for guess in trained)
    rest = len(row.guesses) - len(trained)
    also = f", {rest} read but not trained" if rest else ""
    return f"row {row.row}: {len(trained)} positions trained{also}; loss {number(row.loss / len(trained))} each; likeliest token right at {right}"


def free_note(run: FreeRun) -> str:
    """Where a free run parts from the data."""
    if run.parted_at is None:
        return f"the network writes the next {len(run.own)} tokens exactly as the data has them"
    if run.parted_at == 0:
        return "they part at the first token"
    return f"they part after {run.parted_at} token{'s' if run.parted_at > 1 else ''}"


def call_shapes(call: Call) -> str:
    """What went in and came out of a module: one tensor each is the rule."""
    taken = ", ".join(map(shape, call.inputs[:1])) + (" …" if len(call.inputs) > 1 else "")
    return f"{taken} → {', '.join(map(shape, call.outputs))}" if call.inputs else ", ".join(map(shape, call.outputs))


def call_about(call: Call) -> str:
    """Shapes, parameters, operations."""
    parts = [call_shapes(call)]
    parts += [f"{name} {shape(sizes)}" for name, sizes in call.parameters.items()]
    return " · ".join([*parts, *([flops(call.flops)] if call.flops else [])])


def call_name(call: Call, above: str = "") -> str:
    """A module's name without that of the one around it."""
    return call.module.removeprefix(f"{above}.") if call.module else "network"


def node_name(node: Node) -> str:
    """`Mm` of `MmBackward0`; of a gradient's end, the weight's own name."""
    if node.parameter is not None:
        return f"[{node.parameter.rpartition('.')[2]}]"
    return re.sub(r"Backward\d*$", "", node.name).lstrip("_")


def weight_name(weight: WeightStep) -> str:
    """`blocks.0.attention.qkv.weight[3,5]`."""
    return f"{weight.parameter}[{','.join(map(str, weight.index))}]"


def weight_sentence(weight: WeightStep) -> str:
    """What the gradient means, and what the optimizer did about it."""
    if not math.isfinite(weight.gradient):
        meaning = "The gradient of this weight is not finite."
    elif not weight.gradient:
        meaning = "The loss does not depend on this weight here."
    else:
        direction = "rise" if weight.gradient > 0 else "fall"
        meaning = f"If this weight were {LITTLE} larger, the loss would {direction} by {number(abs(weight.gradient) * LITTLE)}."
    if weight.given is None:
        return f"{meaning} The optimizer was given nothing, and left it as it was."
    if not weight.change:
        return f"{meaning} It did not change."
    moved = "larger" if weight.change > 0 else "smaller"
    size = "" if weight.relative_change is None else f", by {percent(abs(weight.relative_change))} of its size"
    follows = weight.change * weight.gradient < 0
    why = (
        "So"
        if follows
        else "All the same, by what it remembers of earlier gradients or by decay,"
        if weight.gradient
        else "By memory or decay"
    )
    return f"{meaning} {why} the optimizer made it {moved}: {number(weight.before)} became {number(weight.after)}{size}."


def agreement(weight: WeightStep) -> str:
    """How well gradient and slope agree."""
    return f"they differ by {weight.disagreement:.1e} of their size" if weight.disagreement else "they are the same"


def weight_lines(weight: WeightStep) -> list[Line]:
    """From the gradient to the change, a number a line."""
    lines = [
        Line("gradient", "from the backward pass, of the mean loss", number(weight.gradient)),
        Line("slope", f"(loss above − loss below) / distance, in float64; {agreement(weight)}", number(weight.finite_difference)),
    ]
    if weight.given is None:
        return lines
    lines.append(Line("given", "the gradient that the optimizer got, after clipping", number(weight.given)))
    lines += _adamw_lines(weight, weight.adamw) if weight.adamw is not None else _state_lines(weight)
    grown = "" if weight.relative_change is None else f"; {_signed(100 * weight.relative_change)}% of the weight"
    return [*lines, Line("change", f"as seen: weight after − weight before{grown}", number(weight.change))]


def _adamw_lines(weight: WeightStep, parts: AdamWParts) -> list[Line]:
    first, second = (weight.state_before.get(name, 0.0) for name in ("exp_avg", "exp_avg_sq"))
    rate, decay = number(weight.learning_rate), number(weight.weight_decay)
    return [
        Line("first moment m", f"{parts.beta1} × {number(first)} + {1 - parts.beta1:.3g} × given", number(parts.first_moment)),
        Line("second moment v", f"{parts.beta2} × {number(second)} + {1 - parts.beta2:.3g} × given²", number(parts.second_moment)),
        Line("m corrected", f"m / (1 − {parts.beta1}^{parts.step})", number(parts.corrected_first)),
        Line("v corrected", f"v / (1 − {parts.beta2}^{parts.step})", number(parts.corrected_second)),
        Line("adaptive part", f"−{rate} × m corrected / (√(v corrected) + {parts.eps:g})", number(parts.adaptive)),
        Line("decay part", f"−{rate} × {decay} × {number(weight.before)}", number(parts.decay)),
    ]


def _state_lines(weight: WeightStep) -> list[Line]:
    """The optimizer's own numbers; how it makes a change of them is its own affair."""
    lines = []
    if weight.learning_rate is not None:
        lines.append(Line("learning rate", "of this parameter's group", number(weight.learning_rate)))
    if weight.weight_decay is not None:
        lines.append(Line("weight decay", "of this parameter's group", number(weight.weight_decay)))
    for name, value in weight.state_after.items():
        lines.append(Line(name.replace("_", " "), f"the optimizer's; before {number(weight.state_before.get(name, 0.0))}", number(value)))
    return lines


PARAMETER_HEAD = ("parameter", "role", "shape", "weights", "gradient", "update", "update / weights", "moved most", "")


def parameter_cells(one: ParameterStep) -> list[str]:
    """A row of the table of parameters."""
    most = f"{_signed(one.largest_change)} at {','.join(map(str, one.largest_index))}"
    return [
        one.name,
        one.role,
        shape(one.shape),
        number(one.weight_norm),
        number(one.gradient_norm),
        number(one.update_norm),
        number(one.ratio, 3),
        most if one.largest_change else "–",
        "; ".join(one.remarks),
    ]
