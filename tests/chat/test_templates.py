"""Templates by name: spelled with the tokenizer's own tokens, the same once saved, for us and for transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from framework.chat import ChatTemplate, Message
from framework.errors import ConfigError
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.bpe import BPE
from framework.tokenizers.byte import Byte
from framework.tokenizers.character import Character

CHAT = [Message("system", "Be kind."), Message("user", "Hi\n"), Message("assistant", "Ho"), Message("user", "Hm")]
CHATML = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi\n<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
EXPECTED = {
    "chatml": f"{CHATML}<|im_start|>user\nHm<|im_end|>\n<|im_start|>assistant\n",
    "simple": "System:\nBe kind.\nUser:\nHi\n\nAssistant:\nHo<|endoftext|>\nUser:\nHm\nAssistant:\n",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_built_in(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = BPE.train([EXPECTED["simple"]], vocab_size=280, special_tokens=Byte().special_tokens)
    template = ChatTemplate.named(name, tokenizer)
    ids = template.render(CHAT, tokenizer)
    assert tokenizer.decode(ids) == EXPECTED[name]
    assert template.end_ids(tokenizer) == {tokenizer.special_tokens["<|im_end|>" if name == "chatml" else "<|endoftext|>"]}
    tokenizer.save(tmp_path)
    template.save(tmp_path)
    opened = ChatTemplate.load(tmp_path)
    assert opened is not None and opened.render(CHAT, tokenizer) == ids
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    chat = [message._asdict() for message in CHAT]
    assert theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) == ids


def test_simple_needs_no_more_than_an_end() -> None:
    tokenizer = Byte(special_tokens=("<|endoftext|>",))
    template = ChatTemplate.named("simple", tokenizer)
    assert template.render(CHAT, tokenizer).count(tokenizer.eos_id) == 1


def with_config(tokenizer: Tokenizer, folder: Path, **changes: object) -> None:
    tokenizer.save(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | changes))


def test_files_and_directories(tmp_path: Path) -> None:
    source = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    (tmp_path / "own.jinja").write_text(source)
    with_config(Byte(), tmp_path, chat_template=source)
    for name in (str(tmp_path / "own.jinja"), str(tmp_path)):
        template = ChatTemplate.named(name, Byte())
        assert Byte().decode(template.render(CHAT[1:2], Byte())) == "Hi\n<|endoftext|>"


def test_names_that_are_no_template(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no chat template alpaca: known are chatml, simple; or give a \.jinja file or a model directory"
    ):
        ChatTemplate.named("alpaca", Byte())
    with pytest.raises(ConfigError, match="holds no chat template"):
        ChatTemplate.named(str(tmp_path), Byte())
    (tmp_path / "own.jinja").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"own\.jinja cannot be read"):
        ChatTemplate.named(str(tmp_path / "own.jinja"), Byte())


def test_special_tokens_that_the_tokenizer_lacks_are_named(tmp_path: Path) -> None:
    (tmp_path / "chars.txt").write_text("x")
    tokenizer = Character().prepare(lambda: ["abc"], "of abc", tmp_path)
    with pytest.raises(ConfigError, match=r"tokens <\|im_end\|>, <\|im_start\|>, which the tokenizer lacks \(it has <\|endoftext\|>\)"):
        ChatTemplate.named("chatml", tokenizer)
    (tmp_path / "own.jinja").write_text("{{ messages[0].content }}<|eot_id|>")
    with pytest.raises(ConfigError, match=r"own\.jinja is written with the special tokens <\|eot_id\|>"):
        ChatTemplate.named(str(tmp_path / "own.jinja"), Byte())
    # a directory's own tokenizer says what is special in its template: [END] is, <|user|> is plain text
    with_config(Byte(("<|endoftext|>", "[END]")), tmp_path, chat_template="<|user|>{{ messages[0].content }}[END]")
    with pytest.raises(ConfigError, match=r"the special tokens \[END\], which"):
        ChatTemplate.named(str(tmp_path), Byte())
