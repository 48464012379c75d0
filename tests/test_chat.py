"""Chat templates: transformers' ids to the letter, special tokens only from the template, and no harm from either side."""

from __future__ import annotations

import json
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.chat import ChatTemplate, Message, sandbox
from framework.errors import CheckpointError, RequestError
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.bpe import BPE
from framework.tokenizers.byte import Byte
from framework.tokenizers.hugging_face import HuggingFace

CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
Be helpful.<|im_end|>
' }}{% endif %}{{ '<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

LLAMA3 = (
    "{{- bos_token }}\n{%- if not date_string is defined %}\n    {%- set date_string = '26 Jul 2024' %}\n{%- endif %}\n"
    "{%- for message in messages %}\n    {%- if message.role not in ['user', 'assistant', 'system'] %}\n"
    "        {{- raise_exception('unknown role') }}\n    {%- endif %}\n"
    "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n"
)

THINKING = """{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == "assistant" and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == "assistant" %}
        {%- generation %}{{ content ~ '<|im_end|>' }}{% endgeneration %}
    {%- else %}{{ content | trim | replace('\\t', ' ') ~ '<|im_end|>' }}{%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt and not tools is none %}{{ tools | tojson }}{% endif %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

# without any border, so that template and content merge into one token
GLUED = "{% for m in messages %}<|im_start|>{{ m.content }}ells{{ m.content }}<|im_end|>{% endfor %}"

LLAMA3_TOKENS = ("<|endoftext|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
# laid out over lines, whose breaks and indents around statements are no text
INDENTED = """
  {% for message in messages %}
    {% if message.role != 'system' %}
<|im_start|>{{ message.role }}
 {{ message.content | trim }}<|im_end|>
    {% endif %}
  {% endfor %}
  {% if add_generation_prompt %}
<|im_start|>
  {% endif %}
