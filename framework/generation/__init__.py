"""Text and chats in, text out: a tokenizer around the engine."""

from framework.generation.generator import Generator
from framework.generation.reader import Chunk, Reader, Token
from framework.generation.settings import Settings

__all__ = ["Chunk", "Generator", "Reader", "Settings", "Token"]
