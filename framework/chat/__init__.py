"""Chats become ids: the only place where roles turn into tokens."""

from framework.chat.template import ChatTemplate, Message

__all__ = ["ChatTemplate", "Message"]
