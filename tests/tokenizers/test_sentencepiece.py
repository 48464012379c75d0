"""SentencePiece models, trained here, against the library itself and as transformers opens what is saved."""

from __future__ import annotations

import io
import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framework.errors import TokenizerError
from framework.testing.tokenizers import CHECKS, TEXTS, random_texts
from framework.tokenizers.hugging_face import HuggingFace
from framework.tokenizers.pieces import Pieces
from framework.tokenizers.pretrained import pretrained
from framework.tokenizers.sentencepiece import sentencepiece

library = pytest.importorskip("sentencepiece")
DEFINED = ["<tool>", "▁▁", "▁▁▁▁", "<tool>s"]  # the longest that fits is found
KINDS = {  # as Llama and Gemma train, as T5 does, and what lies between
    "llama": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "gemma": {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "user_defined_symbols": DEFINED,
    },
    "defined": {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "user_defined_symbols": DEFINED,
    },
    "no bytes": {"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "t5": {"model_type": "unigram"},
    "unigram": {"model_type": "unigram", "byte_fallback": True, "normalization_rule_name": "identity", "user_defined_symbols": ["<tool>"]},
    "nfkc": {"model_type": "bpe", "byte_fallback": True},
}
SPELLED = ["</s>", "a</s>b<s> <unk>x<0x0A>", "<tool>", " <tool> <tool>x", "        <tool>", "<tool>s<tool>", "<tool></s>", "▁ ▁▁x"]


def train(texts: list[str], folder: Path, **arguments: Any) -> Path:
    model = io.BytesIO()
    lines = (line for text in texts for line in text.splitlines() if line.strip())
    library.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=model,
        vocab_size=700,
        minloglevel=2,
        num_threads=1,
        hard_vocab_limit=False,
        allow_whitespace_only_pieces=True,
        **arguments,
    )
    (folder / "trained.model").write_bytes(model.getvalue())
    return folder / "trained.model"


def mixed(texts: list[str]) -> list[str]:
    """100 kB of code, Unicode, runs of whitespace and emoji in one text, and many small ones."""
    draw = random.Random(0)
    runs = "".join(draw.choice([" ", "  ", "\t", "\n", "a", "   ", "b", " x", "é"]) for _ in range(20_000))
    whole = "".join(texts)[:70_000] + "日本語😊👩‍👩‍👧 naïve café ﬁ ① ２\n" * 300 + runs
    assert len(whole.encode()) > 100_000
    return [whole, *texts[1].splitlines()[:1000], *TEXTS, *SPELLED]


def better_than(original: Any, ids: list[int], others: list[int]) -> list[int]:
    """The others, which must be likelier by less than the library can tell: it adds up a whole text's scores in single precision."""
    total, other = (sum(map(original.get_score, each)) for each in (ids, others))
    assert 0.0 < other - total < np.spacing(np.float32(abs(total))) and original.decode(ids) == original.decode(others)
    return others


@pytest.mark.parametrize("kind", KINDS)
def test_the_ids_are_the_library_s(kind: str, texts: list[str], tmp_path: Path) -> None:
    path = train(texts[:3], tmp_path, **KINDS[kind])
    original = library.SentencePieceProcessor(model_file=str(path))
    tokenizer = sentencepiece(path)
    tokenizer.save(tmp_path / "saved")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    opened = pretrained(tmp_path / "saved")
    assert opened.fingerprint == tokenizer.fingerprint
    for text in mixed(texts):
        ids = original.encode(text)
        if kind == "unigram" and tokenizer.encode(text) != ids:
            ids = better_than(original, ids, tokenizer.encode(text))
        assert tokenizer.encode(text) == opened.encode(text) == ids, repr(text[:60])
        assert theirs.encode(text, add_special_tokens=False, split_special_tokens=True) == ids, repr(text[:60])
        if original.unk_id() not in ids and "▁" not in text:  # ⁇ of the first, and spaces of the second that are dropped like others
            decoded = original.decode(ids)
            assert theirs.decode(ids) == decoded
            prefix = KINDS[kind].get("add_dummy_prefix", True) and bool(ids)  # ours is read as in the middle of a text
            assert tokenizer.decode(ids) == (" " if prefix else "") + decoded


