"""The human in RLHF: a model's replies shown side by side, ranked by people, kept as preferences."""
