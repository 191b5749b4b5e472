"""What Prometheus reads from /metrics: counters, gauges and histograms as text, by hand.

Numbers are added on the event loop's thread alone.
"""

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Labels = tuple[tuple[str, str], ...]
WAITS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
PER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass
class Histogram:
    """How many values fell under each bound."""

    bounds: Sequence[float]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float, times: int = 1) -> None:
        """A value, several times."""
        self.counts[bisect.bisect_left(self.bounds, value)] += times
        self.total += value * times

    def lines(self, name: str, labels: Labels) -> list[str]:
        """As text."""
        lines, n = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            n += count
            lines.append(f"{name}_bucket{labels_text((*labels, ('le', bound)))} {n}")
        return [*lines, f"{name}_sum{labels_text(labels)} {self.total:.9g}", f"{name}_count{labels_text(labels)} {n}"]


class Counters:
    """Numbers that only grow, by what they are about."""

    def __init__(self) -> None:
        self.values: dict[Labels, float] = {}

    def add(self, n: float = 1, **labels: str) -> None:
        """So many more."""
        key = tuple(labels.items())
        self.values[key] = self.values.get(key, 0) + n


@dataclass
class ModelMetrics:
    """Of one model."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    cancelled: int = 0
    failed_steps: int = 0
    first_token_s: Histogram = field(default_factory=lambda: Histogram(WAITS_S))
    token_s: Histogram = field(default_factory=lambda: Histogram(PER_TOKEN_S))


def labels_text(labels: Labels) -> str:
    """As Prometheus writes them."""
    escaped = [(name, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for name, value in labels]
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}" if labels else ""


def family(name: str, kind: str, about: str, samples: Iterable[tuple[Labels, float | Histogram]]) -> list[str]:
    """One metric with all its samples."""
    lines = [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        lines += value.lines(name, labels) if isinstance(value, Histogram) else [f"{name}{labels_text(labels)} {value:.9g}"]
    return lines


def exposition(requests: Counters, models: Mapping[str, ModelMetrics], gauges: Mapping[str, Mapping[str, float]]) -> str:
    """Everything as text. `gauges`: of each model `running`, `waiting`, `blocks_used` and `blocks`."""

    def each(attribute: str) -> list[tuple[Labels, float | Histogram]]:
        return [((("model", name),), getattr(metrics, attribute)) for name, metrics in models.items()]

    def now(name: str) -> list[tuple[Labels, float]]:
        return [((("model", model),), values[name]) for model, values in gauges.items()]

    lines = family("openherd_requests_total", "counter", "Requests by path and status.", requests.values.items())
    lines += family("openherd_answers_running", "gauge", "Answers that are being written.", now("running"))
    lines += family("openherd_answers_waiting", "gauge", "Answers that wait for their turn.", now("waiting"))
    lines += family("openherd_cache_blocks_used", "gauge", "Blocks of the cache that running answers hold.", now("blocks_used"))
    lines += family("openherd_cache_blocks", "gauge", "Blocks of the cache.", now("blocks"))
    lines += family("openherd_prompt_tokens_total", "counter", "Tokens of prompts.", each("prompt_tokens"))
    lines += family("openherd_generated_tokens_total", "counter", "Tokens of answers.", each("generated_tokens"))
    lines += family("openherd_answers_cancelled_total", "counter", "Answers that nobody waited for any more.", each("cancelled"))
    lines += family("openherd_steps_failed_total", "counter", "Steps of the engine that raised.", each("failed_steps"))
    lines += family("openherd_first_token_seconds", "histogram", "From a request to its first token.", each("first_token_s"))
    lines += family("openherd_token_seconds", "histogram", "Between two tokens of an answer.", each("token_s"))
    return "\n".join(lines) + "\n"
