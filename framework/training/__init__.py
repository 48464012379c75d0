"""What happens around a training step: checkpoints, signals, progress, measurements."""
