"""Where chat templates come from: those written here, files, and model directories.

A name and a tokenizer flow in, a template that the tokenizer can spell flows out. Must not know how templates are rendered.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from framework.errors import CheckpointError, ConfigError
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.files import CONFIG, TOKENIZER
from framework.tokenizers.pretrained import pretrained

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
# Roles are plain text, so any tokenizer can spell it, and a message can imitate a turn. On a line of their own: with a space behind
# them, most tokenizers would make that space a part of the reply's first word.
SIMPLE = """\
{%- for message in messages %}
    {{- message.role | capitalize + ':\\n' + message.content }}
    {%- if message.role == 'assistant' %}
        {{- eos_token }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'Assistant:\\n' }}
{%- endif %}
"""
BUILT_IN = {"chatml": CHATML, "simple": SIMPLE}
BOS = "{{- bos_token }}\n"  # in front, of a tokenizer that puts it there
SPECIAL = re.compile(r"<\|\w+\|>")  # how special tokens are spelled, where no tokenizer says

FILE = "chat_template.jinja"
TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")  # variables of a template, named in the configuration


def find_template(name: str, tokenizer: Tokenizer) -> tuple[str, dict[str, str]]:
    """The template that is called so, and the spelling of the variables that this tokenizer gives it.

    Args:
        name: one of BUILT_IN, a .jinja file or a model directory.
        tokenizer: what is to spell it.

    Raises:
        ConfigError: there is no such template, or it has special tokens that the tokenizer lacks.
        CheckpointError: a directory's files cannot be read.
    """
    path = Path(name).expanduser()
    if name in BUILT_IN:
        source = (BOS if tokenizer.bos_id is not None else "") + BUILT_IN[name]
        special = SPECIAL.findall(source)
    elif path.is_dir():
        source = stored_template(path)[0]
        special = list(pretrained(path).special_tokens) if (path / TOKENIZER).is_file() else SPECIAL.findall(source)
    else:
        source = _read(path, name)
        special = SPECIAL.findall(source)
    if not source:
        raise ConfigError(f"{name} holds no chat template: name another directory, a .jinja file or one of {', '.join(BUILT_IN)}.")
    missing = sorted({token for token in special if token in source} - set(tokenizer.special_tokens))
    if missing:
        raise ConfigError(
            f"the chat template {name} is written with the special tokens {', '.join(missing)}, which the tokenizer lacks (it has "
            f"{', '.join(tokenizer.special_tokens)}): train it with them, add them to a model that is there (--init_from SOURCE "
            f"--adapt.new_tokens '{json.dumps(missing)}'), or take the template simple."
        )
    with tempfile.TemporaryDirectory() as folder:  # as a model saved with this tokenizer will spell them
        tokenizer.save(Path(folder))
        return source, _spellings(json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8")))


def stored_template(directory: Path) -> tuple[str, dict[str, str]]:
    """The template in a model directory, "" if there is none, and the spelling of its variables.

    Raises CheckpointError for files that cannot be read.
    """
    file, beside = directory / FILE, directory / CONFIG
    try:
        config = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
        stated = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
        if isinstance(stated, list):  # several by name
            stated = {entry["name"]: entry["template"] for entry in stated}.get("default")
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as problem:
        raise CheckpointError(f"the chat template in {directory} cannot be read: {problem}") from problem
    if stated is not None and not isinstance(stated, str):
        raise CheckpointError(f"the chat template in {beside} is no text but a {type(stated).__name__}")
    return stated or "", _spellings(config)


def _read(file: Path, name: str) -> str:
    if not file.is_file():
        raise ConfigError(f"there is no chat template {name}: known are {', '.join(BUILT_IN)}; or give a .jinja file or a model directory.")
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as problem:
        raise ConfigError(f"the chat template {name} cannot be read: {problem}.") from None


def _spellings(config: Mapping[str, object]) -> dict[str, str]:
    """Variable -> spelling; a configuration gives a token as its spelling or as an object with `content`."""
    stated = {name: config.get(name) for name in TOKENS}
    spelled = {name: token.get("content") if isinstance(token, dict) else token for name, token in stated.items()}
    return {name: token for name, token in spelled.items() if isinstance(token, str)}
