"""Where a text's tokens end: in bytes, whatever the tokenizer does to the text first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from framework.errors import TokenizerError
from framework.testing.tokenizers import encodable_texts
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.bpe import BPE
from framework.tokenizers.byte import Byte
from framework.tokenizers.character import Character
from framework.tokenizers.hugging_face import HuggingFace

SENTENCES = ["She sells sea shells by the sea shore.", "Naïve cafés, e\u0301 é 😊"] * 10


def opened(library: Library, folder: Path) -> HuggingFace:
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    return HuggingFace(folder)


def metaspace(folder: Path) -> HuggingFace:
    """As Llama 2: a space in front that the text has not, bytes for unknown characters."""
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trained = Library(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    trained.train_from_iterator(SENTENCES[:1], trainers.BpeTrainer(vocab_size=60, show_progress=False))
    learned = json.loads(trained.to_str())["model"]
    vocabulary = {token: number for number, token in enumerate(["<unk>", "</s>", *fallback, *learned["vocab"]])}
    library = Library(models.BPE(vocabulary, [tuple(pair) for pair in learned["merges"]], unk_token="<unk>", byte_fallback=True))
    library.pre_tokenizer = trained.pre_tokenizer
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    library.add_special_tokens(["<unk>", "</s>"])
    return opened(library, folder)


def lowercase_words(folder: Path) -> HuggingFace:
    """As BERT: words in lower case, spaces in no token, unknown ones."""
    library = Library(models.WordLevel({"[UNK]": 0, "</s>": 1, "she": 2, "sells": 3, "é": 4}, unk_token="[UNK]"))
    library.normalizer = normalizers.Lowercase()
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.add_special_tokens(["</s>"])
    return opened(library, folder)


@pytest.mark.parametrize("make", [Byte, lambda: BPE.train(SENTENCES, vocab_size=290)])
def test_of_bytes(make: Any) -> None:
    tokenizer: Tokenizer = make()
    for text in encodable_texts(tokenizer):
        ids = tokenizer.encode(text)
        ends = tokenizer.token_ends(text, ids)
        assert ends.shape == (len(ids),) and ends.dtype == "int64"
        starts = [0, *ends.tolist()]
        assert [text.encode()[start:end] for start, end in zip(starts, ends, strict=False)] == [tokenizer.token_bytes(i) for i in ids]


def test_of_characters(tmp_path: Path) -> None:
    tokenizer = Character().prepare(lambda: ["aé😊"], "of three", tmp_path)
    assert tokenizer.token_ends("é😊a", tokenizer.encode("é😊a")).tolist() == [2, 6, 7]


def test_a_space_in_front_that_the_text_has_not(tmp_path: Path) -> None:
    tokenizer = metaspace(tmp_path)
    text = "sea shells é😊 by"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == f" {text}"
    ends = tokenizer.token_ends(text, ids)
    in_front = [len(tokenizer.decode(ids[:count]).encode()) - 1 for count in range(1, len(ids) + 1)]
    whole = [i for i in range(len(ids)) if len(tokenizer.token_bytes(ids[i])) > 1 or tokenizer.token_bytes(ids[i]).isascii()]
    assert [ends[i] for i in whole] == [in_front[i] for i in whole]  # of a character in several tokens, each ends where it does
    assert ends[-1] == len(text.encode()) and (ends[1:] >= ends[:-1]).all()


def test_changed_text_has_the_places_of_the_text_as_given(tmp_path: Path) -> None:
    tokenizer = lowercase_words(tmp_path)
    text = "SHE  É sold sells "
    ids = tokenizer.encode(text)
    assert ids == [2, 4, 0, 3]
    assert tokenizer.token_ends(text, ids).tolist() == [3, 7, 12, 18]
    assert tokenizer.token_ends("", []).tolist() == []


def test_ids_of_another_text_are_refused(tmp_path: Path) -> None:
    for tokenizer in (Byte(), metaspace(tmp_path)):
        with pytest.raises(TokenizerError, match="do not spell it"):
            tokenizer.token_ends("sea", tokenizer.encode("see"))
