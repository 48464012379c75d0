"""The generation engine: ids in, ids out. Knows no text (generation/ turns text into ids and back)."""
