"""Formats: reversible tables between our networks and published architectures; ours and every plugin's."""

from framework.registry import family

__getattr__, __dir__ = family(__name__)
