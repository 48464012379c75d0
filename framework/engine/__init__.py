"""The generation engine: ids in, ids out. Knows no text (generation.py turns text into ids and back)."""
