"""Learning a byte-level BPE vocabulary from texts (Sennrich et al. 2016; bytes and split pattern as in GPT-2 and GPT-4).

Texts flow in, a `Vocabulary` flows out. Memory grows with the number of distinct pieces, not with the corpus.
Must not know files, caches or datasets.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from framework.errors import TokenizerError
from framework.tokenizers.special import number
from framework.tokenizers.text import well_formed
from framework.tokenizers.vocabulary import Vocabulary, bytes_of

Trainer = Literal["rustbpe", "tokenizers"]

STRETCH = 1 << 17  # characters handed to a trainer at once: bounds its memory, and the run of one character its expression must take
BUFFER = 1 << 10  # stretches that rustbpe gathers before it counts them in parallel


def train(texts: Iterable[str], vocab_size: int, pattern: str, special_tokens: Sequence[str], trainer: Trainer = "rustbpe") -> Vocabulary:
    """The vocabulary that merges the texts' most frequent pairs until it is full; warns when the texts have fewer pairs.

    Args:
        texts: the training documents; read once.
        vocab_size: number of ids, the 256 bytes and the special tokens included.
        pattern: regular expression that splits text into pieces; no merge crosses a piece.
        special_tokens: spellings that get the last ids, in order.
        trainer: who counts and merges: `rustbpe` (about four times as fast) or Hugging Face's `tokenizers`.

    Raises:
        TokenizerError: the vocabulary is too small, the texts are empty, or the pattern is no regular expression.
    """
    smallest = 256 + len(special_tokens)
    if vocab_size < smallest:
        raise TokenizerError(f"vocab_size {vocab_size} is too small: 256 bytes and {len(special_tokens)} special tokens need {smallest}.")
    stretches = _Stretches(texts)
    run = {"rustbpe": _rustbpe, "tokenizers": _tokenizers}[trainer]
    learned = run(stretches, vocab_size - len(special_tokens), pattern)
    if not stretches.characters:
        raise TokenizerError("the corpus is empty: there is no text to train a tokenizer on.")
    ranks = {bytes([byte]): byte for byte in range(256)}
    for token in learned:  # two pairs may make the same bytes: that is one token, at its first place
        ranks.setdefault(token, len(ranks))
    found = len(ranks) + len(special_tokens)
    if found < vocab_size:
        warnings.warn(
            f"the corpus has too little text for vocab_size {vocab_size}: the tokenizer has {found} ids; use more text or {found}.",
            stacklevel=2,
        )
    return Vocabulary(ranks, number(special_tokens, len(ranks)), pattern)


class _Stretches:
    """The texts in stretches of bounded length, and how many characters went by. A cut splits at most one word per stretch."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            self.characters += len(text)
            for start in range(0, len(text), STRETCH):
                yield well_formed(text[start : start + STRETCH])


def _rustbpe(texts: Iterable[str], size: int, pattern: str) -> list[bytes]:
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    try:
        tokenizer.train_from_iterator(iter(texts), vocab_size=size, buffer_size=BUFFER, pattern=pattern)
    except ValueError as problem:
        raise TokenizerError(f"rustbpe cannot split by the pattern {pattern!r}: {problem}") from problem
    return [bytes(token) for token, _ in sorted(tokenizer.get_mergeable_ranks(), key=lambda item: item[1])]


def _tokenizers(texts: Iterable[str], size: int, pattern: str) -> list[bytes]:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    try:
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    except Exception as problem:  # tokenizers raises nothing narrower
        raise TokenizerError(f"tokenizers cannot split by the pattern {pattern!r}: {problem}") from problem
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    vocabulary = tokenizer.get_vocab()
    return [bytes_of(spelling) for spelling in sorted(vocabulary, key=vocabulary.__getitem__)]
