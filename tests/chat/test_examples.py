"""Records as ids: transformers' ids and masks to the letter, each turn trained with its end and nothing else, one prompt for all uses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from framework.chat import ChatTemplate, Examples, Message, Rendered
from framework.datasets.records import Demonstration, Preference
from framework.errors import ConfigError, RequestError
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.bpe import BPE
from framework.tokenizers.byte import Byte
from framework.tokenizers.hugging_face import HuggingFace

# as published templates are written, with the blocks by which transformers finds what an assistant says
CHATML = """
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\n' }}
    {%- if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}
    {{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
LLAMA3 = """
{{- bos_token }}
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '<|sep|>\n\n' }}
    {%- if m.role == 'assistant' %}{% generation %}{{ m.content | trim }}<|im_end|>{% endgeneration %}
    {%- else %}{{ m.content | trim }}<|im_end|>{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant<|sep|>\n\n' }}{% endif %}"""
GEMMA = """
{%- for m in messages %}
    {%- set text = m.content | trim + '<|im_end|>' %}
    {{- '<|im_start|>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}
    {%- if m.role == 'assistant' %}{% generation %}{{ text }}{% endgeneration %}{% else %}{{ text }}{% endif %}
    {{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"""
MISTRAL = """
{{- bos_token }}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}{% generation %}{{ ' ' + m.content + eos_token }}{% endgeneration %}
    {%- else %}{{ '[INST] ' + m.content + ' [/INST]' }}{% endif %}
{%- endfor %}"""
PHI = """
{%- for m in messages %}
    {{- '<|' + m.role + '|>\n' }}
    {%- if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}
    {{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"""
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA, "mistral": MISTRAL, "phi": PHI}

EOS, SPECIAL = "<|endoftext|>", ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|sep|>", "<|bos|>")
TEXT = "She sells sea shells by the sea shore;\n\nthe shells she sells are sea shells, user assistant system [INST] [/INST]\n" * 5
SPELLINGS = {"bos_token": "<|bos|>", "eos_token": EOS}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BPE tokenizer, as transformers opens it."""
    folder = tmp_path_factory.mktemp("model")
    BPE.train([TEXT], vocab_size=300, special_tokens=SPECIAL).save(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": "<|bos|>", "add_bos_token": False}))
    return folder


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> HuggingFace:
    return HuggingFace(directory)


@pytest.fixture(scope="module")
def theirs(directory: Path) -> Any:
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module", params=TEMPLATES)
def template(request: pytest.FixtureRequest) -> ChatTemplate:
    return ChatTemplate(TEMPLATES[request.param], SPELLINGS)


BYTES = Byte(special_tokens=SPECIAL)
PIECES = [*"sel \n\té😊<|>_", "shells", "\n\n", "She", "im_", "[INST]"]
CONTENT = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
CHATS = st.tuples(st.booleans(), st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=3)).map(
    lambda drawn: (
        *([Message("system", "Be kind.")] if drawn[0] else []),
        *(Message(role, said) for pair in drawn[1] for role, said in zip(("user", "assistant"), pair, strict=True)),
    )
)


def shown(chat: tuple[Message, ...]) -> Demonstration:
    return Demonstration((), chat, "a chat")


def trained(rendered: Rendered, tokenizer: Tokenizer) -> list[str]:
    """The texts that are trained, one for each run of trained ids."""
    texts, before = [], False
    for token_id, is_reply in zip(rendered.ids, rendered.is_reply, strict=True):
        if is_reply:
            texts += [] if before else [[]]
            texts[-1].append(token_id)
        before = is_reply
    return [tokenizer.decode(ids) for ids in texts]


@settings(max_examples=40, deadline=None)
@given(chat=CHATS)
def test_ids_and_mask_are_those_of_transformers(
    chat: tuple[Message, ...], template: ChatTemplate, tokenizer: HuggingFace, theirs: Any
) -> None:
    expected = theirs.apply_chat_template(
        [message._asdict() for message in chat], chat_template=template.source, return_dict=True, return_assistant_tokens_mask=True
    )
    ours = Examples(tokenizer, template).demonstration(shown(chat))
    length = len(ours.ids)
    assert ours.ids == expected["input_ids"][:length]
    assert ours.is_reply == [bool(mask) for mask in expected["assistant_masks"]][:length]
    assert ours.is_reply[-1] and not any(expected["assistant_masks"][length:])


@settings(max_examples=40, deadline=None)
@given(chat=CHATS)
def test_each_turn_is_trained_with_its_end_and_nothing_else(chat: tuple[Message, ...], template: ChatTemplate) -> None:
    trims, space, end = (
        "trim" in template.source,
        " " if "[INST]" in template.source else "",
        EOS if "[INST]" in template.source else "<|im_end|>",
    )
    said = [message.content for message in chat if message.role == "assistant"]
    expected = [f"{space}{text.strip() if trims else text}{end}" for text in said]
    assert trained(Examples(BYTES, template).demonstration(shown(chat)), BYTES) == expected


@settings(max_examples=40, deadline=None)
@given(chat=CHATS, other=CONTENT)
def test_a_prompt_and_its_reply_are_the_demonstration(chat: tuple[Message, ...], other: str, template: ChatTemplate) -> None:
    """Supervised training, the reward model and the policy read the same ids; here no token is longer than a byte."""
    examples = Examples(BYTES, template)
    asked, reply = chat[:-1], chat[-1:]
    rendered = examples.demonstration(Demonstration(asked, reply, ""))
    prompt = examples.prompt(asked)
    assert rendered.ids[: len(prompt)] == prompt
    assert rendered.is_reply == [False] * len(prompt) + [True] * (len(rendered.ids) - len(prompt))
    assert rendered.ids[-1] in examples.end_ids and examples.end_ids.isdisjoint(rendered.ids[len(prompt) : -1])
    chosen, rejected = examples.preference(Preference(asked, reply, (Message("assistant", other),), None, ""))
    assert chosen == rendered and rejected.ids[: len(prompt)] == prompt
    whole = examples.demonstration(shown(chat))
    assert whole.ids == rendered.ids  # more of it is trained
    assert [a or b for a, b in zip(whole.is_reply, rendered.is_reply, strict=True)] == whole.is_reply


@settings(max_examples=40, deadline=None)
@given(asked=CONTENT, reply=CONTENT)
def test_a_token_with_any_byte_of_the_reply_is_trained(asked: str, reply: str, tokenizer: HuggingFace) -> None:
    rendered = Examples(tokenizer).demonstration(Demonstration(asked, reply, ""))
    assert rendered.ids == [*tokenizer.encode(asked + reply), tokenizer.eos_id]
    position = 0
    for token_id, is_reply in zip(rendered.ids[:-1], rendered.is_reply[:-1], strict=True):
        position += len(tokenizer.token_bytes(token_id))
        assert is_reply == (position > len(asked.encode()))
    assert rendered.is_reply[-1]


def test_a_token_across_the_border_is_the_replys(tokenizer: HuggingFace) -> None:
    """Two line ends merge; counting the prompt's own tokens would leave the first token of the reply untrained."""
    assert len(tokenizer.encode("\n\n")) == 1
    rendered = Examples(tokenizer).demonstration(Demonstration("sea\n", "\nshells", ""))
    assert trained(rendered, tokenizer) == ["\n\nshells<|endoftext|>"]
    chat = Examples(tokenizer, ChatTemplate(CHATML)).demonstration(shown((Message("user", "sea"), Message("assistant", "\nshells"))))
    assert trained(chat, tokenizer) == ["\n\nshells<|im_end|>"]


def with_bos(folder: Path) -> HuggingFace:
    """As Llama's: BOS in front of every text."""
    library = Library(models.BPE())
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], show_progress=False)
    library.train_from_iterator([TEXT], trainer)
    library.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return HuggingFace(folder)


