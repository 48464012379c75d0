"""GGUF, llama.cpp's file of a whole model: read and written by Hugging Face's names (needs the package gguf, imported when it is used).

package.py         the package, or one clear error
layout.py          what a file says is in it, checked against its size before anything is allocated
architectures.py   the architectures, as tables
config.py, rope.py metadata <-> config.json
pairs.py           the order of a head's rows
splits.py          the pre-tokenizers, by their names in GGUF
vocabulary.py      the tokenizer read;  spelled.py  written
contents.py        a file as a model: `open_gguf`
writer.py          a model as a file: `write_gguf`
"""

from __future__ import annotations

from framework.formats.gguf.contents import Contents, open_gguf
from framework.formats.gguf.writer import Kind, write_gguf

__all__ = ["Contents", "Kind", "open_gguf", "write_gguf"]
