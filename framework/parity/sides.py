"""Who answers in a comparison: a model of ours from whatever source, or transformers on a Hugging Face directory.

Shape legend: T tokens, V vocabulary.
A source flows in; ids, logits, hidden states and special tokens flow out, the same questions to every side. All compute in one type
(float32 unless asked otherwise), so that what differs is the model and not its rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from framework import checkpoint
from framework.chat import ChatTemplate, Message
from framework.errors import RequestError
from framework.formats import convert, known, sealed, sources
from framework.formats.importing import Model, opened
from framework.formats.weights import Weights
from framework.networks.base import Network
from framework.parity import rounding
from framework.parity.stages import Stage, stages
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.pretrained import pretrained

Specials = dict[str, Any]  # bos, eos (all that end a reply), pad


class Side(ABC):
    """A model that can be asked.

    Attributes:
        name: how findings call it.
    """

    name: str

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Ids that logits are given for."""

    @abstractmethod
    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits after every token, [T, V]."""

    @abstractmethod
    def stages(self, ids: Sequence[int]) -> list[Stage]:
        """Hidden states from block to block."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text, nothing added."""

    @abstractmethod
    def render(self, chat: Sequence[Message]) -> list[int] | str | None:
        """Ids of a chat that asks for a reply; None without a template, `refused` where the template takes no such chat."""

    @abstractmethod
    def specials(self) -> Specials:
        """The ids that begin, end and fill."""


class Ours(Side):
    """A model on our networks.

    Args:
        name: how findings call it.
        network: in eval mode.
        tokenizer, template: its own.
        generation: of generation_config.json.
        published: config.json and the weights as stored; None where no published architecture expresses the network.
        kinds: types of the matrices and vectors as stored.
    """

    def __init__(
        self,
        name: str,
        network: Network,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        generation: dict[str, Any],
        published: tuple[dict[str, Any], Weights] | None,
        kinds: dict[str, set[str]],
    ) -> None:
        self.name, self.network, self.tokenizer, self.template = name, network, tokenizer, template
        self.generation, self.published, self.kinds = generation, published, kinds

    @property
    def vocab_size(self) -> int:
        """Of the network."""
        return self.network.vocab_size

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Of the training forward: no cache."""
        with torch.inference_mode():
            return self.network.logits(self.network(torch.tensor([list(ids)])))[0].float()

    def stages(self, ids: Sequence[int]) -> list[Stage]:
        """Of the training forward."""
        blocks = self.network.get_submodule("blocks") if "blocks" in dict(self.network.named_children()) else None
        if not isinstance(blocks, nn.ModuleList):
            return []
        return stages(list(blocks), lambda: self.network(torch.tensor([list(ids)])))

    def encode(self, text: str) -> list[int]:
        """By our tokenizer."""
        return self.tokenizer.encode(text)

    def render(self, chat: Sequence[Message]) -> list[int] | str | None:
        """By our template."""
        if self.template is None:
            return None
        try:
            return self.template.render(chat, self.tokenizer)
        except RequestError:
            return "refused"

    def specials(self) -> Specials:
        """Those of the tokenizer, of the generation defaults and of the template together."""
        stated = self.generation.get("eos_token_id")
        ends = {self.tokenizer.eos_id, *(stated if isinstance(stated, list) else [] if stated is None else [stated])}
        return {"eos": sorted(ends), "pad": self.tokenizer.pad_id, "bos in front": self.tokenizer.bos_id}


class Transformers(Side):
    """transformers on a Hugging Face directory; code in the directory is never run.

    Args:
        directory: the model directory.
        dtype: what is computed in.
    """

    def __init__(self, directory: Path, dtype: torch.dtype) -> None:
        import transformers

        self.name = "transformers"
        transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, trust_remote_code=False)
        self._model = loaded.eval()
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=False)

    @property
    def vocab_size(self) -> int:
        """Of its configuration."""
        return int(self._model.config.get_text_config().vocab_size)

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Of one forward without a cache."""
        with torch.inference_mode():
            logits_BTV: Tensor = self._model(torch.tensor([list(ids)]), use_cache=False).logits
        return logits_BTV[0].float()

    def stages(self, ids: Sequence[int]) -> list[Stage]:
        """Of its decoder's layers."""
        count = self._model.config.get_text_config().num_hidden_layers
        blocks = next((part for part in self._model.modules() if isinstance(part, nn.ModuleList) and len(part) == count), None)
        return [] if blocks is None else stages(list(blocks), lambda: self._model(torch.tensor([list(ids)]), use_cache=False))

    def encode(self, text: str) -> list[int]:
        """Without the special tokens that it puts around a text."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def render(self, chat: Sequence[Message]) -> list[int] | str | None:
        """By `apply_chat_template`."""
        if not self._tokenizer.chat_template:
            return None
        messages = [{"role": message.role, "content": message.content} for message in chat]
        try:
            ids: list[int] = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        except Exception:  # jinja's TemplateError, or what a template raises by itself
            return "refused"
        return ids

    def specials(self) -> Specials:
        """Those of the tokenizer and of the generation defaults."""
        stated = self._model.generation_config.eos_token_id
        ends = {self._tokenizer.eos_token_id, *(stated if isinstance(stated, list) else [stated])} - {None}
        first = self._tokenizer("a")["input_ids"][:1]
        begins = self._tokenizer.bos_token_id if first == [self._tokenizer.bos_token_id] else None
        return {"eos": sorted(ends), "pad": self._tokenizer.pad_token_id, "bos in front": begins}


def ours(source: str | Path, dtype: torch.dtype, name: str | None = None) -> Ours:
    """A side of ours from any source. Raises CheckpointError, TokenizerError."""
    if (file := sources.gguf_file(source)) is not None:
        return _from_gguf(file, dtype, name or file.name)
    directory = sources.directory(source)
    network, tokenizer = checkpoint.load_network(directory, dtype), pretrained(directory)
    published, kinds = None, {}
    if (directory / checkpoint.CONFIG).is_file():
        model = opened(directory)
        published = model.config, _checked(model)
        kinds = _kinds(published[1])
    defaults = directory / checkpoint.GENERATION
    generation = sealed.read_json(defaults) if defaults.is_file() else {}
    return Ours(name or directory.name, network, tokenizer, ChatTemplate.load(directory), generation, published, kinds)


def _from_gguf(file: Path, dtype: torch.dtype, name: str) -> Ours:
    from framework.formats.gguf.layout import read_layout

    model = opened(file)
    network = checkpoint.published(model.config, model.weights, dtype)
    kinds: dict[str, set[str]] = {"matrix": set(), "vector": set()}
    for info in read_layout(file).tensors.values():
        kinds["matrix" if len(info.shape) > 1 else "vector"].add(info.kind)
    return Ours(name, network, model.tokenizer, model.template, model.generation, (model.config, _checked(model)), kinds)


def _checked(model: Model) -> Weights:
    _, form, sizes = known.described(model.config)
    return convert.Checked(form, model.weights, sizes)


def _kinds(weights: Weights) -> dict[str, set[str]]:
    """The types in which matrices and vectors are stored."""
    kinds: dict[str, set[str]] = {"matrix": set(), "vector": set()}
    for name in weights.names:
        kinds["matrix" if len(weights.shape(name)) > 1 else "vector"].add(rounding.KINDS[weights.dtype(name)])
    return kinds
