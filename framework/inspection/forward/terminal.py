"""A forward pass for a terminal: a few lines a step, in colour or plain. Numbers as `forward` makes them flow in, lines flow out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from framework.inspection.terminal import DIM, RESET, SPECIAL, TRAINED, TRAINED_TOO

Numbers = dict[str, Any]
BOLD = "\033[1m"
SHADES = " .:-=+*#%@"  # from nothing to all
MOST_COLUMNS = 48  # tokens of a pattern that fit a line


class ForwardText:
    """The lines.

    Args:
        numbers: everything there is; what is not there is not shown.
        colour: whether there are colours.
        chosen: layers whose attention patterns are drawn.
    """

    def __init__(self, numbers: Numbers, colour: bool, chosen: Sequence[int] = ()) -> None:
        self._numbers, self._colour, self._chosen = numbers, colour, chosen
        named = {str(token["id"]): token["text"] for token in numbers["tokens"]}
        self._texts: dict[str, str] = {**named, **numbers.get("texts", {})}

    def lines(self) -> Iterator[str]:
        """All of them."""
        yield from self._tokens()
        if "model" in self._numbers:
            yield from self._model()
            yield from self._layers()
            yield from self._lens()
            yield from self._cut()
            yield from self._experiments()
            yield from self._writing()

    def _heading(self, text: str) -> str:
        return f"\n{BOLD}{text}{RESET}" if self._colour else f"\n{text}"

    def _dim(self, text: str) -> str:
        return f"{DIM}{text}{RESET}" if self._colour else text

    def _text(self, token: int | str) -> str:
        return _quoted(self._texts[str(token)])

    def _tokens(self) -> Iterator[str]:
        tokens = self._numbers["tokens"]
        prompt = self._numbers["prompt"]
        yield f"{len(tokens)} tokens, {len(prompt)} characters, {len(prompt.encode())} bytes"
        yield self._boxes(tokens)
        if "tokenizer" in self._numbers:
            about = self._numbers["tokenizer"]
            yield f"{about['class']}: {about['vocabulary']:,} ids, special: {', '.join(about['special']) or 'none'}"
            yield "decoded, the text comes back" if self._numbers["comes_back"] else "decoded, the text does NOT come back"
        yield self._dim(f"{'position':>8} {'id':>8}  {'bytes':24}  text")
        for token in tokens:
            special = "  (special)" if token["special"] else ""
            yield f"{token['position']:>8} {token['id']:>8}  {token['bytes']:24}  {_quoted(token['text'])}{special}"

    def _boxes(self, tokens: Sequence[Numbers]) -> str:
        if not self._colour:
            return "|".join(_visible(token["text"]) for token in tokens)
        styles = (TRAINED, TRAINED_TOO)
        return "".join(
            f"{SPECIAL if token['special'] else styles[place % 2]}{_visible(token['text'])}{RESET}" for place, token in enumerate(tokens)
        )

    def _model(self) -> Iterator[str]:
        numbers = self._numbers
        facts = (f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}" for name, value in numbers["model"].items())
        yield self._heading("the network")
        yield ", ".join(facts)
        check = numbers["check"]
        yield self._dim(
            f"checked: these logits differ from an ordinary forward's by {check['forward']:.1e} of the largest, "
            f"patterns times values from what the heads read by {check['patterns']:.1e}"
        )
        embedding = numbers["embedding"]
        for name in ("token", "position"):
            if embedding[name]:
                yield f"norms of the {name} embeddings: {_span(embedding[name])}"
        yield self._dim(f"tables: {', '.join(embedding['tables'])}")
        if not numbers["layers"]:
            yield f"{numbers['model']['class']} is no Transformer: between embeddings and logits nothing is known of it"

    def _layers(self) -> Iterator[str]:
        layers, tokens = self._numbers["layers"], self._numbers["tokens"]
        if not layers:
            return
        yield self._heading("the layers, at the last token (norms)")
        yield self._dim(
            f"{'layer':>5} {'comes in':>9} {'attention +':>12} {'feedforward +':>14} {'goes out':>9} {'zeros':>7} {'near 0':>7}  heads look most at"
        )
        for layer in layers:
            number, width = layer["layer"], layer["inner_width"]
            places = Counter(place for place, _ in layer["most"]).most_common()
            sees = ", ".join(f"{place} {_quoted(tokens[place]['text'])}{f' x {times}' if times > 1 else ''}" for place, times in places)
            yield (
                f"{number:>5} {self._numbers['residual'][number][-1]:>9.4g} {layer['attention_adds'][-1]:>12.4g} "
                f"{layer['feedforward_adds'][-1]:>14.4g} {self._numbers['residual'][number + 1][-1]:>9.4g} "
                f"{layer['zeros'][-1] / width:>7.1%} {layer['near_zero'][-1]:>7.1%}  {sees}"
            )
        for number in self._chosen:
            yield from self._patterns(layers[number], tokens)

    def _patterns(self, layer: Numbers, tokens: Sequence[Numbers]) -> Iterator[str]:
        shared = len(layer["patterns"]) // len(layer["matrices"]["key"])
        for number, head in enumerate(layer["patterns"]):
            of = {kind: layer["matrices"][kind][number if kind == "query" else number // shared] for kind in ("query", "key", "value")}
            yield self._heading(f"layer {layer['layer']}, head {number}")
            for (kind, matrix), letter in zip(of.items(), "QKV"):
                start, stop = matrix["rows"]
                yield self._dim(f"  {kind:6} W_{letter} = {matrix['name']} rows {start}:{stop}, {stop - start} x {matrix['num_inputs']}")
            left_out = max(0, len(tokens) - MOST_COLUMNS)
            for place, row in list(enumerate(head))[left_out:]:
                shades = "".join(SHADES[min(int(weight * len(SHADES)), len(SHADES) - 1)] * 2 for weight in row[left_out:])
                yield f"  {place:>4} {_quoted(tokens[place]['text'][:12]):>14} |{shades}"
            if left_out:
                yield f"  (the first {left_out} tokens are left out here)"

    def _lens(self) -> Iterator[str]:
        readings = self._numbers["lens"]
        if not readings:
            return
        final = self._numbers["cut"]["candidates"][0]["id"]
        yield self._heading(
            f"the logit lens: what would follow the last token, read off after each layer ({self._text(final)} is the network's)"
        )
        for number, reading in enumerate(readings):
            name = "embedding" if number == 0 else f"layer {number - 1}"
            last = reading[-1]
            guesses = ", ".join(f"{self._text(token)} {probability:.1%}" for token, probability in last["top"])
            yield f"{name:>10}  {last['final']:>6.1%}  {guesses}"

    def _cut(self) -> Iterator[str]:
        found = self._numbers["cut"]
        stages = " -> ".join(f"{stage['name']}: {stage['num_left']:,} left" for stage in found["stages"])
        yield self._heading("the next token")
        yield f"samplers: {stages or 'none, every token may be drawn'}"
        yield self._dim(f"{'id':>8} {'logit':>9} {'network':>8} {'drawn':>8}  text")
        for each in found["candidates"]:
            drawn = f"{each['after']:8.2%}" if each["after"] else "     cut"
            yield f"{each['id']:>8} {each['logit']:>9.4g} {each['before']:>8.2%} {drawn}  {self._text(each['id'])}"

    def _experiments(self) -> Iterator[str]:
        for each in self._numbers.get("experiments", ()):
            change = each["logprob_after"] - each["logprob_before"]
            yield self._heading(each["name"])
            yield f"log-probability of {self._text(each['target'])}: {each['logprob_before']:.3f} -> {each['logprob_after']:.3f} ({change:+.3f})"
            for token in each["candidates"]:
                yield f"  {token['before']:>7.2%} -> {token['after']:>7.2%}  {self._text(token['id'])}"
        if sweep := self._numbers.get("sweep"):
            yield self._heading(f"change in the log-probability of {self._text(sweep['target'])} without each part")
            yield self._dim(f"{'layer':>5} " + " ".join(f"{name:>11}" for name in sweep["columns"]))
            for number, row in enumerate(sweep["changes"]):
                yield f"{number:>5} " + " ".join(f"{value:>+11.3f}" for value in row)

    def _writing(self) -> Iterator[str]:
        written = self._numbers["writing"]
        yield self._heading("the generation loop, token by token")
        yield self._dim(f"{'step':>4} {'cached':>7} {'blocks':>7} {'bytes':>10} {'id':>8} {'p':>7}  text")
        for number, step in enumerate(written["steps"], start=1):
            end = f"  ({step['finish_reason']}: its blocks are given back)" if step["finish_reason"] else ""
            yield (
                f"{number:>4} {step['tokens']:>7} {step['blocks']:>7} {step['bytes']:>10,} {step['id']:>8} {step['probability']:>7.2%}  "
                f"{self._text(step['id'])}{end}"
            )
        same = written["weights_before"] == written["weights_after"]
        yield self._dim(f"SHA-256 of the weights before and after: {written['weights_before'][:16]} {'unchanged' if same else 'CHANGED'}")


def _visible(text: str) -> str:
    """Text that moves no cursor: what cannot be printed is spelled out."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _quoted(text: str) -> str:
    return f"'{_visible(text)}'"


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.4g} to {max(values):.4g}"
