"""decode(encode(x)) == x, and text never becomes a special id: for every text, in every built-in that takes every text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.testing.tokenizers import random_texts
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.bpe import BPE
from framework.tokenizers.byte import Byte
from framework.tokenizers.hugging_face import HuggingFace

TEXT = Path(__file__).read_text(encoding="utf-8")
BYTE_PAIRS = {pattern: BPE.train([TEXT], 300, pattern) for pattern in ("gpt2", "gpt4", "gpt4o")}
TOKENIZERS: dict[str, Tokenizer] = {"byte": Byte(), **BYTE_PAIRS}

every_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
# whole special tokens among ordinary characters: what a user who wants to break out would type
hostile = st.lists(st.one_of(st.text(max_size=5), st.sampled_from(list(Byte().special_tokens)))).map("".join)


@every_tokenizer
def test_round_trip_on_ten_thousand_texts(tokenizer: Tokenizer) -> None:
    texts = list(random_texts(10_000, seed=2))
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert tokenizer.decode(ids.tolist()) == text


@every_tokenizer
@given(text=hostile)
@settings(deadline=None)
def test_round_trip_without_special_ids(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.special_tokens.values())


@given(text=hostile)
@settings(deadline=None)
def test_tiktoken_and_the_tokenizers_library_agree(text: str, theirs: HuggingFace) -> None:
    assert theirs.encode(text) == BYTE_PAIRS["gpt4"].encode(text)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> HuggingFace:
    folder = tmp_path_factory.mktemp("saved")
    BYTE_PAIRS["gpt4"].save(folder)
    return HuggingFace(folder)
