"""Batches: documents and ids made into what a recipe trains on, a DataModule for each kind; ours and every plugin's."""

from framework.registry import family

__getattr__, __dir__ = family(__name__)
