"""A forward pass as plain numbers: what --json writes, what the page shows and what the terminal shows a part of.

Shape legend: T tokens, V vocabulary, H heads, Q head width, N candidates.
A generator, a trace and experiments flow in, dictionaries of JSON values flow out, rounded to four digits. Must not know how they
are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from framework.engine.request import Request
from framework.generation.generator import Generator
from framework.inspection.forward.experiments import Part
from framework.inspection.forward.sampling import Cut, Written
from framework.inspection.forward.trace import Layer, Trace, blocks_of, head_matrices, lens, transformer_of
from framework.inspection.tokens import token_text
from framework.networks.base import Network
from framework.tokenizers.base import Tokenizer

Numbers = dict[str, Any]
MOST_PATTERNS, MOST_VECTORS = 100_000, 25_000  # numbers of attention patterns, and of queries, keys and values, that are kept
LENS_TOKENS = 64  # the last ones, at which the lens is held
NEAR_ZERO = 0.01  # of a token's largest activation


def tokens(tokenizer: Tokenizer, ids: Sequence[int]) -> list[Numbers]:
    """What each token is."""
    special = frozenset(tokenizer.special_tokens.values())
    return [
        {
            "position": position,
            "id": token,
            "bytes": tokenizer.token_bytes(token).hex(" "),
            "text": token_text(tokenizer, token),
            "special": token in special,
        }
        for position, token in enumerate(ids)
    ]


def tokenization(tokenizer: Tokenizer, text: str) -> Numbers:
    """What a tokenizer makes of a text, and whether it comes back."""
    ids = tokenizer.encode_prompt(text)
    plain = tokenizer.encode(text)
    return {
        "prompt": text,
        "tokenizer": {
            "class": type(tokenizer).__name__,
            "vocabulary": tokenizer.vocab_size,
            "special": dict(tokenizer.special_tokens),
            "fingerprint": tokenizer.fingerprint,
        },
        "characters": len(text),
        "bytes": len(text.encode()),
        "comes_back": tokenizer.decode(plain) == text,
        "tokens": tokens(tokenizer, ids),
    }


class Account:
    """Turns what was observed into numbers.

    Args:
        generator: whose network and tokenizer it is.
        trace: of the prompt.
        num_top: candidates that are shown.
    """

    def __init__(self, generator: Generator, trace: Trace, num_top: int = 10) -> None:
        self.network: Network = generator.engine.network
        self._tokenizer, self._vocab_size, self._trace, self._num_top = generator.tokenizer, generator.vocab_size, trace, num_top
        self._named: set[int] = set()
        self.baseline_V = self.logprobs(trace.logits_TV[-1])
        self.target = int(self.baseline_V.argmax())

    def logprobs(self, logits: Tensor) -> Tensor:
        """Log-probabilities of the ids that the tokenizer knows, any leading shape."""
        return logits[..., : self._vocab_size].float().log_softmax(-1)

    def forward(self, prompt: str, chosen: Sequence[int] = ()) -> Numbers:
        """The pass from tokens to logits.

        Args:
            prompt: the text.
            chosen: layers whose patterns and vectors are kept; none: as many as there is room for.
        """
        trace = self._trace
        patterns, vectors = self._kept(chosen)
        return {
            "prompt": prompt,
            "model": self._model(),
            "check": {"forward": _round(trace.difference), "patterns": _round(trace.pattern_difference)},
            "tokens": tokens(self._tokenizer, trace.ids),
            "embedding": self._embedding(),
            "residual": [_norms(stream_TD) for stream_TD in self._streams()],
            "lens_from": max(0, len(trace.ids) - LENS_TOKENS),
            "lens": self._lens(),
            "layers": [self._layer(number, layer, number in patterns, number in vectors) for number, layer in enumerate(trace.layers)],
        }

    def cut(self, found: Cut) -> Numbers:
        """The next token's candidates, and what the samplers left of them."""
        self._named.update(candidate.token_id for candidate in found.candidates)
        return {
            "stages": [stage._asdict() for stage in found.stages],
            "candidates": [
                {"id": each.token_id, "logit": _round(each.logit), "before": _round(each.before), "after": _round(each.after)}
                for each in found.candidates
            ],
        }

    def experiment(self, name: str, logits_V: Tensor) -> Numbers:
        """What became of the likeliest token and of the top candidates."""
        after_V = self.logprobs(logits_V)
        ids = sorted({*self._best(self.baseline_V, 5), *self._best(after_V, 5)}, key=lambda token: -float(self.baseline_V[token]))
        self._named.update(ids)
        return {
            "name": name,
            "target": self.target,
            "logprob_before": _round(float(self.baseline_V[self.target])),
            "logprob_after": _round(float(after_V[self.target])),
            "candidates": [
                {"id": token, "before": _round(float(self.baseline_V[token].exp())), "after": _round(float(after_V[token].exp()))}
                for token in ids
            ],
        }

    def sweep(self, parts: Sequence[Sequence[Part]], logits: Iterable[Tensor]) -> Numbers:
        """How the likeliest token's log-probability changes without each part, a row a layer."""
        flat = [float(self.logprobs(logits_V)[self.target] - self.baseline_V[self.target]) for logits_V in logits]
        columns = [f"head {part.head}" if part.kind == "head" else part.kind for part in parts[0]]
        rows = [flat[start : start + len(columns)] for start in range(0, len(flat), len(columns))]
        return {"target": self.target, "columns": columns, "changes": [[_round(value) for value in row] for row in rows]}

    def written(self, reply: Written, request: Request) -> Numbers:
        """The loop in which the engine wrote."""
        self._named.update(token for step in reply.steps for token in (step.token_id, *(token for token, _ in step.top)))
        steps = [
            {
                "id": step.token_id,
                "probability": _round(step.probability),
                "top": [[token, _round(float(torch.tensor(logprob).exp()))] for token, logprob in step.top],
                "tokens": step.num_tokens,
                "blocks": step.cache_blocks,
                "bytes": step.cache_blocks * reply.block_bytes,
                "finish_reason": step.finish_reason,
            }
            for step in reply.steps
        ]
        return {
            "text": self._tokenizer.decode([step.token_id for step in reply.steps if step.token_id not in request.stop_ids]),
            "steps": steps,
            "block_tokens": reply.block_tokens,
            "block_bytes": reply.block_bytes,
            "weights_before": reply.weights_before,
            "weights_after": reply.weights_after,
        }

    def texts(self) -> dict[str, str]:
        """The text of every id that the other numbers name beside the prompt's."""
        return {str(token): token_text(self._tokenizer, token) for token in sorted(self._named)}

    def _model(self) -> Numbers:
        network, transformer = self.network, transformer_of(self.network)
        facts: Numbers = {
            "class": type(network).__name__,
            "parameters": network.num_parameters(),
            "vocabulary": network.vocab_size,
            "context": network.context_length,
        }
        if transformer is None:
            return facts
        shape = transformer.shape
        return facts | {
            "layers": shape.num_layers,
            "width": shape.width,
            "heads": shape.num_heads,
            "key-value heads": shape.kv_heads,
            "head width": shape.query_width,
            "feed-forward": f"{shape.feedforward}, {shape.inner_width} wide",
            "norm": shape.norm,
            "positions": shape.positions,
            "type": str(transformer.norm.weight.dtype).removeprefix("torch."),
        }

    def _embedding(self) -> Numbers:
        trace, transformer = self._trace, transformer_of(self.network)
        return {
            "scaled": transformer is not None and transformer.shape.scaled_embeddings,
            "token": None if trace.token_TD is None else _norms(trace.token_TD),
            "position": None if trace.position_TD is None else _norms(trace.position_TD),
            "tables": [
                f"{name}.weight {list(module.weight.shape)}"
                for name, module in self.network.named_modules()
                if isinstance(module, torch.nn.Embedding)
            ],
        }

    def _streams(self) -> list[Tensor]:
        """The residual stream before the first block and after each."""
        layers = self._trace.layers
        return [layers[0].before_TD, *(layer.after_TD for layer in layers)] if layers else []

    def _lens(self) -> list[list[Numbers]]:
        """For each residual stream and each of the last tokens: the likeliest next tokens, and the probability of what the network ends with."""
        final_T1 = self._trace.logits_TV[-LENS_TOKENS:, : self._vocab_size].argmax(-1, keepdim=True)
        readings = []
        for stream_TD in self._streams():
            logprobs_TV = self.logprobs(lens(self.network, stream_TD[-LENS_TOKENS:]))
            finals = logprobs_TV.gather(-1, final_T1)[:, 0].exp().tolist()
            rows = [self._best(logprobs_V, 3) for logprobs_V in logprobs_TV]
            self._named.update(token for ids in rows for token in ids)
            readings.append(
                [
                    {"top": [[token, _round(float(logprobs_V[token].exp()))] for token in ids], "final": _round(final)}
                    for ids, logprobs_V, final in zip(rows, logprobs_TV, finals)
                ]
            )
        return readings

    def _layer(self, number: int, layer: Layer, patterns: bool, vectors: bool) -> Numbers:
        transformer = transformer_of(self.network)
        assert transformer is not None
        matrices = {kind: [each._asdict() for each in heads] for kind, heads in head_matrices(self.network, number).items()}
        projections = {"query": layer.queries_THQ, "key": layer.keys_TKQ, "value": layer.values_TKQ}
        largest_T1 = layer.inner_TF.abs().amax(-1, keepdim=True)
        return {
            "layer": number,
            "window": blocks_of(transformer)[number].attention.window,
            "matrices": matrices,
            "norms": {kind: [_norms(heads_TQ) for heads_TQ in each.unbind(1)] for kind, each in projections.items()} if patterns else None,
            "vectors": {kind: _table(each.transpose(0, 1)) for kind, each in projections.items()} if vectors else None,
            "patterns": [[_row(row[: place + 1]) for place, row in enumerate(head)] for head in layer.pattern_HTS] if patterns else None,
            "most": [[int(row.argmax()), _round(float(row.max()))] for row in layer.pattern_HTS[:, -1]],
            "read": [_norms(heads_TQ) for heads_TQ in layer.mixed_THQ.unbind(1)] if patterns else None,
            "attention": _norms(layer.attention_TD),
            "attention_adds": _norms(layer.middle_TD - layer.before_TD),
            "middle": _norms(layer.middle_TD),
            "feedforward": _norms(layer.feedforward_TD),
            "feedforward_adds": _norms(layer.after_TD - layer.middle_TD),
            "inner_width": layer.inner_TF.shape[1],
            "zeros": [int(count) for count in (layer.inner_TF == 0).sum(-1)],
            "near_zero": _row((layer.inner_TF.abs() < NEAR_ZERO * largest_T1).float().mean(-1)),
        }

    def _kept(self, chosen: Sequence[int]) -> tuple[set[int], set[int]]:
        """The layers whose patterns, and whose vectors, are kept."""
        layers = self._trace.layers
        if not layers or chosen:
            return set(chosen), set(chosen)
        first, num_tokens = layers[0], len(self._trace.ids)
        pattern = len(first.pattern_HTS) * num_tokens * (num_tokens + 1) // 2
        vector = first.queries_THQ.numel() + 2 * first.keys_TKQ.numel()
        return _spread(len(layers), MOST_PATTERNS // pattern), _spread(len(layers), MOST_VECTORS // vector)

    @staticmethod
    def _best(logprobs_V: Tensor, count: int) -> list[int]:
        ids: list[int] = logprobs_V.topk(min(count, len(logprobs_V))).indices.tolist()
        return ids


def _spread(num_layers: int, room: int) -> set[int]:
    """So many layers, evenly from the last backwards."""
    room = min(room, num_layers)
    return {num_layers - 1 - place * num_layers // room for place in range(room)}


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def _row(values: Tensor) -> list[float]:
    return [round(value, 3) for value in values.tolist()]


def _norms(rows_TD: Tensor) -> list[float]:
    return [_round(value) for value in rows_TD.float().norm(dim=-1).tolist()]


def _table(heads_HTQ: Tensor) -> list[list[list[float]]]:
    return [[[float(f"{value:.3g}") for value in row] for row in head] for head in heads_HTQ.tolist()]
