"""The comparisons of two sides: configuration, weights, tokenizer, special tokens, chat template, answers.

Two sides flow in, findings flow out. A difference in the answers is followed to the first layer and position where it appears.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from framework.formats import known
from framework.formats.base import Sizes
from framework.parity import rounding
from framework.parity.engine import Reply, unlike
from framework.parity.examples import CHATS, TEXTS
from framework.parity.findings import Finding, failed, passed, skipped
from framework.parity.sides import Ours, Side
from framework.parity.stages import first_difference

NOT_COMPUTED = ("dropout",)  # fields of a shape that change nothing once a model is trained


def configuration(one: Ours, other: Ours) -> Finding:
    """Whether both describe the same network."""
    check = f"configuration, {other.name}"
    if one.published is None or other.published is None:
        return skipped(check, "no published architecture expresses one of them")
    mine, theirs = (_sizes(known.described(side.published[0])[2]) for side in (one, other) if side.published)
    problems = [f"{name} is {mine[name]!r} and {theirs[name]!r}" for name in mine if mine[name] != theirs[name]]
    return failed(check, problems) if problems else passed(check, f"{len(mine)} fields equal")


def weights(one: Ours, other: Ours) -> tuple[Finding, str | None]:
    """Whether all tensors are equal, as far as the types they are stored in allow; and the coarsest type, None if they are equal."""
    check = f"weights, {other.name}"
    if one.published is None or other.published is None:
        return skipped(check, "no published architecture expresses one of them"), "F32"
    mine, theirs = one.published[1], other.published[1]
    problems = [f"{name} is only in {one.name}" for name in mine.names if name not in theirs.names]
    problems += [f"{name} is only in {other.name}" for name in theirs.names if name not in mine.names]
    exact, rounded = 0, set()
    for name in mine.names:
        if name not in theirs.names:
            continue
        tensor, their = mine.tensor(name), theirs.tensor(name)
        if tensor.shape != their.shape:
            problems.append(f"{name} has shape {list(tensor.shape)} and {list(their.shape)}")
        elif torch.equal(*(each.to(torch.promote_types(tensor.dtype, their.dtype)) for each in (tensor, their))):
            exact += 1
        else:
            kind, problem = _rounded(one, other, name, tensor, their)
            rounded.add(kind or "F32")
            problems += [problem] if problem else []
    if problems:
        return failed(check, problems), rounding.coarsest(rounded)
    detail = f"{exact} tensors equal" + (f", {len(mine.names) - exact} as near as {rounding.coarsest(rounded)} can be" if rounded else "")
    return passed(check, detail), rounding.coarsest(rounded)


def _rounded(one: Ours, other: Ours, name: str, tensor: Tensor, their: Tensor) -> tuple[str | None, str | None]:
    """The type that explains why two tensors are not equal, and what is wrong if none does."""
    rank = "matrix" if tensor.ndim > 1 else "vector"
    kind = rounding.coarsest(one.kinds[rank] | other.kinds[rank])
    if kind is None:
        return None, f"{name} differs, and {', '.join(sorted(other.kinds[rank]))} is no type whose rounding is known here"
    times = rounding.beyond(tensor, their, kind)
    largest = float((tensor.double() - their.double()).abs().max())
    return kind, None if times <= 1 else f"{name} differs by up to {largest:.3g}, {times:.3g} times what {kind} can explain"


def tokenizer(one: Side, other: Side) -> Finding:
    """Whether both make the same ids of every text."""
    check = f"tokenizer, {other.name}"
    problems = []
    for text in TEXTS:
        mine, theirs = one.encode(text), other.encode(text)
        if mine != theirs:
            place = next((at for at, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs)))
            problems.append(f"{text[:40]!r} from id {place} on: {mine[place : place + 4]} and {theirs[place : place + 4]}")
    count = sum(len(one.encode(text)) for text in TEXTS)
    return failed(check, problems) if problems else passed(check, f"{count} ids of {len(TEXTS)} texts equal")


def specials(one: Side, other: Side) -> Finding:
    """Whether the same ids begin, end and fill."""
    check = f"special tokens, {other.name}"
    mine, theirs = one.specials(), other.specials()
    problems = [f"{name} is {mine[name]} and {theirs[name]}" for name in mine if mine[name] != theirs[name]]
    return failed(check, problems) if problems else passed(check, ", ".join(f"{name} {value}" for name, value in mine.items()))


def template(one: Side, other: Side) -> Finding:
    """Whether both make the same ids of every chat."""
    check = f"chat template, {other.name}"
    pairs = [(one.render(chat), other.render(chat)) for chat in CHATS]
    if all(mine is None and theirs is None for mine, theirs in pairs):
        return passed(check, "neither has one")
    problems = [f"chat {number}: {_shown(mine)} and {_shown(theirs)}" for number, (mine, theirs) in enumerate(pairs) if mine != theirs]
    count = sum(len(mine) for mine, _ in pairs if isinstance(mine, list))
    return failed(check, problems) if problems else passed(check, f"{count} ids of {len(pairs)} chats equal")


def answers(one: Side, other: Side, replies: Sequence[Reply], logits: Sequence[Tensor], tolerance: float, rounded: str | None) -> Finding:
    """Whether both give the same log-probabilities after prompts and replies, and each reply's tokens are the likeliest to both.

    Args:
        one, other: the sides; the replies are the first one's.
        replies: what was written after each prompt.
        logits: the first one's over each prompt and its reply, [T, V].
        tolerance: largest difference of a log-probability allowed between equal weights, nats.
        rounded: the type that the weights differ by; None: they are equal.
    """
    check = f"answers, {other.name}"
    allowed = tolerance if rounded is None else rounding.LOG_PROBS[rounded]
    problems, sizes, num_tokens, num_unlike = [], [], 0, 0
    for number, (reply, mine_TV) in enumerate(zip(replies, logits, strict=True)):
        ids = [*reply.prompt_ids, *reply.ids]
        theirs_TV = other.logits(ids)
        sizes.append((_log_probs(mine_TV, ids) - _log_probs(theirs_TV, ids)).abs())
        others = unlike(theirs_TV, ids, len(reply.prompt_ids), tolerance)
        num_tokens, num_unlike = num_tokens + len(reply.ids), num_unlike + len(others)
        size = float(sizes[-1].max() if rounded is None else sizes[-1].mean())
        if not size <= allowed or (others and rounded is None):
            problems.append(f"prompt {number}: log-probabilities differ by {size:.3g}; {_explained(one, other, ids, allowed)}")
    size_N = torch.cat(sizes)
    figures = {"largest difference": float(size_N.max()), "mean difference": float(size_N.mean()), "tolerance": allowed}
    if problems:
        return failed(check, problems, **figures)
    if rounded is None:
        detail = f"log-probabilities within {size_N.max():.1e} (tolerance {allowed:.1e}); {num_tokens} greedy tokens equal"
    else:
        detail = f"log-probabilities within {size_N.mean():.2g} on average (tolerance of {rounded}: {allowed:g})"
        detail += f"; {num_tokens - num_unlike} of {num_tokens} greedy tokens equal"
    return passed(check, detail, **figures)


def _explained(one: Side, other: Side, ids: Sequence[int], tolerance: float) -> str:
    found = first_difference(one.stages(ids), other.stages(ids), tolerance)
    return "all layers agree: what follows them differs (final norm, output matrix)" if found is None else str(found)


def _log_probs(logits_TV: Tensor, ids: Sequence[int]) -> Tensor:
    return logits_TV[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def _sizes(sizes: Sizes) -> dict[str, Any]:
    shape = {field.name: getattr(sizes.shape, field.name) for field in fields(sizes.shape) if field.name not in NOT_COMPUTED}
    filled = {"num_kv_heads": sizes.shape.kv_heads, "head_width": sizes.shape.query_width, "feedforward_width": sizes.shape.inner_width}
    return {**shape, **filled, "vocab_size": sizes.vocab_size, "context_length": sizes.context_length}


def _shown(ids: list[int] | str | None) -> str:
    if isinstance(ids, list):
        return f"{len(ids)} ids beginning {ids[:6]}"
    return "no template" if ids is None else ids
