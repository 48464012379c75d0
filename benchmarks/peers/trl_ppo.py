"""PPO of TRL 0.19.1, the last release that has it: its trainer as it is, on the shared model, called with `rounds`."""

from __future__ import annotations

from typing import Any

from peers.models import language_model, rows, scoring_model, tokenizer, training_arguments


def ppo(
    rounds: Any,
    directory: str,
    rollout_size: int,
    mini_batches: int,
    epochs: int,
    prompt_length: int,
    reply_length: int,
    temperature: float,
) -> None:
    """Whole updates: replies written, judged by a reward model, and trained on by policy and critic, networks of their own."""
    from transformers import TrainerCallback
    from trl import PPOConfig, PPOTrainer

    class Tell(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            rounds()

    words = tokenizer(directory, padding_side="left")
    prompts = rows(directory, "prompts").map(lambda row: {"input_ids": words(row["prompt"])["input_ids"]}, remove_columns="prompt")
    assert all(len(row["input_ids"]) == prompt_length for row in prompts)
    config = PPOConfig(
        **training_arguments(directory, rollout_size),
        gradient_accumulation_steps=1,
        num_mini_batches=mini_batches,
        num_ppo_epochs=epochs,
        local_rollout_forward_batch_size=rollout_size,
        response_length=reply_length,
        temperature=temperature,
        stop_token="eos",
        total_episodes=10**7,
        num_sample_generations=0,
        disable_tqdm=True,
    )
    trainer = PPOTrainer(
        args=config,
        processing_class=words,
        model=language_model(directory),
        ref_model=language_model(directory),
        reward_model=scoring_model(directory),
        value_model=scoring_model(directory),
        train_dataset=prompts,
        eval_dataset=prompts.select(range(rollout_size)),
        callbacks=[Tell()],
    )
    rounds()
    trainer.train()
