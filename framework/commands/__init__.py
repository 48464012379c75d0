"""The verbs of the command line: one file a verb, one typed function each."""

from framework.registry import family

__getattr__, __dir__ = family(__name__)
