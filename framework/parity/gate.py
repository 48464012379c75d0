"""The whole parity gate: a model beside our engine, transformers, and another copy of it.

A source flows in, a report flows out; nothing is written. Must not know what the report is used for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from framework.errors import CheckpointError
from framework.formats import sealed, sources
from framework.parity import checks, engine
from framework.parity.examples import PROMPTS
from framework.parity.findings import Finding, Report, failed, passed, skipped
from framework.parity.sides import Ours, Side, Transformers, ours

REPLY_TOKENS = 12
TOLERANCES = {
    "float64": 1e-5,
    "float32": 1e-4,
    "bfloat16": 0.1,
}  # largest difference of a log-probability, nats (transformers' norms are fp32)
USUAL_LOGIT = 20.0  # of which this holds; what rounding does grows with the largest logit beyond it


def verify(
    source: str | Path,
    against: str | Path | None = None,
    dtype: Literal["float64", "float32", "bfloat16"] = "float32",
    transformers: bool = True,
    told: Callable[[str], object] = lambda line: None,
) -> Report:
    """Compare a model with itself in the engine, with transformers where that is installed, and with another copy of it.

    Args:
        source: a run, a model directory, or what else `sources.directory` takes.
        against: another one: the directory it was made from, a GGUF file.
        dtype: what both sides compute in, whatever the weights are stored in.
        transformers: whether it is compared with transformers, where that is installed.
        told: gets a word about each step, before it.

    Raises:
        CheckpointError, TokenizerError: a side that cannot be loaded at all.
    """
    return Report(str(source), tuple(_findings(source, against, dtype, transformers, told)))


def _findings(
    source: str | Path, against: str | Path | None, dtype: str, transformers: bool, told: Callable[[str], object]
) -> Iterator[Finding]:
    kind = getattr(torch, dtype)
    told("files")
    files = _files(source)
    yield files
    if files.outcome == "FAILED":
        return
    one = ours(source, kind)
    told("engine")
    prompts = _prompts(one)
    alone = engine.replies(one.network, prompts, REPLY_TOKENS, together=False)
    together = engine.replies(one.network, prompts, REPLY_TOKENS, together=True)
    logits = [one.logits([*reply.prompt_ids, *reply.ids]) for reply in alone]
    tolerance = TOLERANCES[dtype] * max(1.0, max(float(logits_TV.abs().max()) for logits_TV in logits) / USUAL_LOGIT)
    yield engine.compare("engine, one at a time", alone, logits, tolerance)
    yield engine.compare("engine, all together", together, [one.logits([*reply.prompt_ids, *reply.ids]) for reply in together], tolerance)
    asked = _Asked(one, alone, logits, tolerance)
    if transformers:
        yield from _with_transformers(source, asked, kind, told)
    if against is not None:
        told(str(against))
        other = ours(against, kind)
        yield checks.configuration(one, other)
        finding, rounded = checks.weights(one, other)
        yield finding
        yield from _both(asked, other, rounded)


def _files(source: str | Path) -> Finding:
    if sources.gguf_file(source) is not None:
        return skipped("files", "a GGUF file keeps no hashes")
    directory = sources.directory(source)
    if not (directory / sealed.MANIFEST).is_file():
        return skipped("files", f"no {sealed.MANIFEST}: nobody wrote down their hashes")
    try:
        files = sealed.verify(directory)["files"]
    except CheckpointError as problem:
        return failed("files", [str(problem)])
    return passed("files", f"{len(files)} files match their SHA-256")


def _prompts(side: Ours) -> list[list[int]]:
    """Ids of the prompts, each with room for a reply."""
    longest = side.network.context_length - REPLY_TOKENS
    return [(side.tokenizer.encode_prompt(text) or [side.tokenizer.eos_id])[:longest] for text in PROMPTS]


class _Asked(NamedTuple):
    """The model in question, and what it answered.

    Attributes:
        side: the model.
        replies, logits: what it wrote after each prompt, and its logits over both.
        tolerance: largest difference of a log-probability allowed, nats.
    """

    side: Ours
    replies: list[engine.Reply]
    logits: list[Tensor]
    tolerance: float


def _with_transformers(source: str | Path, asked: _Asked, dtype: torch.dtype, told: Callable[[str], object]) -> Iterator[Finding]:
    if asked.side.published is None or sources.gguf_file(source) is not None:
        yield skipped("transformers", "it is no Hugging Face directory")
    elif importlib.util.find_spec("transformers") is None:
        yield skipped("transformers", "not installed: pip install 'framework[hf]'")
    else:
        told("transformers")
        directory = sources.directory(source)
        try:
            other = Transformers(directory, dtype)
        except Exception as problem:  # whatever the library makes of a directory that it cannot open
            yield failed("transformers", [f"cannot open {directory}: {str(problem).partition(chr(10))[0]}"])
            return
        yield from _both(asked, other, None)


def _both(asked: _Asked, other: Side, rounded: str | None) -> Iterator[Finding]:
    """What every pair of sides is compared in."""
    one = asked.side
    yield checks.tokenizer(one, other)
    yield checks.specials(one, other)
    yield checks.template(one, other)
    if one.vocab_size != other.vocab_size:
        yield failed(f"answers, {other.name}", [f"the vocabularies have {one.vocab_size} and {other.vocab_size} ids"])
        return
    yield checks.answers(one, other, asked.replies, asked.logits, asked.tolerance, rounded)
