"""What every tokenizer must do, as checks that a plugin's author can run: `for check in CHECKS: check(tokenizer)`.

A ready tokenizer flows in; AssertionError with what went wrong comes out. Must not know any one tokenizer.
"""

from __future__ import annotations

import importlib.util
import pickle
import random
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from framework.errors import TokenizerError
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.streaming import StreamDecoder

TEXTS = (
    "",
    "Hello world, it's 1234567890 o'clock!",
    "  two spaces,\ttabs\r\n\r\nand lines\n\n",
    "naïve café, 日本語, Ελληνικά, עברית, हिन्दी",
    "e\u0301 \u200d\u200b \ufeff \x00\x01\x1f\x7f\x85\u2028 \ufffd",
    "😊👩‍👩‍👧‍👦🇪🇺",
    "<|endoftext|><|im_start|>user\n</s><s>[INST]<pad><unk>",
    " ",
    "a" * 1000,
)
PLANES = ((0x20, 0x7F), (0x00, 0x250), (0x250, 0xD800), (0xE000, 0x10000), (0x10000, 0x20000), (0x20000, 0x110000))


def random_texts(count: int, seed: int = 0, longest: int = 40) -> Iterator[str]:
    """Random Unicode over all planes, surrogates left out; the same for the same seed."""
    generator = random.Random(seed)
    for _ in range(count):
        planes = generator.choices(PLANES, weights=(6, 2, 2, 1, 1, 1), k=generator.randrange(longest))
        yield "".join(chr(generator.randrange(*plane)) for plane in planes)


def encodable_texts(tokenizer: Tokenizer) -> list[str]:
    """Texts of all sorts that the tokenizer takes: a closed alphabet may refuse a text, but not change it."""
    special_ids = set(tokenizer.special_tokens.values())
    ordinary = [token_id for token_id in range(tokenizer.vocab_size) if token_id not in special_ids and tokenizer.token_bytes(token_id)]
    generator = random.Random(1)
    own = [tokenizer.decode(generator.choices(ordinary, k=20)) for _ in range(100)]
    return [text for text in [*TEXTS, *tokenizer.special_tokens, *random_texts(300), *own] if _takes(tokenizer, text)]


def _takes(tokenizer: Tokenizer, text: str) -> bool:
    try:
        tokenizer.encode(text)
    except TokenizerError:
        return False
    return True


def check_round_trip(tokenizer: Tokenizer) -> None:
    """Decoding what was encoded gives the text; a stream of single ids gives the same."""
    for text in encodable_texts(tokenizer):
        ids = tokenizer.encode(text)
        decoded = tokenizer.decode(ids)
        assert decoded == text, f"decode(encode({text!r})) is {decoded!r}"
        stream = StreamDecoder(tokenizer)
        streamed = "".join(stream.feed([token_id]) for token_id in ids) + stream.flush()
        assert streamed == decoded, f"{text!r} decodes to {decoded!r}, but to {streamed!r} id by id"


def check_ids(tokenizer: Tokenizer) -> None:
    """Text yields ids inside the vocabulary and no special ones, not even for special tokens' own spellings."""
    special_ids = set(tokenizer.special_tokens.values())
    for token_id in {*special_ids, tokenizer.eos_id, tokenizer.pad_id}:
        assert 0 <= token_id < tokenizer.vocab_size, f"special id {token_id} is outside [0, {tokenizer.vocab_size})"
    assert tokenizer.eos_id in special_ids, f"eos_id {tokenizer.eos_id} is not among the special tokens"
    for spelling in tokenizer.special_tokens:
        for text in filter(lambda text: _takes(tokenizer, text), (spelling, f"a{spelling}b", f" {spelling}\n{spelling}")):
            leaked = special_ids.intersection(tokenizer.encode(text))
            assert not leaked, f"the text {text!r} yields the special ids {sorted(leaked)}"
    for text in encodable_texts(tokenizer):
        ids = tokenizer.encode(text)
        assert all(0 <= token_id < tokenizer.vocab_size for token_id in ids), f"{text!r} yields ids outside [0, {tokenizer.vocab_size})"
        assert special_ids.isdisjoint(ids), f"the text {text!r} yields a special id"


def check_documents(tokenizer: Tokenizer) -> None:
    """A prompt begins with exactly one BOS where there is one; a document is a prompt and then EOS."""
    for text in encodable_texts(tokenizer)[:20]:
        front = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        expected = [*front, *tokenizer.encode(text)]
        assert tokenizer.encode_prompt(text) == expected, f"encode_prompt({text!r}) is not {expected}"
        assert tokenizer.encode_document(text) == [*expected, tokenizer.eos_id], f"encode_document({text!r}) is not the prompt and EOS"


