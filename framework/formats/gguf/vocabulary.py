"""The tokenizer in a GGUF file: its metadata become a tokenizer.json, run by Hugging Face's library.

A layout flows in; a tokenizer, a chat template and the ids that begin and end flow out. spelled.py is the way back. Must not know
tensors.
"""

from __future__ import annotations

from typing import Any

from framework.chat import ChatTemplate
from framework.errors import CheckpointError, TokenizerError
from framework.formats.gguf.layout import Layout, shown
from framework.formats.gguf.splits import BYTE_LEVEL, SPLITS
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.hugging_face import HuggingFace
from framework.tokenizers.pieces import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, USER_DEFINED, Pieces, begins_with

KEY = "tokenizer.ggml."
ROLES = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "unknown": "unk_token"}
ENDS = ("eos", "eot", "eom")  # of a document, of a turn, of a message to a tool
KINDS = (NORMAL, SPACE, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE)


def read_tokenizer(layout: Layout) -> Tokenizer:
    """The tokenizer of a file. Raises TokenizerError for one that is damaged, or of a model or a pre-tokenizer that is not known here."""
    try:
        return _read(layout)
    except CheckpointError as problem:
        raise TokenizerError(str(problem)) from problem


def read_ids(layout: Layout) -> dict[str, Any]:
    """The ids of generation_config.json, as far as the file has them: several ends where it has one for turns too."""
    ends = sorted({layout.integer(f"{KEY}{name}_token_id") for name in ENDS if f"{KEY}{name}_token_id" in layout})
    found: dict[str, Any] = {
        field: layout.integer(f"{KEY}{name}_token_id")
        for name, field in {"bos": "bos_token_id", "padding": "pad_token_id"}.items()
        if f"{KEY}{name}_token_id" in layout
    }
    return found | ({"eos_token_id": ends[0] if len(ends) == 1 else ends} if ends else {})


def read_template(layout: Layout) -> ChatTemplate | None:
    """The chat template of a file, with the spellings of its variables; None if it has none."""
    if "tokenizer.chat_template" not in layout:
        return None
    spellings = list(layout.texts(f"{KEY}tokens"))
    return ChatTemplate(layout.text("tokenizer.chat_template"), _roles(layout, spellings))


def _read(layout: Layout) -> Tokenizer:
    spellings = [spelling or f"[EMPTY_{token_id}]" for token_id, spelling in enumerate(layout.texts(f"{KEY}tokens"))]
    if not spellings:
        layout.refuse(f"it has no {KEY}tokens, no tokenizer")
    kinds = _array(layout, "token_type", len(spellings), NORMAL)
    if unknown := sorted({kind for kind in kinds if kind not in KINDS}):
        layout.refuse(f"the metadata {KEY}token_type holds {unknown[0]}, which is no kind of token")
    model = layout.text(f"{KEY}model")
    if model == "gpt2":
        content, add_bos = _byte_level(layout, spellings, kinds)
    elif model == "llama":
        content, add_bos = _sentencepiece(layout, spellings, kinds)
    else:
        layout.refuse(f"its tokenizer is of the model {shown(model)}; known: gpt2 (byte-level BPE), llama (SentencePiece's BPE)")
    roles = _roles(layout, spellings)
    add_bos = layout.flag(f"{KEY}add_bos_token", add_bos) and "bos_token" in roles
    if add_bos:
        content["post_processor"] = begins_with(roles["bos_token"], spellings.index(roles["bos_token"]))
    return HuggingFace.of(content, {**roles, "add_bos_token": add_bos}, str(layout.path))


def _array(layout: Layout, name: str, length: int, default: float) -> list[Any]:
    """A number for each token."""
    found = layout.numbers(f"{KEY}{name}")
    if found is None:
        return [default] * length
    if len(found) != length:
        layout.refuse(f"the metadata {KEY}{name} has {len(found)} numbers, {KEY}tokens {length}")
    return found.tolist()


def _roles(layout: Layout, spellings: list[str]) -> dict[str, str]:
    """Role -> spelling."""
    found: dict[str, str] = {}
    for name, role in ROLES.items():
        key = f"{KEY}{name}_token_id"
        if key in layout:
            token_id = layout.integer(key)
            if not 0 <= token_id < len(spellings):
                layout.refuse(f"the metadata {key} is {token_id}, outside the {len(spellings)} tokens")
            found[role] = spellings[token_id]
    return found


def _byte_level(layout: Layout, spellings: list[str], kinds: list[int]) -> tuple[dict[str, Any], bool]:
    """The content of tokenizer.json, and whether BOS comes in front where the file does not say."""
    name = layout.text(f"{KEY}pre", "default")
    if name not in SPLITS:
        layout.refuse(f"its pre-tokenizer is {shown(name)}; known: {', '.join(SPLITS)}")
    split = SPLITS[name]
    vocab = {spelling: token_id for token_id, spelling in enumerate(spellings) if kinds[token_id] != UNUSED}
    if len(vocab) < len(spellings) - kinds.count(UNUSED):
        layout.refuse(f"the metadata {KEY}tokens has tokens twice")
    added = [token_id for token_id, kind in enumerate(kinds) if kind in (UNKNOWN, CONTROL, USER_DEFINED)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": spellings[i], **flags, "special": kinds[i] != USER_DEFINED} for i in added],
        "normalizer": None,
        "pre_tokenizer": split.to_json(),
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": split.ignore_merges,
            "vocab": vocab,
            "merges": _merges(layout, vocab),
        },
    }, split.add_bos


def _merges(layout: Layout, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """The pairs that merge, in order; an empty one is what a file has that has none."""
    merges = []
    for merge in layout.texts(f"{KEY}merges"):
        cut = merge.find(" ", 1)
        left, right = merge[:cut], merge[cut + 1 :]
        if merge and (cut < 0 or not {left, right, left + right} <= vocab.keys()):
            layout.refuse(f"the metadata {KEY}merges has {shown(merge)}, which are no two tokens that make one")
        merges += [(left, right)] if merge else []
    return merges


def _sentencepiece(layout: Layout, spellings: list[str], kinds: list[int]) -> tuple[dict[str, Any], bool]:
    scores = _array(layout, "scores", len(spellings), 0.0)
    if any(score != score for score in scores):
        layout.refuse(f"the metadata {KEY}scores has one that is no number")
    prefix = layout.flag(f"{KEY}add_space_prefix", True)
    if layout.flag(f"{KEY}remove_extra_whitespaces", False):
        layout.refuse(f"the metadata {KEY}remove_extra_whitespaces is set, which llama.cpp does not do for this kind of tokenizer")
    marked = [  # defined ones are spelled as in a text, others with marks for spaces
        spelling.replace(" ", SPACE) if kind == USER_DEFINED else spelling for spelling, kind in zip(spellings, kinds, strict=True)
    ]
    return Pieces(marked, scores, kinds, "bpe", prefix).to_json(), True