@pytest.mark.parametrize("kind", ["llama", "gemma", "t5"])
def test_random_unicode(kind: str, texts: list[str], tmp_path: Path) -> None:
    path = train(texts[:1], tmp_path, **KINDS[kind])
    original, tokenizer = library.SentencePieceProcessor(model_file=str(path)), sentencepiece(path)
    for text in random_texts(500, seed=3):
        assert tokenizer.encode(text) == original.encode(text)


def test_ids_around_a_text(texts: list[str], tmp_path: Path) -> None:
    path = train(texts[:1], tmp_path, **KINDS["llama"])
    tokenizer = sentencepiece(path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (1, 2, 700)
    assert tokenizer.encode_prompt("a") == [1, *tokenizer.encode("a")]
    assert sentencepiece(path, add_bos_token=False).encode_prompt("a") == tokenizer.encode("a")
    assert dict(tokenizer.special_tokens) == {"<unk>": 0, "<s>": 1, "</s>": 2}
    assert tokenizer.token_bytes(3 + 0xF0) == b"\xf0"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Any, texts: list[str], tmp_path: Path) -> None:
    """One that puts nothing in front and keeps every space loses nothing."""
    check(sentencepiece(train(texts[:1], tmp_path, **KINDS["gemma"])))


def edited(path: Path, change: Any) -> Path:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())  # type: ignore[attr-defined]
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_what_cannot_be_opened(texts: list[str], tmp_path: Path) -> None:
    def unused(model: Any) -> None:
        model.pieces[300].type = 5

    def twice(model: Any) -> None:
        model.pieces[300].piece = model.pieces[301].piece

    with pytest.raises(TokenizerError, match="cannot be read: No such file"):
        sentencepiece(tmp_path / "none.model")
    (tmp_path / "noise.model").write_bytes(random.Random(0).randbytes(1000))
    with pytest.raises(TokenizerError, match=r"noise\.model is no SentencePiece model"):
        sentencepiece(tmp_path / "noise.model")
    with pytest.raises(TokenizerError, match=r"treat_whitespace_as_suffix, which a tokenizer\.json cannot express"):
        sentencepiece(train(texts[:1], tmp_path, treat_whitespace_as_suffix=True))
    with pytest.raises(TokenizerError, match="model_type WORD or CHAR"):
        sentencepiece(train(texts[:1], tmp_path, model_type="char"))
    with pytest.raises(TokenizerError, match="pieces out of use"):
        sentencepiece(edited(train(texts[:1], tmp_path, **KINDS["llama"]), unused))
    with pytest.raises(TokenizerError, match="1 of its 700 pieces are there twice"):
        sentencepiece(edited(train(texts[:1], tmp_path, **KINDS["llama"]), twice))


def test_a_model_that_hugging_face_s_library_runs_otherwise(texts: list[str], tmp_path: Path) -> None:
    """Its normalizer reads a carriage return and a line feed as one, SentencePiece's as two: found by the probe, not by the user."""
    with pytest.raises(TokenizerError, match="otherwise than SentencePiece does"):
        sentencepiece(train(texts[:1], tmp_path, model_type="bpe", byte_fallback=True, remove_extra_whitespaces=False))


def test_merges_come_in_the_order_of_scores() -> None:
    """By hand: 'abc' is made of either pair; the one with the longer left part first, as reading from the left finds it."""
    pieces = Pieces(["a", "b", "c", "ab", "bc", "abc"], [0, 0, 0, -2.0, -1.0, -3.0], [1] * 6, "bpe", False)
    assert pieces.merges() == [("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc")]


@pytest.mark.parametrize("kept", itertools.product([False, True], repeat=2), ids=str)
def test_no_special_token_comes_from_text(kept: tuple[bool, bool], texts: list[str], tmp_path: Path) -> None:
    """The reason for the splits: without them Unigram finds </s> in text, and <0x0A>."""
    splits, unigram = kept
    model = sentencepiece(train(texts[:1], tmp_path, **KINDS["t5" if unigram else "gemma"]))
    assert isinstance(model, HuggingFace)
    content = model._content if splits else {**model._content, "pre_tokenizer": None}
    config = {"eos_token": "</s>"}
    if splits:
        assert 2 not in HuggingFace.of(content, config, "test").encode("</s>")
    else:
        with pytest.raises(TokenizerError, match="would become the special id"):
            HuggingFace.of(content, config, "test")