def check_batch(tokenizer: Tokenizer) -> None:
    """The fast path gives uint32 arrays of the same ids, in order, whatever the size of the batch."""
    texts = encodable_texts(tokenizer)
    assert tokenizer.encode_batch([]) == [], "encode_batch([]) is not []"
    for batch in (texts[:1], texts, texts * 20):
        arrays = tokenizer.encode_batch(batch)
        assert len(arrays) == len(batch), f"encode_batch of {len(batch)} texts gives {len(arrays)} arrays"
        for text, ids in zip(batch[: len(texts)], arrays, strict=False):
            kind = ids.dtype.name if isinstance(ids, np.ndarray) else type(ids).__name__
            assert kind == "uint32", f"encode_batch gives {kind}, no uint32 array"
            assert ids.tolist() == tokenizer.encode(text), f"encode_batch and encode differ on {text!r}"


def check_byte_lengths(tokenizer: Tokenizer) -> None:
    """One length per id, 0 for special ones; over a text they add up to its UTF-8 length."""
    lengths = tokenizer.byte_lengths()
    assert lengths.shape == (tokenizer.vocab_size,), f"byte_lengths has shape {lengths.shape}, not ({tokenizer.vocab_size},)"
    for spelling, token_id in tokenizer.special_tokens.items():
        assert lengths[token_id] == 0, f"the special token {spelling} counts {lengths[token_id]} bytes of text"
    for text in encodable_texts(tokenizer):
        total, expected = int(lengths[tokenizer.encode(text)].sum()) if text else 0, len(text.encode())
        assert total == expected, f"the tokens of {text!r} count {total} bytes, the text has {expected}"


def check_unknown_ids(tokenizer: Tokenizer) -> None:
    """Ids outside the vocabulary are refused, not decoded as something."""
    for token_id in (-1, tokenizer.vocab_size):
        try:
            decoded = tokenizer.decode([token_id])
        except TokenizerError:
            continue
        raise AssertionError(f"the id {token_id} is outside [0, {tokenizer.vocab_size}) and decodes to {decoded!r}")


def check_fingerprint(tokenizer: Tokenizer) -> None:
    """A SHA-256 in hex that pickling leaves alone; so do the ids (workers get a pickled tokenizer)."""
    fingerprint = tokenizer.fingerprint
    assert re.fullmatch("[0-9a-f]{64}", fingerprint), f"the fingerprint {fingerprint!r} is no SHA-256 in hex"
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.fingerprint == fingerprint, "the fingerprint of a pickled copy differs"
    for text in encodable_texts(tokenizer)[:50]:
        assert copy.encode(text) == tokenizer.encode(text), f"a pickled copy encodes {text!r} differently"


def check_save(tokenizer: Tokenizer) -> None:
    """What is saved opens with `pretrained`, and with transformers (where it is installed), to the same ids."""
    from framework.tokenizers.pretrained import pretrained

    texts = encodable_texts(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        ours = pretrained(Path(folder))
        for name in ("vocab_size", "eos_id", "bos_id", "pad_id"):
            before, after = getattr(tokenizer, name), getattr(ours, name)
            assert before == after, f"{name} is {before}, and {after} once saved and opened"
        assert dict(ours.special_tokens) == dict(tokenizer.special_tokens), "the special tokens differ once saved and opened"
        if type(ours) is type(tokenizer):
            assert ours.fingerprint == tokenizer.fingerprint, "the fingerprint differs once saved and opened"
        theirs = _transformers_ids(Path(folder), texts)
    for text, their_ids in zip(texts, theirs, strict=True):
        ids = tokenizer.encode(text)
        assert ours.encode(text) == ids, f"the saved tokenizer encodes {text!r} differently"
        assert their_ids is None or their_ids == ids, f"AutoTokenizer encodes {text!r} as {their_ids}, not as {ids}"


def _transformers_ids(folder: Path, texts: list[str]) -> list[list[int] | None]:
    if importlib.util.find_spec("transformers") is None:
        return [None] * len(texts)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) for text in texts]


CHECKS: tuple[Callable[[Tokenizer], None], ...] = (
    check_round_trip,
    check_ids,
    check_documents,
    check_batch,
    check_byte_lengths,
    check_unknown_ids,
    check_fingerprint,
    check_save,
)
