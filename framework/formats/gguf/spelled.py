"""A tokenizer as GGUF's metadata, so that llama.cpp gives the same ids; the way back of vocabulary.py.

A tokenizer flows in, by the tokenizer.json that it saves; metadata flow out, or a TokenizerError that names what GGUF cannot express.
Must not know tensors.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import tokenizers

from framework.chat import ChatTemplate
from framework.errors import CheckpointError, TokenizerError
from framework.formats.gguf.splits import SPLITS
from framework.formats.gguf.vocabulary import KEY, ROLES
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.files import CONFIG, TOKENIZER
from framework.tokenizers.pieces import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, USER_DEFINED, Pieces

PROBE = (
    "It's 12345 o'clock, HE'LL go!!\n  HTTPServer said:\r\n\r\n\tnaïve 日本語 #1!  \n end\n\n x²½ a/b//\n\tÀÉ éÉn Ünï // $5+5=10 <b>^|~ `q`"
    " one\u00a0two\u2003three  \t\n\n\n  four…five—six ١٢٣٤ Ⅷ ʰa e\u0301x '''don't''' isN'T [PAD] @user\n/path\n"
)


def write_tokenizer(tokenizer: Tokenizer, num_rows: int, template: ChatTemplate | None) -> dict[str, Any]:
    """The metadata of a tokenizer: simple values and lists.

    Args:
        tokenizer: the model's.
        num_rows: of its embedding; ids beyond the tokenizer's are filled up.
        template: says what ends a turn.

    Raises:
        TokenizerError: GGUF cannot express it.
        CheckpointError: it has more ids than the embedding has rows.
    """
    if tokenizer.vocab_size > num_rows:
        raise CheckpointError(f"the tokenizer has {tokenizer.vocab_size} ids and the embedding {num_rows} rows: not one model")
    content, config = _saved(tokenizer)
    if content["model"]["type"] != "BPE":
        raise TokenizerError(
            f"GGUF cannot express a {content['model']['type']} tokenizer here: its kinds are byte-level BPE and SentencePiece's BPE."
        )
    write = _sentencepiece if content["model"].get("byte_fallback") else _byte_level
    metadata: dict[str, Any] = write(content, num_rows)
    for name, role in ROLES.items():
        token = config.get(role)
        token_id = tokenizer.special_tokens.get(token["content"] if isinstance(token, dict) else token or "")
        if token_id is not None:
            metadata[f"{name}_token_id"] = token_id
    metadata["eos_token_id"] = tokenizer.eos_id
    metadata["add_bos_token"] = tokenizer.bos_id is not None
    ends = set() if template is None else template.end_ids(tokenizer) - {tokenizer.eos_id}
    if ends:
        metadata["eot_token_id"] = min(ends)
    return {KEY + key: value for key, value in metadata.items()}


def _saved(tokenizer: Tokenizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the tokenizer saves."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        content, config = (json.loads((Path(folder) / name).read_text(encoding="utf-8")) for name in (TOKENIZER, CONFIG))
    return content, config


def _tokens(content: dict[str, Any], num_rows: int) -> tuple[list[str], list[int]]:
    """Spelling and kind by id, rows without a token filled up."""
    spellings, kinds = [f"[PAD{token_id}]" for token_id in range(num_rows)], [UNUSED] * num_rows
    opened = tokenizers.Tokenizer.from_str(json.dumps(content))
    for spelling, token_id in opened.get_vocab(with_added_tokens=True).items():
        spellings[token_id], kinds[token_id] = spelling, NORMAL
    for token_id, token in opened.get_added_tokens_decoder().items():
        kinds[token_id] = CONTROL if token.special else USER_DEFINED
    return spellings, kinds


def _merges(content: dict[str, Any]) -> list[tuple[str, str]]:
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in content["model"]["merges"])
    return [(left, right) for left, right in pairs]


def _byte_level(content: dict[str, Any], num_rows: int) -> dict[str, Any]:
    spellings, kinds = _tokens(content, num_rows)
    return {
        "model": "gpt2",
        "pre": _split_name(content),
        "tokens": spellings,
        "token_type": kinds,
        "merges": [" ".join(pair) for pair in _merges(content)] or [""],  # there must be some
    }


def _split_name(content: dict[str, Any]) -> str:
    """The pre-tokenizer of GGUF's that splits as this one does. Raises TokenizerError where there is none."""
    before, model = content.get("pre_tokenizer") or {}, content["model"]
    if content.get("normalizer") is not None:
        raise TokenizerError(f"GGUF cannot express this tokenizer: it changes texts first, by {content['normalizer']['type']}.")
    if "ByteLevel" not in json.dumps(before):
        raise TokenizerError(
            "GGUF cannot express this tokenizer: its tokens are neither bytes nor SentencePiece's; train BPE, or take Byte."
        )
    if not model["merges"]:
        return next(iter(SPLITS))  # single bytes, however they are split
    pieces = _pieces(before)
    flags = {model.get("ignore_merges", False)} | ({True, False} if _merges_suffice(model) else set())
    for name, split in SPLITS.items():
        if split.ignore_merges in flags and _pieces(split.to_json()) == pieces:
            return name
    raise TokenizerError("GGUF has no name for how this tokenizer splits text into pieces; llama.cpp would give other ids.")


