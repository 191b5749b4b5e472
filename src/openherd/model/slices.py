"""Which layers each stage of a pipeline has (paper 3.3.2). No torch here."""

import itertools


def stage_layers(n_layers: int, n_stages: int) -> list[range]:
    """The layers of each stage: as many each, and what is missing to that is taken from the last stage, which has the head too,
    from the first, which has the embedding, then inwards (paper 3.3.2: 126 layers are 128 less those two)."""
    each = -(-n_layers // n_stages)
    counts = [each] * n_stages
    inwards = itertools.chain.from_iterable((n_stages - 1 - i, i) for i in range(-(-n_stages // 2)))
    for stage in itertools.islice(inwards, each * n_stages - n_layers):
        counts[stage] -= 1
    ends = list(itertools.accumulate(counts))
    return [range(end - n, end) for end, n in zip(ends, counts, strict=True)]
