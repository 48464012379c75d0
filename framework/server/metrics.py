"""What Prometheus asks for: how much runs and waits, tokens, and how long readers wait for them; vLLM's names, with our prefix.

Tickets that have ended and the engines' own statistics flow in, Prometheus' text flows out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from framework.engine.engine import Statistics
from framework.server.models import Models
from framework.server.worker import Ticket

FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds
EACH_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
WHOLE_REQUEST = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
Reading = Callable[[Statistics], float]
GAUGES: Mapping[str, tuple[str, Reading]] = {
    "num_requests_running": ("replies that are computed now", lambda now: now.running),
    "num_requests_waiting": ("replies that wait for a place", lambda now: now.waiting),
    "cache_usage_ratio": ("used part of the cache's places", lambda now: now.cache_tokens_used / max(1, now.cache_tokens)),
}
COUNTERS: Mapping[str, tuple[str, Reading]] = {
    "prompt_tokens": ("tokens of prompts", lambda now: now.prompt_tokens),
    "generation_tokens": ("tokens of replies", lambda now: now.generated_tokens),
    "prefix_cache_hit_tokens": ("tokens of prompts that were in the cache already", lambda now: now.prefix_tokens_hit),
    "num_preemptions": ("replies that were put back to make room", lambda now: now.preemptions),
    "proposed_tokens": ("tokens that speculation guessed", lambda now: now.proposed_tokens),
    "accepted_tokens": ("guessed tokens that were right", lambda now: now.accepted_tokens),
}
PREFIX = "framework_"


class Metrics(Collector):
    """All numbers of one server.

    Args:
        models: whose engines are asked for their statistics; each number has the model's name as its label.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        self._registry = CollectorRegistry()
        label = ["model"]
        self._first = Histogram(
            f"{PREFIX}time_to_first_token_seconds", "from a request to its first token", label, buckets=FIRST_TOKEN, registry=self._registry
        )
        self._each = Histogram(
            f"{PREFIX}time_per_output_token_seconds", "between a reply's tokens", label, buckets=EACH_TOKEN, registry=self._registry
        )
        self._whole = Histogram(
            f"{PREFIX}request_seconds", "from a request to its end", label, buckets=WHOLE_REQUEST, registry=self._registry
        )
        self._ended = Counter(f"{PREFIX}replies", "replies by how they ended", [*label, "finish_reason"], registry=self._registry)
        self._registry.register(self)

    def observer(self, name: str) -> Callable[[Ticket], None]:
        """What takes note of a model's tickets as they end."""

        def observe(ticket: Ticket) -> None:
            self._whole.labels(name).observe(ticket.age)
            for reason, number in ticket.outcomes.items():
                self._ended.labels(name, reason).inc(number)
            if unfinished := ticket.num_replies - ticket.outcomes.total():
                self._ended.labels(name, "cancelled").inc(unfinished)
            if ticket.first_token is not None and ticket.last_token is not None:
                self._first.labels(name).observe(ticket.first_token - ticket.created)
                steps = ticket.num_tokens[1] / ticket.num_replies - 1
                if steps > 0:
                    self._each.labels(name).observe((ticket.last_token - ticket.first_token) / steps)

        return observe

    def collect(self) -> Iterator[Metric]:
        """The engines' own numbers, as of now."""
        for name, (text, read) in GAUGES.items():
            gauge = GaugeMetricFamily(PREFIX + name, text, labels=["model"])
            for model in self._models.values():
                gauge.add_metric([model.name], read(model.worker.statistics))
            yield gauge
        for name, (text, read) in COUNTERS.items():
            counter = CounterMetricFamily(PREFIX + name, text, labels=["model"])
            for model in self._models.values():
                counter.add_metric([model.name], read(model.worker.statistics))
            yield counter

    def text(self) -> bytes:
        """Everything, in Prometheus' format."""
        return generate_latest(self._registry)
