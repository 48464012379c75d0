"""What fine-tuning trains on, as ids: the same ones for a model's supervised training, its reward model and its replies.

Demonstrations, preferences and prompts flow in, ids and masks flow out. Must not know batches, padding or networks.

The ids of a prompt and those of a reply to it are together the ids of a demonstration of both, unless a token lies across their border
(such as a line's end before a reply that begins with another): that token is the reply's, since a model that is asked writes it.
"""

from __future__ import annotations

from framework.chat.rendered import Rendered
from framework.chat.template import ChatTemplate
from framework.datasets.records import Demonstration, Preference, Turns
from framework.errors import ConfigError
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.text import well_formed

__all__ = ["Examples", "Rendered"]


class Examples:
    """Makes ids of records.

    Args:
        tokenizer: of the model.
        template: of the model; None: it takes plain texts only.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None = None) -> None:
        self.tokenizer, self.template = tokenizer, template

    def demonstration(self, shown: Demonstration) -> Rendered:
        """The ids, ending with what ends the reply.

        Of a text: BOS where the tokenizer has one, prompt and reply, EOS; the reply and EOS are trained. Of a chat: as the template
        renders it, up to the end of the last assistant's turn; every assistant's turn in the reply is trained with the token that ends
        it, nothing else.

        Raises:
            ConfigError: a chat, and no template.
            RequestError: the template refuses the chat, or does not tell where its replies are.
        """
        return self._render(shown.prompt, shown.reply)

    def preference(self, pair: Preference) -> tuple[Rendered, Rendered]:
        """The prompt with the chosen reply, and with the rejected one, each as a demonstration of it."""
        return self._render(pair.prompt, pair.chosen), self._render(pair.prompt, pair.rejected)

    def prompt(self, asked: Turns) -> list[int]:
        """The ids that the model is to go on from; of a chat they end with what begins a reply. Raises as `demonstration` does."""
        if isinstance(asked, str):
            return self.tokenizer.encode_prompt(asked)
        return self._chat_template().render(asked, self.tokenizer)

    @property
    def end_ids(self) -> frozenset[int]:
        """The ids that end a reply: the tokenizer's end of text, and the end of a chat's turn."""
        return frozenset({self.tokenizer.eos_id}) | (self.template.end_ids(self.tokenizer) if self.template else frozenset())

    def _render(self, asked: Turns, reply: Turns) -> Rendered:
        if isinstance(asked, str) and isinstance(reply, str):
            bos = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
            text = Rendered.of(well_formed(asked), well_formed(reply), self.tokenizer)
            return Rendered([*bos, *text.ids, self.tokenizer.eos_id], [*(False for _ in bos), *text.is_reply, True])
        assert isinstance(asked, tuple) and isinstance(reply, tuple), "a prompt and its reply are of one kind"
        return self._chat_template().render_replies((*asked, *reply), len(asked), self.tokenizer)

    def _chat_template(self) -> ChatTemplate:
        if self.template is None:
            raise ConfigError("the data holds chats, and the model has no chat template: name one, such as chatml or simple.")
        return self.template
