"""A forward pass as a page of HTML that stands alone. Numbers as `forward` makes them flow in, the page flows out; it holds them all.

Tables are HTML; page.js draws pictures from the same numbers.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from framework.inspection.document import document, embedded, facts, table, token_box

HERE = Path(__file__).parent
MOST_COLUMNS = 24  # the last tokens, for which the lens and the tables of layers have room
FEW_TOKENS = 12  # whose table is open from the start
Numbers = dict[str, Any]


def forward_page(numbers: Numbers) -> str:
    """The page of a forward pass, or of what a tokenizer makes of a text."""
    name = "tokens" if "tokenizer" in numbers else "forward pass"
    return document(
        f"{name}: {numbers['prompt'] or '(empty prompt)'}",
        _Body(numbers).html + embedded("numbers", numbers),
        (HERE / "page.css").read_text(encoding="utf-8"),
        (HERE / "page.js").read_text(encoding="utf-8"),
    )


class _Body:
    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers
        named = {str(token["id"]): token["text"] for token in numbers["tokens"]}
        self._texts: dict[str, str] = {**named, **numbers.get("texts", {})}

    @property
    def html(self) -> str:
        sections: list[tuple[str, Callable[[], str]]] = [("tokens", self._tokens)]
        if "model" in self._numbers:
            sections = [("network", self._network), *sections, ("embeddings", self._embeddings)]
            if self._numbers["layers"]:
                sections += [("layers", self._layers), ("logit lens", self._lens)]
            sections.append(("next token", self._cut))
            if self._numbers.get("experiments") or self._numbers.get("sweep"):
                sections.append(("experiments", self._experiments))
            sections.append(("generation loop", self._writing))
        links = "".join(f'<a href="#{_anchor(title)}">{title}</a>' for title, _ in sections) if len(sections) > 1 else ""
        made = "".join(f'<h2 id="{_anchor(title)}">{title}</h2>{section()}' for title, section in sections)
        return f"{f'<nav>{links}</nav>' if links else ''}{made}"

    def _box(self, token: int | str) -> str:
        return _box(self._texts[str(token)], f"id {token}")

    def _network(self) -> str:
        numbers = self._numbers
        described = [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in numbers["model"].items()]
        check = numbers["check"]
        described.append(("checked", f"logits differ from an ordinary forward's by {check['forward']:.1e} of the largest"))
        ends = (
            ""
            if numbers["layers"]
            else _note(f"{numbers['model']['class']} is no Transformer: between embeddings and logits nothing is known of it.")
        )
        if numbers["layers"]:
            described.append(("", f"patterns times values from what the heads read by {check['patterns']:.1e}"))
        return facts(described) + ends

    def _tokens(self) -> str:
        tokens, prompt = self._numbers["tokens"], self._numbers["prompt"]
        boxes = "".join(
            _box(each["text"], f"position {each['position']}, id {each['id']}", ["special"] if each["special"] else []) for each in tokens
        )
        about = f"{len(tokens)} tokens, {len(prompt)} characters, {len(prompt.encode())} bytes."
        if "tokenizer" in self._numbers:
            known = self._numbers["tokenizer"]
            back = "comes back" if self._numbers["comes_back"] else "does NOT come back"
            about += f" {known['class']}, {known['vocabulary']:,} ids; special: {', '.join(known['special']) or 'none'}. Decoded, the text {back}."
        rows = [
            [
                str(each["position"]),
                str(each["id"]),
                _box(each["text"], "", ["special"] if each["special"] else []),
                f"<code>{each['bytes']}</code>",
            ]
            for each in tokens
        ]
        listed = table(["position", "id", "text", "bytes"], rows, {0, 1})
        opened = " open" if len(tokens) <= FEW_TOKENS or "tokenizer" in self._numbers else ""
        return f'<p class="tokens">{boxes}</p>{_note(about)}<details{opened}><summary>ids and bytes</summary>{listed}</details>'

    def _embeddings(self) -> str:
        numbers = self._numbers["embedding"]
        note = _note(
            "Each token is a row of a table, picked by its id"
            + (
                "; a row of another table, picked by its position, is added."
                if numbers["position"]
                else "; positions come in later, by turning queries and keys."
            )
            + (" The sum is multiplied with the square root of the width." if numbers["scaled"] else "")
            + f" Tables: {', '.join(numbers['tables'])}."
        )
        columns = [(name, numbers[name]) for name in ("token", "position") if numbers[name]]
        if self._numbers["residual"]:
            columns.append(("goes into layer 0", self._numbers["residual"][0]))
        rows = [
            [str(place), _box(each["text"]), *(f"{norms[place]:g}" for _, norms in columns)]
            for place, each in enumerate(self._numbers["tokens"])
        ]
        listed = table(
            ["position", "text", *(f"norm of {name}" if name in numbers else name for name, _ in columns)],
            rows,
            {0, *range(2, 2 + len(columns))},
        )
        return note + f"<details><summary>norms</summary>{listed}</details>"

    def _layers(self) -> str:
        layers = self._numbers["layers"]
        left_out = [str(layer["layer"]) for layer in layers if not layer["patterns"]]
        note = _note(
            "Every layer reads the residual stream and adds to it: first what attention read from the tokens before, then what the feed-forward makes of "
            "each token alone. Its norm by layer (downwards, embeddings first) and token (to the right), the darker the larger; rest the pointer on a "
            "square for its number. Beside each layer are the norms of what it adds at the last token. Of queries, keys and values blue is over zero and violet under it."
        )
        missing = (
            _note(f"Patterns of layers {', '.join(left_out)} are left out to keep the page small; choose with --layers.")
            if left_out
            else ""
        )
        stream = '<figure class="residual"><canvas id="residual"></canvas></figure>'
        opened = next((layer["layer"] for layer in reversed(layers) if layer["patterns"]), None)
        return note + stream + missing + "".join(self._layer(layer, layer["layer"] == opened) for layer in layers)

    def _layer(self, layer: Numbers, opened: bool) -> str:
        number, residual = layer["layer"], self._numbers["residual"]
        columns = {
            "comes in": residual[number],
            "attention adds": layer["attention_adds"],
            "between": layer["middle"],
            "feed-forward adds": layer["feedforward_adds"],
            "goes out": residual[number + 1],
            f"zeros of {layer['inner_width']}": layer["zeros"],
        }
        rows = [
            [str(place), _box(each["text"]), *(f"{values[place]:g}" for values in columns.values()), f"{layer['near_zero'][place]:.1%}"]
            for place, each in list(enumerate(self._numbers["tokens"]))[-MOST_COLUMNS:]
        ]
        listed = table(["position", "text", *columns, "near zero"], rows, {0, *range(2, 9)})
        few = f" (the last {MOST_COLUMNS} tokens)" if len(self._numbers["tokens"]) > MOST_COLUMNS else ""
        window = f", a window of {layer['window']:,} tokens" if layer["window"] else ""
        last = f"attention adds {layer['attention_adds'][-1]:g}, feed-forward {layer['feedforward_adds'][-1]:g}{window}"
        return (
            f'<details data-layer="{number}"{" open" if opened else ""}><summary><b>layer {number}</b><span>{last}</span></summary>'
            f'<div class="heads"></div><div class="head"></div><h3>norms, and the feed-forward\'s activations{few}</h3>{listed}</details>'
        )

    def _lens(self) -> str:
        readings, tokens = self._numbers["lens"], self._numbers["tokens"]
        first = max(0, len(tokens) - MOST_COLUMNS)
        note = _note(
            "What would the network say if it stopped here? Each residual stream goes through the final norm and the output matrix: the likeliest next "
            "token after each token, the darker the likelier. The last row is what the network says."
            + (f" The first {first} tokens are left out here." if first else "")
        )
        top = "".join(f"<th>{_cell(each['text'])}</th>" for each in tokens[first:])
        body = "".join(
            f"<tr><th>{'embedding' if number == 0 else f'layer {number - 1}'}</th>{''.join(self._reading(each) for each in reading[first:])}</tr>"
            for number, reading in enumerate(readings)
        )
        return (
            f'{note}<div class="scroll"><table class="lens"><thead><tr><th>after</th>{top}</tr></thead><tbody>{body}</tbody></table></div>'
        )

    def _reading(self, reading: Numbers) -> str:
        token, probability = reading["top"][0]
        about = ", ".join(f"{self._texts[str(each)]!r} {value:.1%}" for each, value in reading["top"])
        about += f"; what the network ends with: {reading['final']:.1%}"
        return f'<td style="--p:{probability}" title="{html.escape(about)}">{_cell(self._texts[str(token)])}</td>'

    def _cut(self) -> str:
        found = self._numbers["cut"]
        stages = " → ".join(f"{html.escape(stage['name'])}: {stage['num_left']:,} left" for stage in found["stages"])
        rows = [
            [
                self._box(each["id"]),
                str(each["id"]),
                f"{each['logit']:g}",
                _share(each["before"]),
                _share(each["after"]) if each["after"] else '<span class="cut">cut</span>',
            ]
            for each in found["candidates"]
        ]
        note = f'<p class="note">Logits become probabilities (softmax), and the samplers reshape them. {stages or "No sampler changes anything."}</p>'
        return note + table(["token", "id", "logit", "the network's", "drawn with"], rows, {1, 2})

    def _experiments(self) -> str:
        made = []
        for each in self._numbers["experiments"]:
            change = each["logprob_after"] - each["logprob_before"]
            rows = [[self._box(token["id"]), _share(token["before"]), _share(token["after"])] for token in each["candidates"]]
            said = f"log-probability of {self._box(each['target'])}: {each['logprob_before']:.3f} → {each['logprob_after']:.3f} ({change:+.3f})"
            made.append(f"<h3>{html.escape(each['name'])}</h3><p>{said}</p>{table(['token', 'before', 'after'], rows)}")
        if sweep := self._numbers.get("sweep"):
            made.append(self._sweep(sweep))
        return "".join(made)

    def _sweep(self, sweep: Numbers) -> str:
        most = max(abs(value) for row in sweep["changes"] for value in row) or 1.0
        top = "".join(f"<th>{name}</th>" for name in sweep["columns"])
        body = "".join(
            f"<tr><th>layer {number}</th>"
            + "".join(
                f'<td class="number" style="--up:{max(value, 0) / most:.3f};--down:{max(-value, 0) / most:.3f}">{value:+.3f}</td>'
                for value in row
            )
            + "</tr>"
            for number, row in enumerate(sweep["changes"])
        )
        said = f"<p>How the log-probability of {self._box(sweep['target'])} changes without each part alone:</p>"
        return f'<h3>every part left out</h3>{said}<div class="scroll"><table class="changes"><thead><tr><th></th>{top}</tr></thead><tbody>{body}</tbody></table></div>'

    def _writing(self) -> str:
        written = self._numbers["writing"]
        rows = [
            [
                str(number),
                self._box(step["id"]),
                str(step["id"]),
                _share(step["probability"]),
                ", ".join(f"{self._box(token)} {probability:.0%}" for token, probability in step["top"]),
                str(step["tokens"]),
                f'<span class="blocks">{"▮" * min(step["blocks"], 40)}</span> {step["blocks"]}',
                f"{step['bytes']:,}",
                html.escape(step["finish_reason"] or ""),
            ]
            for number, step in enumerate(written["steps"], start=1)
        ]
        size = (
            f"{written['block_tokens']} tokens, {written['block_bytes']:,} bytes a block"
            if written["block_bytes"]
            else "this network has no cache"
        )
        same = "unchanged" if written["weights_before"] == written["weights_after"] else "CHANGED"
        note = _note(
            f"The prompt is read once, then one token at a time: each round the network sees only the newest token, everything earlier is in the cache of keys and values "
            f"({size}), which grows and is given back at the end. Nothing is learnt: SHA-256 of the weights before {written['weights_before'][:16]}…, "
            f"after {written['weights_after'][:16]}…: {same}."
        )
        head = ["step", "drawn", "id", "probability", "likeliest of those it was drawn from", "tokens cached", "blocks", "bytes", "end"]
        return note + table(head, rows, {0, 2, 5, 7})


def _box(text: str, about: str = "", kinds: Sequence[str] = ()) -> str:
    return token_box(text.replace("\n", "⏎"), about, kinds)


def _cell(text: str) -> str:
    """A token's text on one line, with what cannot be seen made visible."""
    text = text.replace("\n", "⏎").replace("\t", "⇥")
    return html.escape(text.replace(" ", "\u00a0") if text.strip(" ") else "␣" * len(text)) or "∅"


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def _share(probability: float) -> str:
    return f'<span class="share">{probability:.2%}</span><span class="bar" style="--p:{probability:.3f}"></span>'


def _anchor(title: str) -> str:
    return title.replace(" ", "-")
