"""`framework rank`: a model's replies on a local page, where people rank them, until Ctrl-C. Stdout stays empty."""

from __future__ import annotations

import getpass
import hashlib
import importlib.util
import logging
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from framework.commands.fields import spread
from framework.commands.terminal import note
from framework.errors import CheckpointError, ConfigError, RequestError

if TYPE_CHECKING:
    from framework.commands.model_options import ModelOptions
    from framework.datasets.records import Turns
    from framework.generation import Settings
    from framework.ranking.ledger import Ledger
    from framework.ranking.session import Session

MAX_BODY_BYTES = 2**16


@spread(
    "settings",
    "framework.generation:Settings",
    without={"n", "cache_key", "logprobs", "prompt_logprobs", "num_beams", "length_penalty", "early_stopping"},
)
@spread("model", "framework.commands.model_options:ModelOptions")
def rank(
    *directory: str,
    prompts: Path | None = None,
    output: Path | None = None,
    agreement: Path | None = None,
    samples: int = 4,
    rater: str | None = None,
    lookahead: int = 3,
    host: str = "127.0.0.1",
    port: int = 0,
    settings: Settings,
    model: ModelOptions,
) -> int:
    """Let people rank a model's replies: preferences for a reward model or DPO.

    A page shows the replies to one prompt after the other; Ctrl-C ends it. The same command goes on where it stopped.

    Args:
        directory: a run, a model directory, a GGUF file, or ORG/NAME of the Hugging Face hub.
        prompts: what is replied to: JSON Lines or Parquet with "prompt", "messages", "question" or "instruction", else a text a line.
        output: the preferences, NAME.jsonl, in TRL's format; NAME.rankings.jsonl beside it keeps ties and skips too.
        agreement: tell how far the raters of such an output agree, and do nothing else.
        samples: replies to each prompt; number j to prompt i draws with the seed (0 unless given) plus i * samples + j.
        rater: the name that the page suggests for whoever ranks; the user's unless given.
        lookahead: so many prompts beyond the one on the page are replied to, so that nobody waits.
        host: address to listen on; for one that others can reach the printed address holds a token.
        port: 0 takes a free one.
    """
    if agreement is not None:
        if directory or prompts or output:
            raise ConfigError("--agreement stands alone: framework rank --agreement NAME.jsonl")
        return _tell_agreement(agreement)
    if len(directory) != 1 or prompts is None or output is None:
        raise ConfigError("framework rank needs a model, prompts and an output: framework rank DIR --prompts FILE --output NAME.jsonl")
    if not 2 <= samples <= 9:
        raise RequestError(f"samples is {samples} and must be from 2 to 9, as a person ranks with the number keys")
    if lookahead < 0:
        raise RequestError(f"lookahead is {lookahead} and must be at least 0")
    if prompts.resolve() == output.resolve():
        raise ConfigError(f"--output {output} would be mixed with the prompts: name another file")
    _require_packages()
    import dataclasses

    from framework.ranking.ledger import Ledger
    from framework.ranking.session import Session

    ledger = Ledger(output)
    turns = read_turns(prompts)
    generator = model.load(Path(directory[0]), max_running=samples)
    if generator.template is None and not all(isinstance(prompt, str) for prompt in turns):
        raise CheckpointError(f"{directory[0]} has no chat template: {prompts} can hold texts only, no messages")
    settings = dataclasses.replace(settings, n=samples, seed=0 if settings.seed is None else settings.seed)
    generator.prepare("", settings)  # what is wrong with the settings is said once, before anyone looks at a page
    rater = rater or getpass.getuser()
    session = Session(generator, fingerprint(Path(directory[0]), model.adapter), turns, settings, ledger, rater, lookahead)
    code = _serve(session, ledger, rater, host, port)
    _report(session, ledger, output)
    return code


def _tell_agreement(output: Path) -> int:
    from framework.ranking.agreement import agreement
    from framework.ranking.ledger import read_rankings

    print(agreement(read_rankings(output)))
    return 0


def read_turns(path: Path) -> list[Turns]:
    """The prompts of a file, each once; how many stand there more than once goes to stderr. Raises DataError."""
    from framework.commands.prompts_file import read_prompts
    from framework.datasets import records
    from framework.datasets.json_lines import SUFFIXES, JsonLines
    from framework.datasets.parquet import Parquet

    all_of_them: Sequence[Turns]
    if path.name.endswith((*SUFFIXES, ".parquet")):
        rows = JsonLines(str(path)) if path.name.endswith(SUFFIXES) else Parquet(str(path))
        all_of_them = [row.prompt for row in records.read(rows, records.prompt)]
    else:
        all_of_them = [row.prompt for row in read_prompts(path) if isinstance(row.prompt, str)]
    distinct = list(dict.fromkeys(all_of_them))
    if len(distinct) < len(all_of_them):
        note(f"{len(all_of_them) - len(distinct)} of {len(all_of_them)} prompts in {path} repeat another and are left out")
    return distinct


def fingerprint(directory: Path, adapter: Path | None = None) -> str:
    """SHA-256 (hex) over the weights of a run or model directory, and of an adapter: which model wrote a reply."""
    from framework.files import sha256
    from framework.formats import sources
    from framework.generation.directory import adapter_directory

    places = [sources.directory(directory), *([] if adapter is None else [adapter_directory(adapter)])]
    weights = [file for place in places for file in sorted(place.glob("*.safetensors"))]
    return hashlib.sha256("".join(map(sha256, weights)).encode()).hexdigest()


def _serve(session: Session, ledger: Ledger, rater: str, host: str, port: int) -> int:
    from framework.ranking.app import create_app
    from framework.server import serving
    from framework.server.gate import is_loopback
    from framework.server.limits import Limits

    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    token = None if is_loopback(host) else secrets.token_urlsafe(16)
    limits = Limits(max_body_bytes=MAX_BODY_BYTES, max_connections=64, shutdown_seconds=2.0)
    with serving.bind(host, port, token) as place:
        address = f"{serving.url(place)}/{f'#{token}' if token else ''}"  # what follows # is never sent, so no log has it
        note(f"ranking on {address} (Ctrl-C ends it; every ranking is on the disk at once)")
        return serving.run(create_app(session, ledger, rater, limits, token), limits, place)


def _report(session: Session, ledger: Ledger, output: Path) -> None:
    from framework.ranking.agreement import agreement as measure

    ledger.read()
    made = list(ledger.rankings.values())
    pairs = sum(len(ranking.preferences()) for ranking in made)
    skipped = sum(ranking.skipped for ranking in made)
    note(f"{session.num_ranked} rankings made now; {output} holds {pairs} pairs from {len(made)} rankings, {skipped} of them skipped")
    if problems := session.writer.problems:
        note(f"{len(problems)} prompts had no replies to rank; prompt {min(problems) + 1}: {problems[min(problems)]}")
    if len({ranking.rater for ranking in made}) > 1:
        note(str(measure(made)))


def _require_packages() -> None:
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"framework rank needs {package}: pip install 'framework[serve]'")
