"""The forward pass of a network, step by step."""
