"""`framework inspect`: one forward pass, step by step. A model and a prompt flow in; text on stdout, a page and JSON in files flow out."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from framework.commands.fields import spread
from framework.commands.terminal import note, tolerate_encodings, unicode_text
from framework.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from framework.commands.model_options import ModelOptions
    from framework.generation import Generator, Settings
    from framework.inspection.forward.facts import Account

NEW_TOKENS = 10  # of the generation loop, where nothing else is asked for
EVERY = "every"
LATER = {"n", "cache_key", "num_beams", "length_penalty", "early_stopping", "logprobs", "prompt_logprobs"}
OF_TEXT = {"choices", "json_schema", "regex", "stop", "include_stop", "min_new_tokens"}


@dataclass(frozen=True)
class Questions:
    """What is asked of the forward pass.

    Args:
        layers: layers whose attention is shown in full; none: on the page as many as there is room for.
        ablate: parts to leave out and look again: layer.3.head.1, layer.3.attention, layer.3.feedforward or layer.3, @4 behind it for
            position 4 only, + between parts for several at once; `every` tries each head and half of a layer.
        patch: parts, named alike, that get what they have for the prompt `patch_from`.
        patch_from: another prompt, as many tokens long.
    """

    layers: Sequence[int] = ()
    ablate: Sequence[str] = ()
    patch: Sequence[str] = ()
    patch_from: str | None = None


@spread("questions", "framework.commands.inspect_model:Questions")
@spread("settings", "framework.generation:Settings", without=LATER | OF_TEXT)
@spread("model", "framework.commands.model_options:ModelOptions", without={"compile", "lookup", "draft"})
def inspect_model(
    directory: Path,
    prompt: str,
    *,
    html: Path | None = None,
    json: Path | None = None,
    tokenizer_only: bool = False,
    top: int = 10,
    color: Literal["auto", "always", "never"] = "auto",
    questions: Questions,
    settings: Settings,
    model: ModelOptions,
) -> int:
    """Show what happens inside a model between a prompt and the next token.

    Tokens, embeddings, each layer's attention and feed-forward, the logit lens, what the samplers leave, the generation loop. Weights
    are computed with as float32 unless --dtype says otherwise.

    Args:
        directory: a run (`runs/pretrain`) or a model directory; with --tokenizer_only a tokenizer's will do.
        prompt: a text; `-` is what stdin holds.
        html: gets all of it as a page that stands alone.
        json: gets the numbers.
        tokenizer_only: true: only what the tokenizer makes of the text.
        top: candidates of the next token that are shown.
        color: colours in the terminal; auto: where stdout is one.
    """
    tolerate_encodings()
    text = unicode_text(sys.stdin.read(), "stdin").removesuffix("\n") if prompt == "-" else unicode_text(prompt, "the prompt")
    if top < 1:
        raise RequestError(f"top is {top} and must be at least 1")
    if bool(questions.patch) != (questions.patch_from is not None):
        raise ConfigError("--patch names the parts and --patch_from the prompt they are from: give both")
    if tokenizer_only and (asked := [name for name in ("layers", "ablate", "patch") if getattr(questions, name)]):
        raise ConfigError(f"--tokenizer_only shows no network: leave out --{asked[0]}")
    numbers = _tokenizer(directory, text) if tokenizer_only else _forward(directory, text, top, questions, settings, model)
    colour = color == "always" or (color == "auto" and sys.stdout.isatty())
    from framework.inspection.forward.terminal import ForwardText

    print(*ForwardText(numbers, colour, questions.layers).lines(), sep="\n")
    if json is not None:
        json.write_text(json_format.dumps(numbers, ensure_ascii=False, allow_nan=False), encoding="utf-8")
        note(f"wrote {json}")
    if html is not None:
        from framework.inspection.forward.page import forward_page

        html.write_text(forward_page(numbers), encoding="utf-8")
        note(f"wrote {html}")
    return 0


def _tokenizer(directory: Path, text: str) -> dict[str, Any]:
    from framework.formats import sources
    from framework.inspection.forward.facts import tokenization
    from framework.tokenizers.files import TOKENIZER
    from framework.tokenizers.pretrained import pretrained

    has_its_own = directory.name == TOKENIZER or (directory / TOKENIZER).is_file()
    return tokenization(pretrained(directory if has_its_own else sources.directory(directory)), text)


def _forward(directory: Path, text: str, top: int, questions: Questions, settings: Settings, model: ModelOptions) -> dict[str, Any]:
    from framework.inspection.forward.facts import Account
    from framework.inspection.forward.sampling import cut, write
    from framework.inspection.forward.trace import trace

    if model.dtype is None:
        model = replace(model, dtype="float32")
    if settings.max_new_tokens is None:
        settings = replace(settings, max_new_tokens=NEW_TOKENS)
    generator = model.load(directory, max_running=1)
    request, _ = generator.prepare(text, settings)
    ids = list(request.prompt_ids)
    network = generator.engine.network
    account = Account(generator, observed := trace(network, ids), top)
    if wrong := [layer for layer in questions.layers if not 0 <= layer < len(observed.layers)]:
        raise RequestError(f"layers names {wrong[0]}; there are {len(observed.layers)}, numbered from 0")
    numbers = account.forward(text, questions.layers)
    numbers["cut"] = account.cut(cut(observed.logits_TV[-1, : generator.vocab_size], request, top))
    numbers |= _experiments(account, generator, ids, questions)
    numbers["writing"] = account.written(write(generator.engine, request, 3), request)
    return numbers | {"texts": account.texts()}


def _experiments(account: Account, generator: Generator, ids: list[int], questions: Questions) -> dict[str, Any]:
    from tqdm import tqdm

    from framework.inspection.forward.experiments import ablate, every_part, parts_of, patch

    network, results, sweep = generator.engine.network, [], {}
    for name in questions.ablate:
        if name == EVERY:
            parts = every_part(network)
            flat = tqdm([part for row in parts for part in row], desc="ablate", unit="part", leave=False, delay=2.0)
            sweep = {"sweep": account.sweep(parts, (ablate(network, ids, [part]) for part in flat))}
        else:
            results.append(account.experiment(f"without {name}", ablate(network, ids, parts_of(name, network, len(ids)))))
    if questions.patch_from is not None:
        other = generator.tokenizer.encode_prompt(questions.patch_from)
        for name in questions.patch:
            logits_V = patch(network, ids, other, parts_of(name, network, len(ids)))
            results.append(account.experiment(f"{name} from {questions.patch_from!r}", logits_V))
    return {"experiments": results} | sweep
