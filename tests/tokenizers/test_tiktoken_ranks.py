"""Files of ranks, against tiktoken itself."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import tiktoken

from framework.errors import TokenizerError
from framework.testing.tokenizers import random_texts
from framework.tokenizers.bpe import BPE
from framework.tokenizers.pretrained import pretrained
from framework.tokenizers.tiktoken import tiktoken_ranks

SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")


@pytest.fixture
def ranks(bpe: BPE, tmp_path: Path) -> Path:
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in bpe.vocabulary.ranks.items())
    (tmp_path / "tokenizer.model").write_text("".join(lines), encoding="ascii")
    return tmp_path / "tokenizer.model"


def test_the_ids_are_tiktoken_s(ranks: Path, bpe: BPE, texts: list[str], tmp_path: Path) -> None:
    """100 kB of code and random Unicode; also as opened from what is saved."""
    from tiktoken.load import load_tiktoken_bpe

    first = len(bpe.vocabulary.ranks)
    special = {token: first + index for index, token in enumerate(SPECIAL)}
    original = tiktoken.Encoding(
        "test", pat_str=bpe.vocabulary.pattern, mergeable_ranks=load_tiktoken_bpe(str(ranks)), special_tokens=special
    )
    tokenizer = tiktoken_ranks(ranks, SPECIAL, eos_token="<|end_of_text|>", bos_token="<|begin_of_text|>")
    assert dict(tokenizer.special_tokens) == special
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (first, first + 1, first + 3)
    tokenizer.save(tmp_path / "saved")
    opened = pretrained(tmp_path / "saved")
    assert opened.bos_id == first
    for text in ["".join(texts)[:100_000], *random_texts(300), *SPECIAL]:
        ids = original.encode(text, disallowed_special=())
        assert tokenizer.encode(text) == opened.encode(text) == ids
        assert tokenizer.decode(ids) == original.decode(ids) == text


@pytest.mark.parametrize("content", ["", "YQ== x\n", "YQ==\n", "?? 0\n", "YQ== 0\nYQ== 1\n", "YQ== -1\n"])
def test_what_is_no_such_file(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.tiktoken").write_text(content, encoding="ascii")
    with pytest.raises(TokenizerError, match="is no file of tiktoken's ranks"):
        tiktoken_ranks(tmp_path / "x.tiktoken", SPECIAL)


def test_mistakes(ranks: Path, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="cannot be read: No such file"):
        tiktoken_ranks(tmp_path / "none", SPECIAL)
    with pytest.raises(TokenizerError, match=r"'</s>' is none of the special tokens <\|begin_of_text\|>, "):
        tiktoken_ranks(ranks, SPECIAL, eos_token="</s>")
    ranks.write_text("\n".join(ranks.read_text().splitlines()[1:]), encoding="ascii")
    with pytest.raises(TokenizerError, match="lacks some of the 256 single bytes"):
        tiktoken_ranks(ranks, SPECIAL)