def test_there_is_one_bos_by_every_way(tmp_path: Path) -> None:
    tokenizer = with_bos(tmp_path)
    assert tokenizer.bos_id == 0 and tokenizer.pad_id == tokenizer.eos_id == 1
    chat = (Message("user", "<s>sea"), Message("assistant", "shells</s>"))
    for template, asked, reply in ((None, "<s>sea", "shells</s>"), (ChatTemplate.named("simple", tokenizer), chat[:1], chat[1:])):
        examples = Examples(tokenizer, template)
        prompt, rendered = examples.prompt(asked), examples.demonstration(Demonstration(asked, reply, ""))
        for ids in (
            prompt,
            rendered.ids,
            *(one.ids for one in examples.preference(Preference(asked, reply, asked if template is None else chat[1:], None, ""))),
        ):
            assert ids[0] == 0 and ids.count(0) == 1
        assert rendered.ids.count(1) == 1 and rendered.ids[-1] == 1 and rendered.is_reply[-1]  # EOS is trained, though it fills too
        assert not rendered.is_reply[0]


def test_contents_that_spell_special_tokens_change_no_mask(template: ChatTemplate) -> None:
    special = set(BYTES.special_tokens.values())
    spelled = "".join(SPECIAL) + "<|im_"
    plain = tuple(Message(role, "x") for role in ("user", "assistant") * 2)
    hostile = tuple(Message(message.role, spelled) for message in plain)
    ours = [Examples(BYTES, template).demonstration(shown(chat)) for chat in (plain, hostile)]
    kinds = [[(i, is_reply) for i, is_reply in zip(each.ids, each.is_reply, strict=True) if i in special] for each in ours]
    assert kinds[0] == kinds[1]
    assert [text.count("<|im_start|>") for text in trained(ours[1], BYTES)] == [1, 1]
    text = Examples(BYTES).demonstration(Demonstration(spelled, spelled, ""))
    assert [i for i in text.ids if i in special] == [BYTES.eos_id]


