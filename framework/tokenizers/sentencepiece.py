"""SentencePiece models (.model), turned into a tokenizer.json with the same ids.

A file flows in; its tokenizer flows out, run by Hugging Face's library. Needs the package sentencepiece, once, to read the file and to
prove the ids equal; the tokenizer that is saved does without. Must not know chats or networks.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from framework.errors import TokenizerError
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.hugging_face import HuggingFace
from framework.tokenizers.pieces import UNUSED, Pieces, begins_with

UNIGRAM, BPE = 1, 2
PROBE = (
    "It's 12345 o'clock,\n  HTTPServer said:\r\n\r\n\tnaïve 日本語 #1!  \n end  \n\n" + " " * 33 + "x = {'a': [1.5, None]}  # 😊👩‍👩‍👧 ①ﬁ\n"
    "\tdef f(self) -> dict[str, int]:\n\t\treturn self._f  \n Ελληνικά, עברית, हिन्दी, e\u0301 \u00a0 ▁ <0x0A> \n"
    + "\n".join(" " * count + "x" for count in range(70))  # Unigram: sums that are equal but for rounding, 32 bits there and 64 here
)


def sentencepiece(path: Path, add_bos_token: bool = True, eos_token: str | None = None) -> Tokenizer:
    """The tokenizer of a SentencePiece model: its ids on any text, its control symbols special.

    Args:
        path: the .model file: BPE or Unigram, with or without byte fallback.
        add_bos_token: whether a prompt begins with the model's BOS where it has one, as Llama's does; the file does not say.
        eos_token: spelling of the symbol that ends a document, where the model names none or another is wanted.

    Raises:
        TokenizerError: the file is damaged, or the model does something that a tokenizer.json cannot.
    """
    path = Path(path)
    model = _read(path)
    pieces = _pieces(model, path)
    spec = model.trainer_spec
    roles = {"bos_token": spec.bos_id, "eos_token": spec.eos_id, "pad_token": spec.pad_id, "unk_token": spec.unk_id}
    names: dict[str, Any] = {role: pieces.spellings[token_id] for role, token_id in roles.items() if 0 <= token_id < len(pieces.spellings)}
    if eos_token is not None:
        names["eos_token"] = eos_token
    content = pieces.to_json()
    bos = names.get("bos_token") if add_bos_token else None
    content["post_processor"] = begins_with(bos, pieces.spellings.index(bos)) if bos else None
    tokenizer = HuggingFace.of(content, {**names, "add_bos_token": bos is not None}, str(path))
    _prove(tokenizer, path, model)
    return tokenizer


def _read(path: Path) -> Any:
    try:
        protobuf: Any = import_module("sentencepiece.sentencepiece_model_pb2")
    except ImportError as problem:
        raise TokenizerError(f"{path} needs the package sentencepiece ({problem}): pip install 'framework[sentencepiece]'.") from None
    try:
        model = protobuf.ModelProto.FromString(path.read_bytes())
    except OSError as problem:
        raise TokenizerError(f"{path} cannot be read: {problem.strerror}.") from problem
    except Exception as problem:  # protobuf's own, of whichever implementation
        raise TokenizerError(f"{path} is no SentencePiece model, or a damaged one: {problem}.") from problem
    if not model.pieces:
        raise TokenizerError(f"{path} is no SentencePiece model: it has no pieces.")
    return model


def _pieces(model: Any, path: Path) -> Pieces:
    """The model as pieces. Raises TokenizerError for what they do not say."""
    trained, normalizer = model.trainer_spec, model.normalizer_spec
    refused = {
        "model_type WORD or CHAR": trained.model_type not in (UNIGRAM, BPE),
        "treat_whitespace_as_suffix": trained.treat_whitespace_as_suffix,
        "escape_whitespaces off": not normalizer.escape_whitespaces,
        "pieces out of use": any(piece.type == UNUSED for piece in model.pieces),
    }
    if found := [name for name, met in refused.items() if met]:
        raise TokenizerError(f"{path} is a SentencePiece model with {', '.join(found)}, which a tokenizer.json cannot express.")
    try:
        return Pieces(
            [piece.piece for piece in model.pieces],
            [piece.score for piece in model.pieces],
            [piece.type for piece in model.pieces],
            "unigram" if trained.model_type == UNIGRAM else "bpe",
            normalizer.add_dummy_prefix,
            normalizer.remove_extra_whitespaces,
            normalizer.precompiled_charsmap,
        )
    except TokenizerError as problem:
        raise TokenizerError(f"{path}: {problem}") from problem


def _prove(tokenizer: HuggingFace, path: Path, model: Any) -> None:
    """Raises TokenizerError where the original encodes PROBE otherwise."""
    from sentencepiece import SentencePieceProcessor

    original = SentencePieceProcessor(model_proto=model.SerializeToString())
    for line in (PROBE, *PROBE.splitlines()):
        if tokenizer.encode(line) != original.encode(line):
            raise TokenizerError(f"{path}: the tokenizer.json made of it encodes {line[:40]!r} otherwise than SentencePiece does.")
