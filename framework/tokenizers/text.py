"""Python text as every tokenizer here takes it: whatever a `str` holds, made encodable. Knows no vocabulary."""

from __future__ import annotations


def well_formed(text: str) -> str:
    """The text with surrogate pairs joined and lone surrogates (no Unicode text, but legal in a `str`) as U+FFFD, as tiktoken has it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def utf8(text: str) -> bytes:
    """UTF-8 of any `str`, lone surrogates included."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return well_formed(text).encode()