"""
TEMPLATES = {"indented": INDENTED, "chatml": CHATML, "llama3": LLAMA3, "thinking": THINKING, "glued": GLUED, "stripping": CHATML}
TEXT = "She sells sea shells by the sea shore; the shells she sells are sea shells, I'm sure.\n\nuser assistant system\n" * 5


@pytest.fixture(scope="module", params=TEMPLATES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a small BPE tokenizer and one of the templates."""
    directory = tmp_path_factory.mktemp(request.param)
    tokens = LLAMA3_TOKENS if request.param == "llama3" else CHATML_TOKENS
    BPE.train([TEXT], vocab_size=300, special_tokens=tokens).save(directory)
    if request.param == "stripping":  # as Phi-3's <|end|>, which takes the spaces and line breaks behind it
        content = json.loads((directory / "tokenizer.json").read_text())
        for token in content["added_tokens"]:
            token["rstrip"], token["lstrip"] = token["content"] == "<|im_end|>", token["content"] == "<|im_start|>"
        (directory / "tokenizer.json").write_text(json.dumps(content))
    config = json.loads((directory / "tokenizer_config.json").read_text())
    config["bos_token"] = "<|begin_of_text|>" if request.param == "llama3" else None
    if request.param == "chatml":
        (directory / "chat_template.jinja").write_text(TEMPLATES[request.param])
        config["chat_template"] = "not this one"
    else:
        config["chat_template"] = [{"name": "tools", "template": "nor this"}, {"name": "default", "template": TEMPLATES[request.param]}]
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module")
def theirs(model: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(model)


@pytest.fixture(scope="module")
def ours(model: Path) -> tuple[ChatTemplate, Tokenizer]:
    template = ChatTemplate.load(model)
    assert template is not None
    return template, HuggingFace(model)


PIECES = [*"sel \n\té😊<|>_", "shells", "</think>", "She", "im_", "user"]
CONTENT = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@settings(max_examples=60, deadline=None)
@given(contents=st.lists(CONTENT, min_size=1, max_size=4), system=st.booleans(), prompt=st.booleans())
def test_ids_are_those_of_transformers(
    theirs: Any, ours: tuple[ChatTemplate, Tokenizer], contents: list[str], system: bool, prompt: bool
) -> None:
    template, tokenizer = ours
    roles = (["system"] if system else []) + ["user", "assistant"] * 2
    messages = [Message(role, content) for role, content in zip(roles, contents)]
    chat = [message._asdict() for message in messages]
    expected = theirs.apply_chat_template(
        chat, tokenize=True, add_generation_prompt=prompt, return_dict=False, chat_template=template.source
    )
    assert template.render(messages, tokenizer, prompt) == expected


@settings(max_examples=60, deadline=None)
@given(data=st.data(), contents=st.lists(CONTENT, min_size=2, max_size=3))
def test_no_content_becomes_a_special_token(ours: tuple[ChatTemplate, Tokenizer], data: st.DataObject, contents: list[str]) -> None:
    """Spellings whole, in halves over two messages, and with what a template's filters take out in between."""
    template, tokenizer = ours
    special = set(tokenizer.special_tokens.values())

    def num_special(contents: list[str]) -> list[int]:
        roles = ["user", "assistant", "user"]
        return [i for i in template.render([Message(*turn) for turn in zip(roles, contents)], tokenizer) if i in special]

    pieces = [piece for token in tokenizer.special_tokens for piece in (token, token[:4], token[4:], token[:4] + "</think>" + token[4:])]
    hostile = [data.draw(st.sampled_from(pieces)) + content + data.draw(st.sampled_from(pieces)) for content in contents]
    assert num_special(hostile) == num_special(["" for _ in hostile])


def test_what_a_message_says_is_kept(ours: tuple[ChatTemplate, Tokenizer]) -> None:
    template, tokenizer = ours
    said = "a <|im_end|> b <|eot_id|>\udc00 c"
    assert "a <|im_end|> b <|eot_id|>\ufffd c" in tokenizer.decode(template.render([Message("user", said)], tokenizer))


def test_the_end_of_a_turn_is_found(model: Path, ours: tuple[ChatTemplate, Tokenizer]) -> None:
    template, tokenizer = ours
    spelling = "<|eot_id|>" if "llama3" in model.name else "<|im_end|>"
    assert template.end_ids(tokenizer) == {tokenizer.special_tokens[spelling]}


def test_no_template_and_damaged_ones(tmp_path: Path) -> None:
    assert ChatTemplate.load(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert ChatTemplate.load(tmp_path) is None
    for damaged in ("{", "[]", '{"chat_template": 5}', '{"chat_template": ["x"]}'):
        (tmp_path / "tokenizer_config.json").write_text(damaged)
        with pytest.raises(CheckpointError, match="chat template"):
            ChatTemplate.load(tmp_path)


def test_chats_that_cannot_be_rendered() -> None:
    tokenizer = Byte()
    chatml = ChatTemplate(CHATML)
    with pytest.raises(RequestError, match=r"role 'user<\|im_end\|>'; known: system"):
        chatml.render([Message("user<|im_end|>", "x")], tokenizer)
    with pytest.raises(RequestError, match="no messages"):
        chatml.render([], tokenizer)
    with pytest.raises(RequestError, match="TemplateError: never two in a row"):
        ChatTemplate("{{ raise_exception('never\n two in a row') }}").render([Message("user", "x")], tokenizer)


def test_special_tokens_put_together_from_pieces_are_refused() -> None:
    """They could not be told from what a message says."""
    with pytest.raises(RequestError, match=r"puts the special token <\|im_end\|> together from pieces"):
        ChatTemplate("{% for m in messages %}{{ m.content }}{{ '<|im_' + 'end|>' }}{% endfor %}").render([Message("user", "x")], Byte())


HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a long text": "{{ 'x' * 100000000 }}",
    "long in the making": "{{ ('x' * 100000000) | length }}{{ ('x' * 1000000000) | length }}",
    "long in pieces": "{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "doubling text": "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "doubling lists": "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "wide format": "{{ '%0999999999d' % 1 }}",
    "doubling calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "endless calls": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "long range": "{{ range(1000000000) | list }}",
    "big power": "{{ 9 ** (9 ** 9) }}",
    "python's classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "python's globals": "{{ raise_exception.__globals__['json'] }}",
    "through the loop": "{{ self.__init__.__globals__ }}",
    "by format": "{{ '{0.__class__.__init__.__globals__}'.format(namespace) }}",
    "changing messages": "{{ messages.append(1) }}",
    "a file": "{% include 'secret' %}",
    "no template": "{% for %}",
    "deep": "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_are_cut_off(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 1.0)
    with pytest.raises(RequestError, match="chat template cannot render this chat: ") as refused:
        ChatTemplate(HOSTILE[name] + CHATML).render([Message("user", "x")], Byte())
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 700


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="the system bounds no process's memory, or not by this means")
def test_memory_is_bounded_whatever_comes_of_it() -> None:
    with pytest.raises(RequestError, match="too much memory"):
        ChatTemplate("{% for m in messages %}{{ (m.content * 1000000000) | length }}{% endfor %}").render([Message("user", "x")], Byte())


def test_after_a_cut_the_next_chat_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 1.0)
    source = "{% if messages[-1].content == 'loop' %}" + HOSTILE["nested loops"] + "{% endif %}" + CHATML
    template, tokenizer = ChatTemplate(source), Byte()
    expected = ChatTemplate(CHATML).render([Message("user", "x")], tokenizer)
    assert template.render([Message("user", "x")], tokenizer) == expected
    with pytest.raises(RequestError, match="longer than"):
        template.render([Message("user", "loop")], tokenizer)
    assert template.render([Message("user", "x")], tokenizer) == expected


def test_threads_forks_and_copies_have_the_same_template() -> None:
    template, tokenizer = ChatTemplate(CHATML), Byte()
    contents = [f"message {number}" for number in range(20)]
    expected = [template.render([Message("user", content)], tokenizer) for content in contents]
    rendered: dict[int, list[int]] = {}

    def render(number: int) -> None:
        rendered[number] = template.render([Message("user", contents[number])], tokenizer)

    threads = [threading.Thread(target=render, args=(number,)) for number in range(len(contents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [rendered[number] for number in range(len(contents))] == expected
    assert pickle.loads(pickle.dumps(template)).render([Message("user", contents[0])], tokenizer) == expected[0]
    if not (child := os.fork()):  # as data workers do
        try:
            same = [template.render([Message("user", content)], tokenizer) for content in contents] == expected
        finally:
            os._exit(0 if same else 1)
    assert [template.render([Message("user", content)], tokenizer) for content in contents] == expected
    assert os.waitpid(child, 0)[1] == 0
