"""The parity gate: whether a model gives the same answers wherever it runs, and if not, where the first difference is.

examples.py  the texts and chats that everything is tried on
sides.py     who answers: a model of ours, or transformers on its directory
engine.py    our engine beside our training forward
rounding.py  how far weights may be from each other in the types they are stored in
stages.py    what a network passes on from block to block, and where two first differ
checks.py    the comparisons
gate.py      all of it: `verify`
findings.py  what came out, as a table and as JSON
"""
