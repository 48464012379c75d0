"""Tasks: what a model is judged by; ours and those of every installed plugin."""

from framework.registry import family

__getattr__, __dir__ = family(__name__)
