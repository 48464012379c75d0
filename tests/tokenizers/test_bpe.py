"""BPE: trained, cached, saved; equal to tiktoken with the same ranks and to transformers on the saved directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from framework.errors import TokenizerError
from framework.testing.tokenizers import CHECKS, TEXTS, random_texts
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.bpe import BPE
from framework.tokenizers.patterns import GPT4


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Callable[[Tokenizer], None], bpe: BPE) -> None:
    check(bpe)


def test_ids_are_tiktokens_with_the_same_ranks(bpe: BPE, texts: list[str]) -> None:
    oracle = tiktoken.Encoding("oracle", pat_str=GPT4, mergeable_ranks=dict(bpe.vocabulary.ranks), special_tokens=dict(bpe.special_tokens))
    samples = [*TEXTS, *texts, *random_texts(500)]
    assert [ids.tolist() for ids in bpe.encode_batch(samples)] == oracle.encode_ordinary_batch(samples)


def test_special_ids_come_last_in_order(bpe: BPE) -> None:
    assert bpe.special_tokens == {"<|endoftext|>": 796, "<|im_start|>": 797, "<|im_end|>": 798, "<|pad|>": 799}
    assert (bpe.vocab_size, bpe.eos_id, bpe.pad_id, bpe.bos_id) == (800, 796, 799, None)
    assert bpe.token_bytes(0x41) == b"A"


def test_without_pad_token_the_end_token_pads() -> None:
    tokenizer = BPE.train(["ab ab ab"], vocab_size=258, special_tokens=("<|endoftext|>",))
    assert tokenizer.pad_id == tokenizer.eos_id == 257


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "mistral"])
def test_the_networks_config_does_not_change_the_ids(model_type: str, bpe: BPE, texts: list[str], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    bpe.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*texts[:2], *random_texts(100)]:
        assert theirs.encode(text) == bpe.encode(text)
        assert theirs.decode(bpe.encode(text)) == text
    assert (theirs.eos_token_id, theirs.pad_token_id, theirs.bos_token_id) == (bpe.eos_id, bpe.pad_id, None)
    assert theirs.encode("<|endoftext|>") == [bpe.eos_id]  # rendered chats need it; plain text takes split_special_tokens


def test_what_transformers_saves_again_still_opens(bpe: BPE, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    bpe.save(tmp_path / "ours")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    assert BPE(path=tmp_path / "theirs").fingerprint == bpe.fingerprint


def test_prepare_trains_once_per_key(texts: list[str], tmp_path: Path) -> None:
    calls = []

    def documents() -> list[str]:
        calls.append(1)
        return texts[:2]

    first = BPE(vocab_size=300).prepare(documents, "corpus", tmp_path)
    again = BPE(vocab_size=300).prepare(documents, "corpus", tmp_path)
    assert len(calls) == 1
    assert first.fingerprint == again.fingerprint == BPE.train(texts[:2], 300).fingerprint
    assert again.prepare(documents, "other", tmp_path) is again
    others = [
        BPE(vocab_size=301).prepare(documents, "corpus", tmp_path),
        BPE(vocab_size=300).prepare(documents, "another corpus", tmp_path),
        BPE(vocab_size=300, pattern="gpt2").prepare(documents, "corpus", tmp_path),
        BPE(vocab_size=300, special_tokens=("<|endoftext|>",)).prepare(documents, "corpus", tmp_path),
        BPE(vocab_size=300, trainer="tokenizers").prepare(documents, "corpus", tmp_path),
    ]
    assert len(calls) == 1 + len(others)
    assert len(list(tmp_path.iterdir())) == 1 + len(others)  # and no temporary file is left


def test_failed_training_leaves_no_file(tmp_path: Path) -> None:
    def documents() -> Any:
        yield "some text"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        BPE(vocab_size=300).prepare(documents, "corpus", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damaged_cache_names_the_file(tmp_path: Path, texts: list[str]) -> None:
    BPE(vocab_size=300).prepare(lambda: texts[:1], "corpus", tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text(encoding="utf-8")[:1000], encoding="utf-8")
    with pytest.raises(TokenizerError, match=f"{file.name} cannot be read as JSON"):
        BPE(vocab_size=300).prepare(lambda: texts[:1], "corpus", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either vocab_size"),
        ({"vocab_size": 300, "path": Path("x")}, "either vocab_size"),
        ({"path": Path("x"), "pattern": "gpt2"}, "give BPE its path alone"),
        ({"path": Path("nowhere")}, "there is no tokenizer at nowhere"),
        ({"vocab_size": 300, "special_tokens": ("<|end|>",)}, r"must contain <\|endoftext\|>"),
        ({"vocab_size": 300, "special_tokens": ("<|endoftext|>", "<|endoftext|>")}, "must be different"),
    ],
)
def test_refuses_contradictions(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        BPE(**arguments)


@pytest.mark.parametrize("pattern", [r"\p{N}{1,3}+|\P{N}+", r"\s+$|\s|\S+", r"\w+"])
def test_refuses_patterns_that_would_be_read_differently_elsewhere(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="splits text differently"):
        BPE(vocab_size=300, pattern=pattern).prepare(lambda: ["text"], "corpus", tmp_path)
    with pytest.raises(TokenizerError, match="splits text differently"):
        BPE.train(["text"], 300, pattern)


def test_takes_patterns_of_ones_own(texts: list[str], tmp_path: Path) -> None:
    tokenizer = BPE.train(texts[:1], 300, r"\p{N}|[^\s\p{N}]+|\s+")
    tokenizer.save(tmp_path)
    assert BPE(path=tmp_path).vocabulary == tokenizer.vocabulary
    with pytest.raises(TokenizerError, match="no regular expression for both"):
        BPE.train(texts[:1], 300, "(a")


def test_untrained_says_so() -> None:
    with pytest.raises(TokenizerError, match="not trained yet"):
        BPE(vocab_size=300).encode("a")
