#!/usr/bin/env bash
# A language model's whole life on sums, from nothing: tokenizer, pretraining, SFT, reward model, PPO (with DPO and GRPO beside it),
# evaluation of every stage, one table. Nothing to download; under 20 minutes on two CPU cores. Run again, it goes on where it stopped.
#   recipes/lifecycle.sh            leaves everything in runs/lifecycle (or the directory given)
# No stage ever sees the last 500 of the 10,000 sums of two numbers under 100: these judge all of them.
set -euo pipefail
RUNS=${1:-runs/lifecycle}
began=$(date +%s)

sums() { echo --data.dataset Arithmetic --data.dataset.operations + --data.dataset.form "$1" --data.dataset.start "$2" --data.dataset.size "$3" --data.chat_template null; }
held_out() { echo --data.validation_dataset Arithmetic --data.validation_dataset.operations + --data.validation_dataset.form "$1" --data.validation_dataset.start 9500 --data.validation_dataset.size 500; }
stage() { echo "--- $1 ($(($(date +%s) - began)) s)" >&2; }
run() { framework "$@" --runs_dir "$RUNS" --resume auto; }
judge() {  # how many of the held-out sums a stage gets right, each answered once, drawn from the model's own distribution
    framework evaluate "$RUNS/$1" --tasks+=GeneratedAnswers --tasks.dataset Arithmetic --tasks.dataset.operations + \
        --tasks.dataset.form prompt --tasks.dataset.start 9500 --tasks.dataset.size 500 \
        --tasks.max_new_tokens 8 --tasks.temperature 1 --max_running 64 --output "$RUNS/$1/evaluation.json" > /dev/null
}

stage "tokenizer: digits one by one"
[ -f "$RUNS/tokenizer/tokenizer.json" ] || framework train-tokenizer "$RUNS/tokenizer" --dataset Arithmetic --dataset.operations + \
    --vocab_size 260 --pattern '\d|\D'

stage "pretraining on 9,500 sums as text, four in ten with a mistake and its correction"
run fit --config recipes/pretrain.yaml --data.dataset Arithmetic --data.dataset.operations + --data.dataset.size 9500 \
    --data.dataset.mistakes 0.4 --data.tokenizer BPE --data.tokenizer.path "$RUNS/tokenizer" --data.context_length 64 --data.batch_size 32 \
    --data.mask_documents true --model.optimizer Muon --model.optimizer.lr 3e-3 --model.optimizer.weight_decay 0.1 \
    --trainer.max_steps 1000 --trainer.val_check_interval 250 --trainer.callbacks null --checkpoints.every_n_steps 500
judge pretrain

stage "SFT on 200 right answers"
run finetune --recipe sft --init_from "$RUNS/pretrain" $(sums demonstration 7000 200) $(held_out demonstration) \
    --data.context_length 64 --data.batch_size 16 --model.optimizer.lr 5e-4 --trainer.max_steps 20 --trainer.val_check_interval 20
judge sft

stage "reward model on right and wrong answers to 9,500 sums"
run finetune --recipe reward-model --init_from "$RUNS/sft" $(sums preference 0 9500) $(held_out preference) --data.dataset.wrong_answers 6 \
    --data.context_length 16 --data.batch_size 64 --model.optimizer.lr 1e-3 --trainer.max_steps 800

stage "PPO against the reward model"
run finetune --recipe ppo --init_from "$RUNS/sft" --model.reward_model "$RUNS/reward-model" $(sums prompt 0 9500) $(held_out prompt) \
    --data.context_length 16 --data.max_new_tokens 6 --trainer.max_steps 640
judge ppo

stage "DPO on the same pairs; without rpo_alpha it ends in replies that are neither right nor wrong answers"
run finetune --recipe dpo --init_from "$RUNS/sft" $(sums preference 0 9500) $(held_out preference) --data.dataset.wrong_answers 6 \
    --data.context_length 16 --data.batch_size 64 --model.rpo_alpha 1 --trainer.max_steps 400
judge dpo

stage "GRPO, the answers checked"
run finetune --recipe grpo --init_from "$RUNS/sft" $(sums prompt 0 9500) $(held_out prompt) \
    --data.context_length 16 --data.max_new_tokens 6 --trainer.max_steps 640
judge grpo

stage "done"
python3 "$(dirname "$0")/lifecycle_table.py" "$RUNS"
