"""Chats become ids: the only place where roles turn into tokens."""

from framework.chat.template import ChatTemplate
from framework.datasets.base import Message

__all__ = ["ChatTemplate", "Message"]
