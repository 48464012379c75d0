"""What a network passes on from block to block, and where two networks first differ.

Shape legend: T tokens, D model width.
Networks and ids flow in; the stage and the position of the first difference flow out. Watches through hooks; must not know what the
networks are otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

PARTS = {"attention": ("attention", "self_attn", "attn"), "feed-forward": ("feedforward", "mlp")}  # ours and Hugging Face's names


class Stage(NamedTuple):
    """Hidden states at one place of the forward pass."""

    name: str
    hidden_TD: Tensor


class Difference(NamedTuple):
    """Where two networks first differ.

    Attributes:
        stage: what comes out different while all before it is the same.
        position: the first token there.
        size: the largest difference at that token.
    """

    stage: str
    position: int
    size: float

    def __str__(self) -> str:
        return f"the first difference is in {self.stage}, position {self.position} (by {self.size:.3g})"


def stages(blocks: Sequence[nn.Module], run: Callable[[], object]) -> list[Stage]:
    """What enters the first block and what its parts, it and every further one give, for the one sequence that `run` runs.

    Args:
        blocks: the network's, in order.
        run: runs the network on a batch of one.
    """
    found: list[Stage] = []
    with _watched(blocks, found), torch.inference_mode():
        run()
    return found


@contextmanager
def _watched(blocks: Sequence[nn.Module], found: list[Stage]) -> Iterator[None]:
    def note(name: str, given: Any) -> None:
        hidden_BTD = given[0] if isinstance(given, tuple) else given
        found.append(Stage(name, hidden_BTD[0].detach().float()))

    def before(block: nn.Module, words: tuple[Any, ...], named: dict[str, Any]) -> None:
        note("the embedding", words[0] if words else named["hidden_states"])

    def after(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, given, made: note(name, made)

    hooks = [blocks[0].register_forward_pre_hook(before, with_kwargs=True)]
    for number, block in enumerate(blocks):
        children = dict(block.named_children())
        for part, names in PARTS.items():
            if (child := next((children[name] for name in names if name in children), None)) is not None:
                hooks.append(child.register_forward_hook(after(f"layer {number}'s {part}")))
        hooks.append(block.register_forward_hook(after(f"layer {number}")))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def first_difference(ours: Sequence[Stage], theirs: Sequence[Stage], tolerance: float) -> Difference | None:
    """The first stage and position where two runs of one sequence differ by more than `tolerance` of the largest number there."""
    others = {stage.name: stage.hidden_TD for stage in theirs}
    for stage in ours:
        other_TD = others.get(stage.name)
        if other_TD is None or other_TD.shape != stage.hidden_TD.shape:
            continue
        size_T = (stage.hidden_TD - other_TD).abs().amax(-1)
        allowed_T = tolerance * (1 + stage.hidden_TD.abs().amax(-1))
        if (size_T > allowed_T).any():
            position = int((size_T > allowed_T).nonzero()[0])
            return Difference(stage.name, position, float(size_T[position]))
    return None
