"""New special tokens: the ids before them stay, text still yields none of them, and transformers opens what is saved with the same ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

from framework.chat import ChatTemplate
from framework.datasets.base import Message
from framework.errors import TokenizerError
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.bpe import BPE
from framework.tokenizers.byte import Byte
from framework.tokenizers.character import Character
from framework.tokenizers.hugging_face import HuggingFace
from framework.tokenizers.pretrained import pretrained

NEW = ("<|im_start|>", "<|im_end|>", "<|tool|>")
TEXT = "The cat sat on <|tool|> the mat. naïve 日本 <|im_start|>user\n"


def hugging_face(folder: Path, model: Any, trainer: Any, config: dict[str, Any]) -> HuggingFace:
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.train_from_iterator([TEXT] * 3, trainer)
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", **config}))
    return HuggingFace(folder)


def byte_level(folder: Path, **config: Any) -> HuggingFace:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False)
    return hugging_face(folder, models.BPE(), trainer, config)


def unigram(folder: Path) -> HuggingFace:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["</s>", "<unk>"], unk_token="<unk>", initial_alphabet=alphabet, show_progress=False
    )
    return hugging_face(folder, models.Unigram(), trainer, {"unk_token": "<unk>"})


ADDED = {"256": {"content": "</s>", "special": True}}
MAKE: dict[str, Callable[[Path, BPE], Tokenizer]] = {
    "BPE": lambda folder, bpe: BPE.train([TEXT] * 3, 270, special_tokens=("<|endoftext|>",)),
    "Byte": lambda folder, bpe: Byte(("<|endoftext|>",)),
    "Character": lambda folder, bpe: Character().prepare(lambda: [TEXT], "text", folder.parent),
    "HuggingFace": lambda folder, bpe: byte_level(folder),
    "HuggingFace with lists of special tokens": lambda folder, bpe: byte_level(folder, extra_special_tokens=["</s>"]),
    "HuggingFace with added tokens": lambda folder, bpe: byte_level(
        folder, added_tokens_decoder={"0": {"content": "</s>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}}
    ),
    "Unigram": lambda folder, bpe: unigram(folder),
}  # fmt: skip


@pytest.fixture(params=MAKE)
def before(request: pytest.FixtureRequest, tmp_path: Path, bpe: BPE) -> Tokenizer:
    """A tokenizer without the new tokens."""
    return MAKE[request.param](tmp_path / "given", bpe)


def test_the_ids_before_stay(before: Tokenizer) -> None:
    after = before.extended(NEW)
    assert type(after) is type(before) and after.vocab_size == before.vocab_size + 3
    assert {token: after.special_tokens[token] for token in NEW} == {token: before.vocab_size + index for index, token in enumerate(NEW)}
    assert {token: after.special_tokens[token] for token in before.special_tokens} == dict(before.special_tokens)
    assert after.encode(TEXT) == before.encode(TEXT)  # spellings in text are text
    assert after.decode(after.encode(TEXT)) == before.decode(before.encode(TEXT))
    assert [after.token_bytes(i) for i in range(before.vocab_size)] == [before.token_bytes(i) for i in range(before.vocab_size)]
    assert after.decode([after.special_tokens["<|tool|>"]]) == "<|tool|>"
    assert (after.eos_id, after.bos_id) == (before.eos_id, before.bos_id)
    assert after.fingerprint != before.fingerprint
    assert after.extended(["<|more|>"]).special_tokens["<|more|>"] == after.vocab_size


def test_what_is_saved_opens_with_the_same_ids(before: Tokenizer, tmp_path: Path) -> None:
    before.save(tmp_path / "stored")
    after = pretrained(tmp_path / "stored", NEW)
    after.save(tmp_path / "saved")
    again = pretrained(tmp_path / "saved")
    assert type(again) is type(before) and again.fingerprint == after.fingerprint == before.extended(NEW).fingerprint
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert len(theirs) == after.vocab_size
    assert theirs.convert_tokens_to_ids(list(NEW)) == [after.special_tokens[token] for token in NEW]
    assert theirs.encode(TEXT, add_special_tokens=False, split_special_tokens=True) == after.encode(TEXT)
    start, end = (after.special_tokens[token] for token in NEW[:2])
    assert theirs.encode("<|im_start|>cat<|im_end|>", add_special_tokens=False) == [start, *after.encode("cat"), end]
    assert theirs.decode([start, *after.encode("cat"), end], skip_special_tokens=True) == "cat"


def test_chats_in_the_new_tokens(before: Tokenizer) -> None:
    after = before.extended(NEW)
    template = ChatTemplate.named("chatml", after)
    ids = template.render([Message("user", "the cat")], after, add_generation_prompt=False)
    assert ids[0] == after.special_tokens["<|im_start|>"] and after.special_tokens["<|im_end|>"] in ids
    assert template.end_ids(after) == {after.special_tokens["<|im_end|>"]}


@pytest.mark.parametrize(
    ("new", "saying"),
    [
        (["<|a|>", "<|a|>"], "must be different and not empty"),
        ([""], "must be different and not empty"),
        (["EOS"], "has '.*' already, as id"),
    ],
)
def test_what_is_there_already(before: Tokenizer, new: list[str], saying: str) -> None:
    eos = before.decode([before.eos_id])
    with pytest.raises(TokenizerError, match=saying):
        before.extended([eos if token == "EOS" else token for token in new])


def test_ordinary_tokens_are_there_already(tmp_path: Path) -> None:
    for tokenizer in (byte_level(tmp_path / "given"), Character().prepare(lambda: [TEXT], "text", tmp_path)):
        with pytest.raises(TokenizerError, match="has 'T' already"):
            tokenizer.extended(["T"])
    with pytest.raises(TokenizerError, match="'T' is an ordinary token"):
        Byte().extended(["T"])


def test_ids_that_a_file_leaves_unused(tmp_path: Path) -> None:
    """The tokenizers library would number the new token otherwise than its place behind the last id."""
    byte_level(tmp_path / "given")
    file = tmp_path / "given" / "tokenizer.json"
    content = json.loads(file.read_text())
    last = max(content["model"]["vocab"], key=content["model"]["vocab"].__getitem__)
    content["model"]["vocab"][last] += 10
    file.write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match="leaves some ids unused"):
        HuggingFace(tmp_path / "given").extended(NEW)


def test_a_tokenizer_that_takes_none(tmp_path: Path) -> None:
    class Own(Byte):
        extended = Tokenizer.extended  # type: ignore[assignment]

    with pytest.raises(TokenizerError, match="Own takes no new tokens"):
        Own().extended(["<|a|>"])
