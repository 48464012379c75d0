"""What the parity gate tries models on: texts that tokenizers stumble over, prompts of uneven lengths, chats. Pure data."""

from __future__ import annotations

from framework.datasets.base import Message

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    " leading, trailing and   inner    spaces \t and tabs  ",
    "line\nbreaks\n\n\nand\r\nmore\n",
    "0 12 345 6789 3.14159 1,000,000 1e-5 0x1F",
    "don't can't WE'LL I'm she'd they've",
    "naïve café Übergröße señor façade ﬁne Ⅻ",
    "日本語のテキスト 中文文本 한국어 العربية עברית हिन्दी ไทย",
    "🙂👍🏽 👩‍👩‍👧‍👦 🇧🇷 ∑∂√ → ≠ …",
    "def f(x: int) -> str:\n    return f'{x!r:>10}'  # comment\n",
    "<div class=\"a\">&amp;</div> {'key': [1, 2.0, None]} C:\\temp\\*.txt",
    "snake_case CamelCase kebab-case SCREAMING_CASE https://example.org/a?b=c#d",
    "a",
    " ",
)
LONG = " ".join(
    f"On day {day} of the voyage the captain wrote {day * day} words about {what}."
    for day, what in enumerate(("the wind", "the crew", "a strange light", "bread", "home", "the stars"), start=1)
)
PROMPTS = ("The", "Once upon a time there was", "def add(a, b):\n    return", "In the year 1492, Columbus sailed the", LONG)
CHATS = (
    (Message("user", "What is the capital of France?"),),
    (Message("system", "You answer in one word."), Message("user", "2 + 2?")),
    (Message("user", " Hi \n"), Message("assistant", "Hello!"), Message("user", "Count to 3: 1, 2,")),
)
