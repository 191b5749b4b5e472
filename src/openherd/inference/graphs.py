"""Steps in which each text has one token, as CUDA graphs: launching their operations one by one would take longer than they do.

A graph has fixed shapes: texts and lengths are rounded up to powers of two, and rows of no text write to places of no text. It is
captured when a shape first comes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from openherd.inference.paged import PagedAttend, Part
from openherd.model.rope import inverse_frequencies
from openherd.model.transformer import Transformer

SHORTEST = 256  # tokens


class Graphs:
    """One graph for each shape that came."""

    def __init__(self, model: Transformer, attend: PagedAttend, capture: bool = True) -> None:
        """Without `capture` the same operations are launched one by one, on any device."""
        self.model, self.attend, self.capture = model, attend, capture
        self.steps: dict[tuple[int, int], Step] = {}

    def run(self, tokens: Sequence[int], parts: Sequence[Part]) -> Tensor:
        """Final hidden states, shape (texts, D), of one token of each text; they hold until the next call."""
        rows, length = doubled(len(parts), 1), doubled(max(part.first for part in parts) + 1, SHORTEST)
        if (rows, length) not in self.steps:
            self.steps[rows, length] = Step(self.model, self.attend, rows, length, self.capture)
        return self.steps[rows, length].run(tokens, parts)


class Step:
    """Of one shape."""

    def __init__(self, model: Transformer, attend: PagedAttend, rows: int, length: int, capture: bool) -> None:
        self.attend, self.rows, self.length = attend, rows, length
        device = attend.keys_GSH.device
        # Token, position, new place and end of each row, and the places of its text: one copy to the device.
        self.given = torch.zeros(rows, 4 + length, dtype=torch.int64, device=device)
        token, position, new, end = self.given[:, :4].T
        place, all_rows = torch.arange(length, device=device), torch.arange(rows, device=device)
        frequencies = inverse_frequencies(model.config).to(device)  # a capture forbids copies from the host
        self.fill([], [])

        def compute() -> Tensor:
            behind = torch.zeros(rows, 1, length, device=device).masked_fill_((place >= end[:, None])[:, None], -torch.inf)
            attend.place_together(new.contiguous(), all_rows, self.given[:, 4:].flatten(), behind)
            return model.trunk(model.embed(token[None]), position[None], attend, frequencies)[0]

        self.compute: Callable[[], Tensor] = compute
        if capture:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # libraries prepare what a capture forbids
                for _ in range(2):
                    compute()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                out_TD = compute()

            def replay() -> Tensor:
                graph.replay()
                return out_TD

            self.compute = replay

    def fill(self, tokens: Sequence[int], parts: Sequence[Part]) -> None:
        """What is to be computed; rows of no text are one token long."""
        size = self.attend.size
        given = torch.zeros(self.rows, 4 + self.length, dtype=torch.int64)
        given[:, 2], given[:, 3] = self.attend.nowhere, 1
        for row, token, part in zip(given, tokens, parts, strict=False):
            places = (torch.tensor(part.blocks)[:, None] * size + torch.arange(size)).flatten()[: self.length]
            row[:4] = torch.tensor([token, part.first, int(places[part.first]), part.first + 1])
            row[4 : 4 + len(places)] = places
        self.given.copy_(given)

    def run(self, tokens: Sequence[int], parts: Sequence[Part]) -> Tensor:
        """See `Graphs.run`."""
        self.fill(tokens, parts)
        return self.compute()[: len(parts)]


def doubled(n: int, least: int) -> int:
    """The least power of two times `least` that is not below n."""
    while least < n:
        least *= 2
    return least