def _pieces(pre_tokenizer: dict[str, Any]) -> list[tuple[str, tuple[int, int]]]:
    """The pieces of PROBE."""
    empty = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}, "pre_tokenizer": pre_tokenizer}
    opened = tokenizers.Tokenizer.from_str(json.dumps(empty))
    return opened.pre_tokenizer.pre_tokenize_str(PROBE)


def _merges_suffice(model: dict[str, Any]) -> bool:
    """Whether every token is what merging its bytes gives, so that it does not matter if a piece is looked up first."""
    merging = tokenizers.Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": {**model, "ignore_merges": False}}))
    made = {left + right for left, right in _merges({"model": model})}
    return all(len(encoding.ids) == 1 for encoding in merging.encode_batch_fast(sorted(made)))


def _sentencepiece(content: dict[str, Any], num_rows: int) -> dict[str, Any]:
    spellings, kinds = _tokens(content, num_rows)
    model = content["model"]
    if model.get("unk_token"):
        kinds[model["vocab"][model["unk_token"]]] = UNKNOWN
    merges = _merges(content)
    made = [token for token, _ in groupby("".join(pair) for pair in merges)]
    order = {token: -rank for rank, token in enumerate(made)}
    for token_id, spelling in enumerate(spellings):
        if kinds[token_id] == NORMAL and len(spelling) == 6 and spelling.startswith("<0x") and spelling.endswith(">"):
            kinds[token_id] = BYTE
        elif kinds[token_id] == NORMAL and len(spelling) > 1 and spelling not in order:
            kinds[token_id] = USER_DEFINED  # no merge makes it: it is found before anything merges
    scores = [float(order.get(spelling, 0)) for spelling in spellings]
    prefix = _adds_prefix(content)
    same = Pieces(spellings, scores, kinds, "bpe", prefix)
    if len(order) != len(made) or set(same.merges()) != set(merges):
        raise TokenizerError("GGUF cannot express this tokenizer: its merges are not in the order of one score for each token.")
    return {
        "model": "llama",
        "pre": "default",
        "tokens": [
            spelling.replace(SPACE, " ") if kind == USER_DEFINED else spelling for spelling, kind in zip(spellings, kinds, strict=True)
        ],  # llama.cpp finds these in a text before it marks the spaces
        "scores": scores,
        "token_type": kinds,
        "add_space_prefix": prefix,
    }


def _adds_prefix(content: dict[str, Any]) -> bool:
    """Whether a text begins with a space of its own. Raises TokenizerError for other changes of a text than SentencePiece's."""
    normalizer, before = content.get("normalizer"), content.get("pre_tokenizer")
    steps: Sequence[dict[str, Any]] = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    kinds = [step["type"] for step in steps]
    replaces = steps and steps[-1] == {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if replaces and kinds in (["Replace"], ["Prepend", "Replace"]) and (before is None or before["type"] == "Split"):
        return len(kinds) == 2
    if not steps and before is not None and before["type"] == "Metaspace" and not before.get("split", True):
        if before["prepend_scheme"] != "never":
            warnings.warn(
                "llama.cpp puts a space in front of every text, this tokenizer only of one that does not begin with a space.", stacklevel=6
            )
        return before["prepend_scheme"] != "never"
    raise TokenizerError(f"GGUF cannot express this tokenizer: it changes texts first, by {', '.join(kinds) or 'its pre-tokenizer'}.")
