"""Opens the tokenizer of a model directory, whoever made it. A path flows in, a ready tokenizer flows out."""

from __future__ import annotations

from pathlib import Path

from framework.tokenizers.base import Tokenizer
from framework.tokenizers.files import CONFIG, read_json, tokenizer_file


def pretrained(path: Path, new_tokens: tuple[str, ...] = ()) -> Tokenizer:
    """The tokenizer in a model directory: the one of ours that saved it, else Hugging Face's library on its tokenizer.json.

    Args:
        path: the directory, or the tokenizer.json in it.
        new_tokens: special tokens that it gets, as its last ids.

    Raises:
        TokenizerError: there is no tokenizer, it is damaged, or it has one of the new tokens already.
    """
    stored = _stored(Path(path))
    return stored.extended(new_tokens) if new_tokens else stored


def _stored(path: Path) -> Tokenizer:
    file = tokenizer_file(path)
    config = file.with_name(CONFIG)
    ours = read_json(config).get("framework") if config.is_file() else None
    match ours:  # a closed list: a file never chooses what is imported
        case {"tokenizer": "BPE"}:
            from framework.tokenizers.bpe import BPE

            return BPE(path=file)
        case {"tokenizer": "Byte"}:
            from framework.tokenizers.byte import Byte
            from framework.tokenizers.vocabulary import Vocabulary

            special_tokens = Vocabulary.read(file).special_tokens
            return Byte(tuple(sorted(special_tokens, key=special_tokens.__getitem__)))
        case {"tokenizer": "Character"}:
            from framework.tokenizers.character import Character

            return Character(path=file)
    from framework.tokenizers.hugging_face import HuggingFace

    return HuggingFace(file)
