"""`framework generate`: prompts in, prompts and their continuations on stdout as they come. Everything else goes to stderr."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from framework.errors import RequestError

if TYPE_CHECKING:
    from framework.samplers.base import Sampler

SEPARATOR = "-" * 40


def generate(
    directory: Path,
    *prompts: str,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    samplers: list[Sampler] | None = None,
    stop: list[str] | None = None,
    seed: int | None = None,
    samples: int = 1,
) -> None:
    """Continue prompts with a trained model.

    What is not given comes from the model's generation_config.json, else it changes nothing (temperature 1, every token).

    Args:
        directory: a run (`runs/pretrain`) or a model directory.
        prompts: texts to continue; none begins a new document.
        max_new_tokens: longest continuation in tokens (128 unless the model says otherwise); the network's context may end it earlier.
        temperature: 0 takes the best token each time, 1 is the network's own distribution, under 1 is sharper.
        top_k: draw only from the k best tokens; 0 for all.
        top_p: draw only from the fewest best tokens that have this probability together; 1 for all.
        min_p: draw only from tokens with at least this fraction of the best one's probability; 0 for all.
        repetition_penalty: over 1 discourages tokens that were there already.
        samplers: further samplers, applied after those above; `--samplers+=NAME` adds one.
        stop: end before the first of these strings.
        seed: the same seed gives the same text.
        samples: continuations of each prompt; sample number i of all has the seed plus i.
    """
    if samples < 1:
        raise RequestError(f"samples is {samples} and must be at least 1")
    from framework.generation import Generator
    from framework.samplers.chain import SamplingOptions

    options = SamplingOptions(temperature, top_k, top_p, min_p, repetition_penalty)
    generator = Generator.load(directory)
    texts = [prompt for prompt in prompts or ("",) for _ in range(samples)]
    for number, prompt in enumerate(texts):
        chunks = generator.stream(
            prompt,
            options,
            max_new_tokens=max_new_tokens,
            samplers=samplers or (),
            stop=stop or (),
            seed=None if seed is None else seed + number,
        )
        _write(f"{SEPARATOR}\n{prompt}" if number else prompt)
        for chunk in chunks:
            _write(chunk.text)
        _write("\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