def test_turns_after_the_last_reply_are_left_out(template: ChatTemplate) -> None:
    chat = tuple(Message(role, "x") for role in ("user", "assistant", "user"))
    examples = Examples(BYTES, template)
    assert examples.demonstration(shown(chat)) == examples.demonstration(shown(chat[:2]))


def test_lone_surrogates_are_replaced_before_the_border_is_found() -> None:
    rendered = Examples(BYTES, ChatTemplate(CHATML)).demonstration(shown((Message("user", "\ud800"), Message("assistant", "\udc00 é"))))
    assert trained(rendered, BYTES) == ["\ufffd é<|im_end|>"]
    assert trained(Examples(BYTES).demonstration(Demonstration("\ud83d", "\ude00", "")), BYTES) == [f"\ufffd{EOS}"]


THINKS = CHATML.replace(
    "{{ m.content }}<|im_end|>{% endgen", "{% if loop.last %}<think></think>{% endif %}{{ m.content }}<|im_end|>{% endgen"
)
REFUSED = {
    "earlier turns rendered otherwise": (THINKS, "message 2 otherwise once more messages follow"),
    "asks otherwise": (
        CHATML.replace("assistant\n' }}{% endif %}", "assistant\n<think>' }}{% endif %}"),
        "begins message 2 otherwise than its",
    ),
    "no end": (CHATML.replace("<|im_end|>", ""), "ends an assistant's turn with no special token"),
    "no end of the first": (
        CHATML.replace("<|im_end|>{% endgen", "{% if m.content != 'x' %}<|im_end|>{% endif %}{% endgen"),
        "does not end message 2",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_templates_that_do_not_tell_where_replies_are(name: str) -> None:
    source, reason = REFUSED[name]
    chat = tuple(Message(role, said) for role, said in zip(("user", "assistant") * 2, "axby", strict=True))
    with pytest.raises(RequestError, match=reason) as refused:
        Examples(BYTES, ChatTemplate(source)).demonstration(shown(chat))
    assert "\n" not in str(refused.value)


def test_a_template_that_changes_earlier_turns_trains_the_last() -> None:
    """As Qwen3's does: what it puts between its generation prompt and the content is trained, since the model has to write it."""
    chat = tuple(Message(role, said) for role, said in zip(("user", "assistant") * 2, "axby", strict=True))
    rendered = Examples(BYTES, ChatTemplate(THINKS)).demonstration(Demonstration(chat[:3], chat[3:], ""))
    assert trained(rendered, BYTES) == ["<think></think>y<|im_end|>"]


def test_a_chat_without_a_reply_or_a_template() -> None:
    with pytest.raises(RequestError, match="no assistant's turn"):
        Examples(BYTES, ChatTemplate(CHATML)).demonstration(shown((Message("user", "x"),)))
    for render in (
        lambda: Examples(BYTES).prompt((Message("user", "x"),)),
        lambda: Examples(BYTES).demonstration(shown((Message("assistant", "x"),))),
    ):
        with pytest.raises(ConfigError, match="name one, such as chatml or simple"):
            render()
    assert Examples(BYTES).end_ids == {BYTES.eos_id}


def test_plain_text_takes_every_tokenizer_that_knows_its_ends(tmp_path: Path) -> None:
    make: list[Callable[[], Tokenizer]] = [Byte, lambda: BPE.train([TEXT], vocab_size=280), lambda: with_bos(tmp_path)]
    for tokenizer in (each() for each in make):
        rendered = Examples(tokenizer).demonstration(Demonstration("sea é", "shells é", ""))
        assert trained(rendered, tokenizer)[0].startswith("shells é")
