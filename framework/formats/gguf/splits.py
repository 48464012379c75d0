"""The pre-tokenizers that GGUF names (`tokenizer.ggml.pre`): how text splits before byte-pair merges, as llama.cpp reads the names.

Data, and Hugging Face's form of it. Must not know files.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from framework.tokenizers.patterns import GPT2, GPT4, GPT4O

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
QWEN2 = GPT4.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = "|".join(
    [
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*",
        r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
)
DIGITS = r"\p{N}"


class Split(NamedTuple):
    """A pre-tokenizer.

    Attributes:
        patterns: expressions that split one after the other.
        ignore_merges: a piece that is a token is that token, whatever the merges say.
        add_bos: whether a text begins with BOS where the file does not say.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False

    def to_json(self) -> dict[str, Any]:
        """The `pre_tokenizer` of a tokenizer.json."""
        splits = [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False} for pattern in self.patterns]
        return {"type": "Sequence", "pretokenizers": [*splits, BYTE_LEVEL]}


_LLAMA3, _GPT2, _SMOLLM = Split((GPT4,), True, True), Split((GPT2,)), Split((DIGITS, GPT2))
SPLITS = {  # the first of several alike is what is written
    "gpt-2": _GPT2,
    "llama-bpe": _LLAMA3,
    "qwen2": Split((QWEN2,)),
    "smollm": _SMOLLM,
    "tekken": Split((TEKKEN,), True, True),
    "gpt-4o": Split((GPT4O,)),
    "dbrx": Split((GPT4,)),
    "default": Split((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    **dict.fromkeys(("llama3", "llama-v3", "falcon3", "pixtral", "lfm2"), _LLAMA3),
    **dict.fromkeys(("smaug-bpe", "glm4", "chatglm-bpe"), Split((GPT4,))),
    **dict.fromkeys(("phi-2", "mpt", "olmo", "jais", "exaone4"), _GPT2),
    **dict.fromkeys(("starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _SMOLLM),
    **dict.fromkeys(("deepseek-r1-qwen", "stablelm2", "megrez"), Split((QWEN2,))),
    "llama4": Split((GPT4O,)),
}
