"""Samplers: logits to logits before a token is drawn; ours and those of every installed plugin."""

from framework.registry import family

__getattr__, __dir__ = family(__name__)
