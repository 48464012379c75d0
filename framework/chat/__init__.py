"""Chats become ids: the only place where roles turn into tokens."""

from framework.chat.examples import Examples
from framework.chat.rendered import Rendered
from framework.chat.template import ChatTemplate
from framework.datasets.base import Message

__all__ = ["ChatTemplate", "Examples", "Message", "Rendered"]
