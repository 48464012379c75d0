"""TRL 1.16's trainers, peft, and transformers' `generate`: called with `rounds`, they work until the process is ended.

Each function is a contender: the library as it is used, on the shared model and data. Gradient checkpointing, which TRL switches on
by default and which costs a third more work, is off.
"""

from __future__ import annotations

from typing import Any

from finetune_rounds import Counted

from peers.models import LEARNING_RATE, language_model, rows, tokenizer, training_arguments

FOREVER = 10**7
LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear"}


def teller(rounds: Any) -> Any:
    """A callback that says where an optimizer step begins."""
    from transformers import TrainerCallback

    class Tell(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            rounds()

    return Tell()


def sft(
    rounds: Any, name: str, directory: str, batch_size: int, context_length: int, warm_up: int, steps: int, packing: str, lora: bool = False
) -> None:
    """SFTTrainer on completions, packed by the strategy `packing`; tokens without padding are counted."""
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    begin = Counted(rounds, name, warm_up, steps)

    class Trainer(SFTTrainer):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, *arguments: Any, **keywords: Any) -> Any:
            ids, seen = inputs["input_ids"], inputs.get("attention_mask")
            begin(ids.numel() if seen is None else int(seen.sum()))
            return super().training_step(model, inputs, *arguments, **keywords)

    settings = {
        **training_arguments(directory, batch_size),
        "max_steps": FOREVER,
        "gradient_checkpointing": False,
        "max_length": context_length,
        "packing": True,
        "packing_strategy": packing,
        "completion_only_loss": True,
    }
    trainer = Trainer(
        language_model(directory),
        SFTConfig(**settings),
        train_dataset=rows(directory, "demonstrations"),
        processing_class=tokenizer(directory),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA) if lora else None,
    )
    rounds.note(parameters=sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad))
    trainer.train()


def dpo(rounds: Any, directory: str, batch_size: int, context_length: int, precomputed: bool = False) -> None:
    """DPOTrainer, sigmoid loss, beta 0.1; the reference in memory or its log-probabilities computed before the first step."""
    from trl import DPOConfig, DPOTrainer

    settings = {
        **training_arguments(directory, batch_size),
        "max_steps": FOREVER,
        "gradient_checkpointing": False,
        "max_length": context_length,
        "beta": 0.1,
        "precompute_ref_log_probs": precomputed,
    }
    data, words = rows(directory, "preferences"), tokenizer(directory)
    reference = None if precomputed else language_model(directory)
    DPOTrainer(
        language_model(directory), reference, DPOConfig(**settings), train_dataset=data, processing_class=words, callbacks=[teller(rounds)]
    ).train()


def grpo(rounds: Any, directory: str, batch_size: int, generations: int, reply_length: int) -> None:
    """GRPOTrainer with a reward function, no KL, one optimizer step for each batch of replies."""
    from trl import GRPOConfig, GRPOTrainer

    settings = {
        **training_arguments(directory, batch_size),
        "max_steps": FOREVER,
        "gradient_checkpointing": False,
        "num_generations": generations,
        "max_completion_length": reply_length,
        "steps_per_generation": 1,
        "temperature": 1.0,
        "beta": 0.0,
    }
    GRPOTrainer(
        language_model(directory),
        lambda completions, **_: [-float(len(completion)) for completion in completions],
        GRPOConfig(**settings),
        train_dataset=rows(directory, "prompts"),
        processing_class=tokenizer(directory, padding_side="left"),
        callbacks=[teller(rounds)],
    ).train()


def peft_loop(rounds: Any, directory: str, batch_size: int, context_length: int, vocab_size: int) -> None:
    """A LoRA model of peft in a raw loop, with transformers' own loss and fused AdamW, on random ids."""
    import torch
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(language_model(directory), LoraConfig(task_type="CAUSAL_LM", **LORA)).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, fused=True)
    rounds.note(parameters=sum(parameter.numel() for parameter in trained))
    generator = torch.Generator().manual_seed(0)
    while True:
        rounds()
        ids_BT = torch.randint(vocab_size, (batch_size, context_length), generator=generator)
        model(input_ids=ids_BT, labels=ids_BT, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def generate(rounds: Any, directory: str, batch_size: int, prompt_length: int, reply_length: int, vocab_size: int) -> None:
    """transformers' `generate`, sampling from the whole distribution."""
    import torch
    from transformers import GenerationConfig

    model = language_model(directory).eval()
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "eos_token_id": None, "pad_token_id": vocab_size - 1}
    config = GenerationConfig(max_new_tokens=reply_length, min_new_tokens=reply_length, **settings)
    generator = torch.Generator().manual_seed(0)
    while True:
        rounds()
        ids_BT = torch.randint(vocab_size - 2, (batch_size, prompt_length), generator=generator)
        with torch.inference_mode():
            model.generate(ids_BT, attention_mask=torch.ones_like(ids_BT), generation_config=config)
