"""What all contenders of fine-tuning begin with: a model, a tokenizer and data, in the forms in which each of them opens such things.

    python benchmarks/finetune_models.py DIRECTORY MODEL      writes DIRECTORY/MODEL/: weights, config.json, tokenizer.json, data

Run before anything is timed, by a Python that has this project, transformers and tokenizers.
"""

from __future__ import annotations

import json
import random
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

END, PAD = "<|endoftext|>", "<|pad|>"
CONTEXT = 256
SEED = 0
LETTERS = string.ascii_lowercase + " "
PROMPT_TOKENS = 32  # of every prompt that is answered

# config.json by hand: the releases of transformers that the peers need write different ones, and all of them read these
MODELS: dict[str, dict[str, Any]] = {
    "10m": {  # configs/network/10m.yaml with GPT-2's biases
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu",
        "n_layer": 6,
        "n_embd": 384,
        "n_head": 6,
        "n_positions": CONTEXT,
        "vocab_size": 258,  # bytes, end, padding
        **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0),
    },
    "smol": {  # SmolLM2-135M's widths and vocabulary, 8 of its 30 layers
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 8,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100_000.0,
        "max_position_embeddings": CONTEXT,
        "vocab_size": 49_152,
    },
}
COMMON = {"tie_word_embeddings": True, "bos_token_id": None, "torch_dtype": "float32"}


def main() -> None:
    """Write everything of one model."""
    directory = Path(sys.argv[1]) / sys.argv[2]
    directory.mkdir(parents=True)
    shape = MODELS[sys.argv[2]]
    vocab_size = shape["vocab_size"]
    write_weights(directory, {**shape, **COMMON, "eos_token_id": vocab_size - 2, "pad_token_id": vocab_size - 1})
    write_tokenizer(directory, vocab_size)
    write_data(directory)
    write_reward_model(directory)


def write_weights(directory: Path, config: dict[str, Any]) -> None:
    """Random ones, as transformers begins."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(SEED)
    (directory / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def write_tokenizer(directory: Path, vocab_size: int) -> None:
    """A byte, a token; further ids are no text's, but a policy with random weights writes them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    words = sorted(pre_tokenizers.ByteLevel.alphabet())
    words += [f"word{number}" for number in range(len(words), vocab_size - 2)]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True), AddedToken(PAD, special=True)])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": PAD, "model_max_length": CONTEXT}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def write_data(directory: Path) -> None:
    """Made-up texts: demonstrations of many lengths, pairs, and prompts of one length."""
    draw = random.Random(SEED)

    def text(shortest: int, longest: int) -> str:
        return "".join(draw.choices(LETTERS, k=draw.randint(shortest, longest) - 2)).join("ab")

    def rows(count: int, **lengths: tuple[int, int]) -> Iterator[str]:
        for _ in range(count):
            yield json.dumps({field: text(*between) for field, between in lengths.items()}) + "\n"

    for name, content in {
        "demonstrations": rows(4000, prompt=(16, 64), completion=(32, 128)),
        "preferences": rows(512, prompt=(16, 64), chosen=(16, 60), rejected=(16, 60)),
        "prompts": rows(4000, prompt=(PROMPT_TOKENS, PROMPT_TOKENS)),
    }.items():
        (directory / f"{name}.jsonl").write_text("".join(content), encoding="utf-8")


def write_reward_model(directory: Path) -> None:
    """Ours, around the same network; transformers puts a head of its own on the weights when it opens them."""
    from framework import checkpoint
    from framework.networks.scalar_head import ScalarHead

    network, tokenizer = checkpoint.load(directory)
    judge = ScalarHead(lambda **_: network)
    checkpoint.save(directory / "reward_model", judge, tokenizer, {})


if __name__ == "__main__":
    main()
